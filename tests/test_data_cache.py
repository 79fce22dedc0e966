import json
import multiprocessing as mp
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from image_sets import encode, pixels, sample_files, write_folder, write_npz, write_tar, write_zip

from daybreak.core.errors import StorageError, UsageError
from daybreak.data import Dataset, open_dataset
from daybreak.data import cache as cache_module
from daybreak.data import entry as entry_module
from daybreak.data import open as open_module
from daybreak.data.dataset import Pictures
from daybreak.data.image import DecodeSpec

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "set", sample_files())


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "decoded").iterdir() if not path.name.startswith("."))


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setattr(f"daybreak.data.{name}", lambda *_, name=name: pytest.fail(f"{name} was called"))


def same(one: Dataset, other: Dataset) -> None:
    assert one.fingerprint == other.fingerprint
    np.testing.assert_array_equal(one.train.images_NHWC, other.train.images_NHWC)
    np.testing.assert_array_equal(one.test.images_NHWC, other.test.images_NHWC)
    assert one.train.labels_N.tolist() == other.train.labels_N.tolist()
    assert (one.train.names, one.test.names, one.classes) == (other.train.names, other.test.names, other.classes)
    assert (one.decode, one.notes) == (other.decode, other.notes)


def test_images_are_mapped_and_cannot_be_changed(folder: Path):
    dataset = open_dataset(folder)
    for array in (dataset.train.images_NHWC, dataset.test.images_NHWC, dataset.train.labels_N):
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_the_second_start_reads_and_decodes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    first = open_dataset(folder)
    assert first.seconds["decode"] > 0
    forbid(monkeypatch, "files.decode", "files.read_header", "folder.Folder.digest", "folder.Folder.open")
    second = open_dataset(folder)
    same(first, second)
    assert second.seconds["decode"] == second.seconds["download"] == 0.0
    assert second.seconds["open"] > 0


def test_a_copy_at_its_own_size_is_found_by_that_size(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    """As `daybreak data` makes it, and `daybreak evaluate --data` asks for it."""
    folder = write_folder(tmp_path / "set", sample_files())
    first = open_dataset(folder)
    forbid(monkeypatch, "files.decode", "files.read_header")
    same(first, open_dataset(folder, size=first.decode.size))
    assert len(entries(cache)) == 1
    with pytest.raises(pytest.fail.Exception, match=r"files\.(decode|read_header) was called"):
        open_dataset(folder, size=first.decode.size + 1)


def test_negative_control_a_cold_start_decodes(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    open_dataset(folder)
    shutil.rmtree(cache)
    forbid(monkeypatch, "files.decode")
    with pytest.raises(pytest.fail.Exception, match=r"files\.decode was called"):
        open_dataset(folder)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "npz"])
def test_the_second_start_does_not_read_an_archive(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / f"set.{kind}"
    write_npz(path) if kind == "npz" else (write_zip if kind == "zip" else write_tar)(path, sample_files())
    first = open_dataset(path)
    forbid(monkeypatch, "sources.sha256_of", "sources.open_archive", "sources.read_npz")
    same(first, open_dataset(path))


def test_a_copy_elsewhere_finds_the_same_entry(
    folder: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    first = open_dataset(folder)
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "copy", copy_function=shutil.copyfile)
    forbid(monkeypatch, "files.decode")
    same(first, open_dataset(copy))
    assert len(entries(cache)) == 1


def test_a_changed_file_is_seen(folder: Path):
    before = open_dataset(folder).fingerprint
    path = folder / "train" / "ant" / "000.png"
    path.write_bytes(encode(pixels(1, seed=9)[0]))
    os.utime(path, ns=(0, 0))
    assert open_dataset(folder).fingerprint != before
    (folder / "test" / "ant" / "000.png").unlink()
    assert len(open_dataset(folder).test.names) == 5


def test_each_size_and_each_seed_has_its_entry(tmp_path: Path, cache: Path):
    folder = write_folder(tmp_path / "set", sample_files(per_class=5, parts=("",)))
    for size, seed in [(None, 0), (None, 1), (4, 0), (None, 0)]:
        open_dataset(folder, size=size, split_seed=seed)
    assert len(entries(cache)) == 3


def test_the_seed_means_nothing_where_there_is_a_test_part(folder: Path, cache: Path):
    same(open_dataset(folder, split_seed=0), open_dataset(folder, split_seed=1))
    assert len(entries(cache)) == 1


def remove(path: Path) -> None:
    path.unlink()


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def bracket(path: Path) -> None:
    """Found by fuzzing: in the head of an array, which numpy reads as Python."""
    path.write_bytes(path.read_bytes().replace(b" ", b"(", 1).replace(b"}", b" ", 1))


@pytest.mark.parametrize("damage", [remove, shorten, empty, bracket])
@pytest.mark.parametrize(
    "name", ["train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy", "meta.json"]
)
def test_a_damaged_entry_is_made_again(folder: Path, cache: Path, name: str, damage):
    first = open_dataset(folder)
    images = np.array(first.train.images_NHWC)
    damage(entries(cache)[0] / name)
    again = open_dataset(folder)
    np.testing.assert_array_equal(again.train.images_NHWC, images)
    assert again.fingerprint == first.fingerprint
    assert again.seconds["decode"] > 0
    assert len(entries(cache)) == 1
    assert open_dataset(folder).seconds["decode"] == 0.0


def note_of(dataset: Dataset) -> str:
    (found,) = (note for note in dataset.notes if "damaged" in note)
    return found


def invert_pixels(folder: Path) -> None:
    path = folder / "train_images.npy"
    content = bytearray(path.read_bytes())
    content[-40:] = bytes(255 - byte for byte in content[-40:])
    path.write_bytes(content)


def rotate_labels(folder: Path) -> None:
    labels = np.load(folder / "train_labels.npy")
    np.save(folder / "train_labels.npy", np.roll(labels, 1))


def exceed_labels(folder: Path) -> None:
    labels = np.load(folder / "test_labels.npy")
    labels[0] = 7
    np.save(folder / "test_labels.npy", labels)


def reshape_images(folder: Path) -> None:
    images = np.load(folder / "train_images.npy")
    np.save(folder / "train_images.npy", images.reshape(len(images), -1)[:, None, None].repeat(1, 1))


def describe_as(**changes: object):
    """An edited description, its sum as it was."""

    def edit(folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text()) | changes
        (folder / "meta.json").write_text(json.dumps(meta))

    return edit


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (invert_pixels, "images or labels are not what was written"),
        (rotate_labels, "images or labels are not what was written"),
        (exceed_labels, "a label of the test part is none of the classes"),
        (reshape_images, "train_images.npy is missing or has another size|images of the train part"),
        (describe_as(classes=["a"]), "not what was written"),
        (describe_as(classes=["ant", "dog"]), "not what was written"),
        (describe_as(decode={"size": 32, "channels": 3}), "not what was written"),
        (describe_as(decode={"size": 8, "channels": 2}), "no description"),
        (describe_as(names={"train": [], "test": []}), "not what was written"),
        (describe_as(names={"train": [1], "test": []}), "no description"),
        (describe_as(fingerprint=None), "no description"),
        (describe_as(fingerprint="0" * 64), "not what was written"),
        (describe_as(notes=["trust me"]), "not what was written"),
        (lambda folder: (folder / "meta.json").write_text("[" * 100_000), "no description"),
        (lambda folder: (folder / "meta.json").write_bytes(b"\xff\xfe"), "no description"),
        (lambda folder: (folder / "meta.json").write_text('{"size": ' + "9" * 6000 + "}"), "no description"),
    ],
)
def test_what_was_changed_since_it_was_written_is_never_used(folder: Path, cache: Path, harm, why: str):
    first = open_dataset(folder)
    images = np.array(first.train.images_NHWC)
    (entry,) = entries(cache)
    harm(entry)
    again = open_dataset(folder)
    assert re.search(why, note_of(again))
    assert (again.fingerprint, again.classes, again.decode) == (first.fingerprint, first.classes, first.decode)
    np.testing.assert_array_equal(again.train.images_NHWC, images)
    assert again.train.labels_N.tolist() == [0, 0, 1, 1, 2, 2]
    assert not [note for note in open_dataset(folder).notes if "damaged" in note]
    (aside,) = (path for path in (cache / "decoded").glob(".*/*"))  # for who wants to know what happened
    assert str(aside) in note_of(again)


def test_a_large_entry_is_verified_once_and_when_its_files_change(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(entry_module, "BYTES_ALWAYS_VERIFIED", 0)
    open_dataset(folder)
    monkeypatch.setattr(entry_module, "_begun", lambda _: pytest.fail("summed up again"))
    open_dataset(folder)
    with pytest.raises(pytest.fail.Exception, match="summed up again"):
        open_dataset(folder, verify=True)
    monkeypatch.undo()
    monkeypatch.setenv("DAYBREAK_CACHE_DIR", str(cache))
    monkeypatch.setattr(entry_module, "BYTES_ALWAYS_VERIFIED", 0)
    (entry,) = entries(cache)
    before = (entry / "train_images.npy").stat()
    invert_pixels(entry)
    os.utime(entry / "train_images.npy", ns=(before.st_atime_ns, before.st_mtime_ns))  # as if nothing had happened
    assert "not what was written" in note_of(open_dataset(folder))


def test_an_edit_of_the_same_size_with_its_time_put_back_is_seen(folder: Path):
    before, path = open_dataset(folder), folder / "train" / "ant" / "000.png"
    status, content = path.stat(), path.read_bytes()
    other = encode(pixels(1, seed=9)[0])
    path.write_bytes(other[: len(content)].ljust(len(content), b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert open_dataset(folder).fingerprint != before.fingerprint


@pytest.mark.parametrize("damage", [remove, shorten, empty, bracket])
@pytest.mark.parametrize("name", ["validation_images.npy", "validation_labels.npy"])
def test_a_damaged_validation_part_is_made_again(tmp_path: Path, cache: Path, name: str, damage):
    folder = write_folder(tmp_path / "set", sample_files(parts=("train", "test", "val")))
    first = open_dataset(folder)
    damage(entries(cache)[0] / name)
    again = open_dataset(folder)
    assert again.seconds["decode"] > 0
    assert again.fingerprint == first.fingerprint
    assert again.validation is not None
    np.testing.assert_array_equal(again.validation.images_NHWC, pixels(6, seed=2))


def test_what_0_1_0_decoded_is_read_for_its_runs_and_for_nothing_else(tmp_path: Path, cache: Path):
    """Its entries call val/ the test part."""
    folder = write_folder(tmp_path / "set", sample_files(per_class=5, parts=("train", "val")))
    content = open_dataset(folder, parts_of_0_1_0=True)
    assert len(entries(cache)) == 1
    assert open_dataset(folder, parts_of_0_1_0=True).seconds["decode"] == 0
    assert open_dataset(folder).fingerprint != content.fingerprint
    assert len(entries(cache)) == 2


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"sizes": 3}', "\0"])
def test_nonsense_in_the_cache_is_not_believed(folder: Path, cache: Path, text: str):
    first = open_dataset(folder)
    (entries(cache)[0] / "meta.json").write_text(text)
    for memo in (cache / "seen").iterdir():
        memo.write_text(text)
    assert open_dataset(folder).fingerprint == first.fingerprint


def test_a_cache_that_cannot_be_written_is_a_storage_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DAYBREAK_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="DAYBREAK_CACHE_DIR") as caught:
        open_dataset(folder)
    assert caught.value.exit_code == 5
    assert str(tmp_path / "file") in caught.value.what


@pytest.mark.parametrize("limit", [0, 500, 5_000, 30_000])
def test_a_failing_write_is_a_storage_error_and_leaves_nothing(tmp_path: Path, cache: Path, limit: int):
    """A limit on the size of files fails as a full disk does: in the middle of a write, and again when closing."""
    import resource

    folder = write_folder(tmp_path / "set", sample_files(per_class=60))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(StorageError, match="File too large"):
            open_dataset(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert entries(cache) == []
    assert open_dataset(folder).seconds["decode"] > 0


def test_leftovers_of_killed_processes_go_after_a_day(folder: Path, cache: Path):
    old, young = cache / "decoded" / ".old", cache / "decoded" / ".young"
    for leftover in (old, young):
        leftover.mkdir(parents=True)
    os.utime(old, (time.time() - 90_000,) * 2)
    open_dataset(folder)
    assert not old.exists()
    assert young.exists()


def _open(path: Path, ready, results, decoded) -> None:
    original = open_module._decode

    def counted(*given: object) -> object:
        decoded.put(1)
        return original(*given)

    open_module._decode = counted
    ready.wait()
    results.put(open_dataset(path).fingerprint)


def test_three_processes_at_once_decode_once(folder: Path, cache: Path):
    context = mp.get_context("fork" if sys.platform == "linux" else "spawn")
    ready, results, decoded = context.Barrier(3), context.Queue(), context.Queue()
    workers = [context.Process(target=_open, args=(folder, ready, results, decoded)) for _ in range(3)]
    for worker in workers:
        worker.start()
    prints = {results.get(timeout=30) for _ in workers}
    for worker in workers:
        worker.join()
    assert decoded.get(timeout=5) == 1
    assert decoded.empty()
    assert prints == {open_dataset(folder).fingerprint}
    assert len(entries(cache)) == 1


def test_who_loses_the_race_uses_the_winners_entry(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    """The other process publishes between our decoding and our renaming."""
    original = cache_module.publish

    def late(staged: Path, key: str) -> object:
        shutil.copytree(staged, staged.parent / key)
        return original(staged, key)

    monkeypatch.setattr(cache_module, "publish", late)
    same(open_dataset(folder), open_dataset(folder))
    assert len(entries(cache)) == 1


def test_meta_tells_what_the_files_are(folder: Path, cache: Path):
    dataset = open_dataset(folder)
    meta = json.loads((entries(cache)[0] / "meta.json").read_text())
    assert meta["fingerprint"] == dataset.fingerprint
    assert meta["names"]["test"][5] == "test/cow/001.png"


def test_a_size_below_one_is_a_usage_error(folder: Path):
    with pytest.raises(UsageError, match="size: 0"):
        open_dataset(folder, size=0)


VERIFIED = """
import sys
from pathlib import Path
from daybreak.data.entry import read_entry
def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])
before = resident("VmRSS")
entry = read_entry(Path(sys.argv[1]), verify=True)
print(resident("VmHWM") - before, entry.train.images_NHWC.nbytes)
"""


def test_a_large_copy_is_verified_without_holding_it(tmp_path: Path) -> None:
    """Pages of a map count as a process's memory until they are let go of: 15 GB for 100,000 photos of 224 px."""
    blank = np.zeros((256, 256, 3), np.uint8)
    pictures = Pictures(
        ("a", "b"),
        tuple(map(str, range(1200))),
        np.arange(1200) % 2,
        None,
        DecodeSpec(256, 3),
        lambda i: (blank for _ in i),
    )
    entry_module.write_entry(tmp_path, pictures, {"train": np.arange(1100), "test": np.arange(1100, 1200)}, ())
    found = subprocess.run([sys.executable, "-c", VERIFIED, tmp_path], capture_output=True, text=True, check=True)
    held, images = map(int, found.stdout.split())
    assert images == 1100 * 256 * 256 * 3
    assert held < images / 2
