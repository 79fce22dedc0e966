"""What a trainer meets in the wild, through the command line: each input with its exit code and its one line.

Uploads over a size limit and hostile image names in a request belong to a server, of which there is none yet.
"""

import json
import os
import pickle
import re
import shutil
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sets import encode, pixels, sample_files, write_folder, write_tar, write_zip
from PIL import Image

from daybreak import cli
from daybreak.core.errors import DaybreakError, RunError
from daybreak.data import open_dataset
from daybreak.runs.directory import RunDirectory
from daybreak.training import checkpoint

GOOD = encode(pixels(1, side=64)[0], "JPEG")


def with_files(files: dict[str, bytes]) -> Callable[[Path], list[object]]:
    """`daybreak data` on a good folder with these files beside the others."""
    return lambda place: ["data", write_folder(place / "set", sample_files() | files)]


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def giant_png() -> bytes:
    """A PNG that says 50,000 × 50,000 in its header and has nothing in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def frames() -> bytes:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    return saved(first, "GIF", save_all=True, append_images=[second])


def see_through() -> Image.Image:
    """A picture of two palette colours, of which the first will be transparent."""
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    return image


def linked(target: str, to_folder: bool = False) -> Callable[[Path], list[object]]:
    def build(place: Path) -> list[object]:
        folder = write_folder(place / "set", sample_files())
        (place / "secret.png").write_bytes(encode(pixels(1)[0]))
        (folder / "train" / "ant" / "9.png").symlink_to(target, target_is_directory=to_folder)
        return ["data", folder]

    return build


def empty_class(place: Path) -> list[object]:
    (write_folder(place / "set", sample_files()) / "train" / "dodo").mkdir()
    return ["data", place / "set"]


def only(*classes: str) -> Callable[[Path], list[object]]:
    return lambda place: ["data", write_zip(place / "set.zip", sample_files(classes=classes))]


def same_pixels(first: str, second: str) -> Callable[[Path], list[object]]:
    return with_files({first: GOOD, second: GOOD})


def strictly(first: str, second: str) -> Callable[[Path], list[object]]:
    build = same_pixels(first, second)
    return lambda folder: [*build(folder), "--strict"]


def recipe_file(text: str) -> Callable[[Path], list[object]]:
    def build(folder: Path) -> list[object]:
        (folder / "mine.toml").write_text(text)
        return ["train", "digits", "--recipe", folder / "mine.toml"]

    return build


# What it is, how to make it (a command), exit code, and what the error's line, or the JSON where there is none, says.
EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6
SEVEN = '"images": 7'
TURNED = saved(Image.new("RGB", (8, 6)), "JPEG", exif=EXIF)
DEEP = saved(Image.new("I;16", (8, 8), 40_000), "PNG")
CMYK = saved(Image.new("CMYK", (8, 8)), "JPEG")
PALETTE = saved(see_through(), "PNG", transparency=0)
THIN = saved(Image.new("RGB", (1, 10_000)), "PNG")
LATIN = os.fsdecode(b"train/ant/\xff.png")
INPUTS: list[tuple[str, Callable[[Path], list[object]], int, str]] = [
    ("zero bytes", with_files({"train/ant/x.png": b""}), 3, "x.png: empty file"),
    ("a truncated JPEG", with_files({"train/ant/x.jpg": GOOD[:-300]}), 3, "x.jpg: cannot be decoded .*truncated"),
    ("text as .jpg", with_files({"train/ant/x.jpg": b"hello"}), 3, "x.jpg: not an image"),
    ("a giant PNG", with_files({"train/ant/x.png": giant_png()}), 3, "x.png: .*more than 64 million"),
    ("EPS as .png", with_files({"train/ant/x.png": b"%!PS-Adobe-3.0 EPSF-3.0\n"}), 3, "x.png: not an image"),
    ("EXIF rotation", with_files({"train/ant/x.jpg": TURNED}), 0, SEVEN),
    ("CMYK", with_files({"train/ant/x.jpg": CMYK}), 0, "1 CMYK image converted"),
    ("16 bits", with_files({"train/ant/x.png": DEEP}), 0, SEVEN),
    ("palette and alpha", with_files({"train/ant/x.png": PALETTE}), 0, SEVEN),
    ("an animation", with_files({"train/ant/x.gif": frames()}), 0, "1 animated image: first frame used"),
    ("1 × 1", with_files({"train/ant/x.png": encode(pixels(1, side=1)[0])}), 0, "1 x 1"),
    ("1 × 10,000", with_files({"train/ant/x.png": THIN}), 0, SEVEN),
    ("a name that is not UTF-8", with_files({LATIN: encode(pixels(1)[0])}), 0, SEVEN),
    ("odd class names", only("<script>alert(1)", "=1+1|cmd!A0", "a\nb"), 0, re.escape('"a\\nb"')),
    ("a link loop", linked(".", to_folder=True), 0, '"images": 6'),
    ("a link out of the folder", linked("../../../secret.png"), 3, "9.png: the link leaves the data folder"),
    ("an empty class", empty_class, 3, "no images in class folder train/dodo"),
    ("one class", only("ant"), 3, "two classes or more"),
    ("other classes in the test part", with_files({"test/emu/1.png": GOOD}), 3, "no image in train: emu"),
    ("a test image of the training part", same_pixels("train/ant/x.jpg", "test/ant/x.jpg"), 0, '"duplicates": 1'),
    ("one picture, two labels", same_pixels("train/ant/x.jpg", "train/bee/x.jpg"), 0, '"conflicts": 1'),
    ("the same, --strict", strictly("train/ant/x.jpg", "test/ant/x.jpg"), 3, "1 test image also in the training part"),
    ("two labels, --strict", strictly("train/ant/x.jpg", "train/bee/x.jpg"), 3, "1 picture under two labels"),
    ("classes that differ in case", only("Ant", "ant", "bee"), 3, "differ only in case, blanks or Unicode form"),
    ("a file that cannot be read", linked("gone.png"), 3, "9.png: cannot be read"),
    ("a misspelt key", lambda _: ["train", "digits", "--set", "schedule.max_lrr=1"], 2, "try: 'schedule.max_lr'"),
    ("NaN as a rate", lambda _: ["train", "digits", "--set", "schedule.max_lr=NaN"], 2, "schedule.max_lr: .*finite"),
    ("code as a value", lambda _: ["train", "digits", "--set", "epochs=!!python/apply:os.abort []"], 2, "epochs: "),
    ("code in a recipe file", recipe_file("epochs = !!python/apply:os.abort []"), 2, "mine.toml: cannot be read"),
    ("a recipe file that is none", recipe_file("__import__ = 'os'"), 2, "mine.toml|unknown key|Field required"),
    ("a name that leads out", lambda p: ["data", write_zip(p / "x.zip", {"../x.png": GOOD})], 3, "unsafe name"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "code", "says"), [row[1:] for row in INPUTS], ids=[row[0] for row in INPUTS])
def test_an_input_gives_its_code_and_its_line(
    build: Callable[[Path], list[object]], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    command = [str(word) for word in build(tmp_path)]
    before = everything(tmp_path)
    assert cli._run([*command, "--json"]) == code
    out = capsys.readouterr()
    told = json.loads(out.out)
    errors = [line for line in out.err.splitlines() if line.startswith("error: ")]
    if code:
        assert errors == [f"error: {told['error']['what']}: {told['error']['why']}; try: {told['error']['try']}"]
        assert re.search(says, errors[0])
    else:
        assert not errors
        assert re.search(says, out.out)
    assert everything(tmp_path) == before


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def test_a_file_that_goes_after_the_first_look_is_not_missed(tmp_path: Path) -> None:
    dataset = open_dataset(write_folder(tmp_path / "set", sample_files()))
    before = np.array(dataset.train.images_NHWC)
    for path in (tmp_path / "set").rglob("*.png"):
        path.unlink()
    assert (dataset.train.images_NHWC == before).all()


# -- runs --------------------------------------------------------------------------------------------------------------


class Bomb:
    """Unpickling this makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.fixture(scope="module")
def run(digits_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = shutil.copytree(digits_run.path, tmp_path_factory.mktemp("hostile") / "run")
    (out / "image.png").write_bytes(encode(pixels(1)[0]))
    return out


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli._run(command) == 4
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "name", ["{url}/x.png", "../x.png", "%2e%2e/x.png", "a\0b.png", "file:///etc/hostname", "a\nb.png"]
)
def test_a_name_that_is_no_file_here_is_not_fetched(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        capsys.readouterr()
        assert cli._run(["predict", str(run), name.format(url=url)]) == 3
        (line,) = capsys.readouterr().err.splitlines()
        server.shutdown()
    assert line.startswith("error: ")
    assert "try: " in line
    assert not asked


def test_weights_that_are_a_pickle_run_nothing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, mark = run / "model.safetensors", tmp_path / "mark"
    good = weights.read_bytes()
    weights.write_bytes(pickle.dumps(Bomb(mark)))
    assert "model.safetensors" in refused(["predict", str(run), str(run / "image.png")], capsys)
    weights.write_bytes(good)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))  # negative control
    assert mark.exists()


def test_weights_of_another_class_count(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = run / "model.json"
    good = card.read_text()
    card.write_text(json.dumps(json.loads(good) | {"classes": ["a", "b", "c"]}))
    line = refused(["predict", str(run), str(run / "image.png")], capsys)
    card.write_text(good)
    assert re.search(r"10, .*3, ", line)  # both shapes


def test_a_run_of_a_newer_version(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = run / "model.json"
    good = card.read_text()
    card.write_text(json.dumps(json.loads(good) | {"format": 99}))
    assert refused(["predict", str(run), str(run / "image.png")], capsys).endswith("try: upgrade daybreak")
    card.write_text(good)


def test_a_recipe_of_a_newer_version(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run / "config.json"
    good = config.read_text()
    known = json.loads(good)
    config.write_text(json.dumps(known | {"recipe": known["recipe"] | {"colour": "red"}}))
    line = refused(["predict", str(run), str(run / "image.png")], capsys)
    config.write_text(good)
    assert "config.json: " in line
    assert "colour" in line
    assert line.endswith("try: upgrade daybreak")


def test_a_hundred_pickles_and_archives_run_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    """Fifty pickles, of every protocol and cut at odd places, as weights and as checkpoints; fifty archives whose names
    lead out of them."""
    mark, weights = tmp_path / "mark", run / "model.safetensors"
    good, state = weights.read_bytes(), next((run / "checkpoints").iterdir()) / checkpoint.TENSORS
    whole = state.read_bytes()
    for number in range(50):
        content = pickle.dumps([Bomb(mark)] * (1 + number % 5), protocol=number % 6) + b"\0" * (number // 10)
        weights.write_bytes(content)
        state.write_bytes(content)
        refused(["predict", str(run), str(run / "image.png")], capsys)
        with pytest.raises(checkpoint._DamagedError):
            checkpoint.read(state.parent)
    weights.write_bytes(good)
    state.write_bytes(whole)
    leading = ["../" * (1 + n % 4) + f"evil{n}.png" for n in range(20)]
    leading += [f"/tmp/evil{n}.png" for n in range(5)] + [f"train/../../evil{n}.png" for n in range(10)]
    leading += [f"C:/evil{n}.png" for n in range(5)] + [f"a\\..\\..\\evil{n}.png" for n in range(10)]
    for number, name in enumerate(leading):
        write, suffix = (write_zip, "zip") if number % 2 else (write_plain_tar, "tar")
        archive = write(tmp_path / f"{number}.{suffix}", {name: GOOD})
        assert cli._run(["data", str(archive)]) == 3
    assert len(leading) == 50
    assert not mark.exists()
    assert not [path for place in (tmp_path, tmp_path.parent, Path("/tmp")) for path in place.glob("evil*.png")]
    record_property("trials", 50 + len(leading))


def write_plain_tar(path: Path, files: dict[str, bytes]) -> Path:
    return write_tar(path, files, "w")


def test_flipped_bytes_in_an_archive_crash_nothing(tmp_path: Path) -> None:
    """Never a crash, never a path outside: the reader says what is wrong, or what is left is a data set."""
    rng, refusals = np.random.default_rng(0), 0
    for write, name in ((write_zip, "x.zip"), (write_plain_tar, "x.tar")):
        content = write(tmp_path / name, sample_files()).read_bytes()
        for _ in range(100):
            changed = bytearray(content)
            for at in rng.integers(len(content), size=3):
                changed[at] ^= 1 << int(rng.integers(8))
            (tmp_path / name).write_bytes(changed)
            try:
                open_dataset(tmp_path / name)
            except DaybreakError:
                refusals += 1
    assert refusals > 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar", "x.zip"]


def test_the_corpus_is_whole() -> None:
    """Thirty-one here; a file that goes and runs that cannot be used have tests of their own above."""
    assert len({name for name, *_ in INPUTS}) == len(INPUTS) == 31


def test_predictions_that_are_a_pickle_run_nothing(run: Path, tmp_path: Path) -> None:
    file, mark = run / "predictions.npz", tmp_path / "mark"
    good, bombs = file.read_bytes(), np.array([Bomb(mark)], dtype=object)
    np.savez(file, logits=bombs, logits_tta=bombs, labels=bombs, names=bombs)
    with pytest.raises(RunError, match=r"predictions\.npz: cannot be read .*; try: remove it"):
        RunDirectory.open(run).predictions()
    assert not mark.exists()
    zeros = np.zeros((1, 10), np.float32)
    np.savez(file, logits=zeros, logits_tta=zeros, labels=np.zeros(1, int), names=np.array([2**31], "<u4").view("<U1"))
    with pytest.raises(RunError, match=r"predictions\.npz: cannot be read \(has numbers in it that are no characters"):
        RunDirectory.open(run).predictions()
    np.savez(file, logits=zeros, logits_tta=zeros, labels=np.zeros(1, int))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("names.npy", b"no array")
    with pytest.raises(RunError, match=r"predictions\.npz: cannot be read \(a member is not an array\)"):
        RunDirectory.open(run).predictions()
    np.savez(file, logits=np.zeros((1, 10)))
    with pytest.raises(RunError, match=r"predictions\.npz: cannot be read .*logits_tta"):
        RunDirectory.open(run).predictions()
    file.write_bytes(good)
