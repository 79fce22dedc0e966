"""Image files that change while they are read, are larger than they may be, or are no files: found, bounded, or passed
over."""

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from image_sets import encode, pixels, sample_files, write_folder, write_tar, write_zip
from PIL import Image
from test_data_shards import samples, write_shards

from daybreak.core.errors import DataError
from daybreak.data import cache as entries
from daybreak.data import files, image, open_dataset, pieces
from daybreak.data import open as opening
from daybreak.data.image import BadImage, DecodeSpec, Header, decode, fit, read_header
from daybreak.evaluation.files import find_images, read_images

pytestmark = pytest.mark.usefixtures("cache")

OTHER = encode(pixels(1, seed=9)[0])
TRAIN = pixels(6, seed=0)  # the training images of all sets here


# -- files that change -------------------------------------------------------------------------------------------------


def put(path: Path, content: bytes) -> None:
    """Another file under this name."""
    new = path.with_name(".new")
    new.write_bytes(content)
    new.replace(path)


def write_table(root: Path, label: str = "") -> Path:
    """The images of a folder and a table of them; with `label` as that of the first."""
    write_folder(root, found := sample_files())
    rows = [f"{name},{name.split('/')[1]},{name.split('/')[0]}" for name in found]
    if label:
        rows[0] = f"train/ant/000.png,{label},train"
    (root / "all.csv").write_text("\n".join(["image,label,split", *rows]))
    return root / "all.csv"


def folder(place: Path) -> tuple[Path, Path, bytes]:
    return write_folder(place, sample_files()), place / "train/ant/000.png", OTHER


def gone(place: Path) -> tuple[Path, Path, bytes]:
    """A folder in which a file comes to be an image no more."""
    return write_folder(place, sample_files()), place / "train/ant/000.png", b""


def listed(place: Path) -> tuple[Path, Path, bytes]:
    return write_table(place), place / "train/ant/000.png", OTHER


def table(place: Path) -> tuple[Path, Path, bytes]:
    return write_table(place), place / "all.csv", write_table(place.with_name("other"), label="bee").read_bytes()


def archive(place: Path) -> tuple[Path, Path, bytes]:
    path = place.with_suffix(".zip")
    other = write_zip(path, sample_files() | {"train/ant/000.png": OTHER}).read_bytes()
    return write_zip(path, sample_files()), path, other


def shard(place: Path) -> tuple[Path, Path, bytes]:
    path = write_shards(place) / "train-000000.tar"
    return place, path, write_tar(place.with_suffix(".tar"), samples(7, 0, 4), "w").read_bytes()


@pytest.mark.parametrize("make", [folder, gone, listed, table, archive, shard])
def test_what_changes_while_it_is_decoded_is_not_kept(
    make: Callable[[Path], tuple[Path, Path, bytes]], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its images would be found for good under the sum of what was there before."""
    data, path, other = make(tmp_path / "set")
    good, write = path.read_bytes(), entries.write

    def late(*given: Any) -> None:
        put(path, other)
        write(*given)

    with monkeypatch.context() as patch:
        patch.setattr(entries, "write", late)
        skip = make is gone
        with pytest.raises(DataError, match=r"set.*: changed while it was read; try: again, once nobody writes there"):
            open_dataset(data, skip_bad=skip)
    assert list((cache / "decoded").iterdir()) == []
    put(path, good)
    dataset = open_dataset(data)
    np.testing.assert_array_equal(dataset.train.images_NHWC, TRAIN)
    assert dataset.train.labels_N.tolist() == [0, 0, 1, 1, 2, 2]


def test_pieces_of_what_has_changed_are_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C among the images of a changed folder, which is then put back."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 8 * 8 * 3)  # an image
    data, path, other = folder(tmp_path / "set")
    good, write, calls = path.read_bytes(), entries.write, list[bytes]()

    def late(*given: Any) -> None:
        put(path, other)
        write(*given)

    def interrupted(blob: bytes, spec: DecodeSpec) -> np.ndarray:
        calls.append(blob)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return decode(blob, spec)

    with monkeypatch.context() as patch:
        patch.setattr(entries, "write", late)
        patch.setattr(files, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_dataset(data)
    assert calls[0] == other
    put(path, good)
    np.testing.assert_array_equal(open_dataset(data).train.images_NHWC, TRAIN)


def test_shards_that_change_before_they_are_read_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard is replaced after it was found and before its content is summed up: its samples lie elsewhere now."""
    data, find = write_shards(tmp_path / "set"), opening.find

    def early(name: Any) -> Any:
        found = find(name)
        write_tar(data / "train-000000.tar", {"readme.md": bytes(5000), **samples(0, 0, 4)}, "w")
        return found

    monkeypatch.setattr(opening, "find", early)
    for skip_bad in (False, True):
        write_tar(data / "train-000000.tar", samples(0, 0, 4), "w")
        with pytest.raises(DataError, match="changed while it was read; try: again, once nobody writes there"):
            open_dataset(data, skip_bad=skip_bad)
    monkeypatch.undo()
    np.testing.assert_array_equal(open_dataset(data).train.images_NHWC, TRAIN)


# -- headers -----------------------------------------------------------------------------------------------------------


class Counting(io.FileIO):
    """A file that counts the bytes that are read of it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size) or b""
        self.count += len(content)
        return content


WEBP = b"RIFF\xff\xff\xff\x7fWEBPVP8 "
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
PNG += struct.pack(">I", zlib.crc32(PNG[12:])) + struct.pack(">I", 2**31 - 1) + b"iTXt"  # a text of two gigabytes


@pytest.mark.parametrize("size", [2**20 + 1, 2**33])
@pytest.mark.parametrize("begins", [WEBP, PNG], ids=["webp", "png"])
def test_of_a_file_that_is_too_large_no_more_is_read_than_an_image_may_have(
    begins: bytes, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow reads all of these to tell their size. (The limit is smaller here; the file has holes.)"""
    monkeypatch.setattr(image, "MAX_BYTES", 2**20)
    path = tmp_path / "x.webp"
    path.write_bytes(begins)
    os.truncate(path, size)
    with Counting(path) as file:
        with pytest.raises(BadImage, match=r"^more than 1 MiB$"):
            read_header(file)
        assert file.count <= 2**20 + image.PIECE_BYTES + 100


def test_a_large_file_in_a_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "MAX_BYTES", 2**20)
    path = write_folder(tmp_path / "set", sample_files() | {"train/ant/x.webp": WEBP}) / "train/ant/x.webp"
    os.truncate(path, 2**20 + 1)
    with pytest.raises(DataError, match=r"1 of 13 images cannot be used: train/ant/x.webp: more than 1 MiB"):
        open_dataset(tmp_path / "set")


def red_gif() -> bytes:
    """Whole but for its end, which begins another block."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "GIF")
    assert buffer.getvalue()[-1:] == b";"
    return buffer.getvalue()[:-1] + b"!"


def test_an_image_with_a_broken_end_has_a_header() -> None:
    assert read_header(io.BytesIO(red_gif())) == Header(8, 8, grey=False, cmyk=False, animated=False)


def test_the_only_colours_of_a_set_are_seen(tmp_path: Path) -> None:
    grey = {name: encode(pixels(1, channels=1)[0]) for name in sample_files()}
    dataset = open_dataset(write_folder(tmp_path / "set", grey | {"train/ant/x.gif": red_gif()}))
    assert dataset.decode == DecodeSpec(8, 3)
    assert dataset.train.images_NHWC[2].reshape(-1, 3).tolist() == [[255, 0, 0]] * 64


# -- conversions -------------------------------------------------------------------------------------------------------


def saved(picture: Image.Image, **options: Any) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    found = Image.open(buffer)
    found.load()
    return found


def see_through() -> dict[str, Image.Image]:
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (53, 53, 4), np.uint8))
    few = Image.fromarray(rng.integers(0, 9, (53, 53), np.uint8))
    palette = few.convert("P")
    palette.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
    with_alpha = palette.convert("PA")
    with_alpha.putalpha(rgba.getchannel("A"))
    return {
        "RGBA": rgba,
        "LA": Image.merge("LA", (few, rgba.getchannel("A"))),
        "PA": with_alpha,
        "P, a colour": saved(palette, transparency=3),
        "P, each colour": saved(palette, transparency=bytes(range(0, 252, 28))),
        "RGB, a colour": saved(Image.merge("RGB", (few, few, few)), transparency=(3, 3, 3)),
        "L, a colour": saved(few, transparency=3),
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", list(see_through()))
def test_an_image_is_laid_on_white_strip_by_strip(kind: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven rows at a time, and the pixels are those of all rows at once."""
    picture = see_through()[kind]
    on_white = Image.alpha_composite(Image.new("RGBA", (53, 53), "white"), picture.convert("RGBA"))
    expected = np.asarray(on_white.convert("L" if channels == 1 else "RGB")).reshape(53, 53, channels)
    sizes, composite = list[tuple[int, int]](), Image.alpha_composite

    def counted(below: Image.Image, above: Image.Image) -> Image.Image:
        sizes.append(above.size)
        return composite(below, above)

    monkeypatch.setattr(image, "STRIP_PIXELS", 7 * 53 + 5)
    monkeypatch.setattr(Image, "alpha_composite", counted)
    np.testing.assert_array_equal(fit(picture, DecodeSpec(53, channels)), expected)
    assert sizes == [(53, 7)] * 7 + [(53, 4)]


def test_sixteen_bits_are_scaled_strip_by_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "STRIP_PIXELS", 300)
    values_HW = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
    found = fit(Image.fromarray(values_HW), DecodeSpec(256, 1))
    np.testing.assert_array_equal(found[..., 0], np.rint(values_HW / 257))


# -- what is classified ------------------------------------------------------------------------------------------------


def test_of_a_folder_only_files_are_classified(tmp_path: Path) -> None:
    """A pipe would never end, and a folder may be called anything; a link to nothing is named when it is read."""
    hidden = {".e.png": OTHER, ".Trash-1000/files/f.png": OTHER, "folder.png/.cache/g.png": OTHER}
    write_folder(tmp_path / "set", {"b.png": OTHER, "folder.png/c.png": OTHER} | hidden)
    os.mkfifo(tmp_path / "set" / "a.png")
    (tmp_path / "set" / "d.png").symlink_to("none")
    found = find_images([tmp_path / "set"])
    assert [Path(name).relative_to(tmp_path / "set").as_posix() for name in found] == [
        "b.png",
        "d.png",
        "folder.png/c.png",
    ]
    assert len(find_images([tmp_path / "set" / ".Trash-1000"])) == 1  # asked for by name
    with pytest.raises(DataError, match=r"d\.png: cannot be read \(No such file"):
        read_images(found, DecodeSpec(8, 3))


class Endless:
    def read(self, size: int = -1) -> bytes:
        assert size > 0, "all of it"
        return bytes(size)


def test_an_image_on_standard_input_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "MAX_BYTES", 2**20)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Endless()))
    with pytest.raises(DataError, match=r"^image: more than 1 MiB; try: another image"):
        read_images(["-"], DecodeSpec(8, 3))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(OTHER)))
    np.testing.assert_array_equal(read_images(["-"], DecodeSpec(8, 3)), pixels(1, seed=9))
