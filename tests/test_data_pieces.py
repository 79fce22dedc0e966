"""Decoding that was killed goes on behind the last whole piece, and ends in what it would have been."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_sets import sample_files, write_folder

from daybreak.core.errors import BadImagesError
from daybreak.data import Dataset, files, open_dataset, pieces

pytestmark = pytest.mark.usefixtures("cache")

IMAGE_BYTES = 8 * 8 * 3
KILLED = """
import os, signal, sys
from daybreak.data import files, open_dataset, pieces
data, at, skip_bad, ended_by = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "skip", sys.argv[4]
pieces.PIECE_BYTES, decode, calls = 4 * 8 * 8 * 3, files.decode, 0
def counted(blob, spec):
    global calls
    calls += 1
    if calls > at:
        os.kill(os.getpid(), getattr(signal, ended_by))
    return decode(blob, spec)
files.decode = counted
open_dataset(data, skip_bad=skip_bad)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """18 training images and 18 test images: at four images a piece, ten pieces."""
    return write_folder(tmp_path / "set", sample_files(per_class=6))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 4 * IMAGE_BYTES)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The files that are decoded from now on."""
    calls: list[bytes] = []
    original = files.decode

    def counted(blob: bytes, spec: object) -> object:
        calls.append(blob)
        return original(blob, spec)

    monkeypatch.setattr(files, "decode", counted)
    return calls


def kill(data: Path, at: int, skip_bad: bool = False, ended_by: str = "SIGKILL") -> None:
    """Open the data in a process that ends as it decodes one more image than `at`."""
    words = [str(data), str(at), "skip" if skip_bad else "all", ended_by]
    ended = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True)
    assert ended.returncode == -getattr(signal, ended_by), ended.stderr


def undisturbed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **asked: bool) -> Dataset:
    with monkeypatch.context() as patch:
        patch.setenv("DAYBREAK_CACHE_DIR", str(tmp_path / "another"))
        return open_dataset(data, **asked)


def staged(cache: Path) -> Path:
    (folder,) = (cache / "decoded").glob(".decoding-*")
    return folder


def same(one: Dataset, other: Dataset) -> None:
    assert one.fingerprint == other.fingerprint
    for mine, its in ((one.train, other.train), (one.test, other.test)):
        np.testing.assert_array_equal(mine.images_NHWC, its.images_NHWC)
        np.testing.assert_array_equal(mine.labels_N, its.labels_N)
        assert mine.names == its.names


@pytest.mark.parametrize(("at", "kept"), [(3, 0), (4, 4), (17, 16), (18, 18), (25, 22), (35, 34)])
def test_whole_pieces_are_not_decoded_again(
    folder: Path, tmp_path: Path, cache: Path, decoded: list[bytes], monkeypatch: pytest.MonkeyPatch, at: int, kept: int
) -> None:
    """Pieces of four of the 18 training images, the last of two, then the same of the test part."""
    kill(folder, at)
    dataset = open_dataset(folder)
    assert len(decoded) == 36 - kept
    same(dataset, undisturbed(folder, tmp_path, monkeypatch))
    assert list((cache / "decoded").glob(".*")) == []


def test_ctrl_c_keeps_what_is_there(folder: Path, decoded: list[bytes]) -> None:
    kill(folder, 17, ended_by="SIGINT")
    open_dataset(folder)
    assert len(decoded) == 36 - 16


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "kept"),
    [
        (lambda staged: flip(staged / "train_images.npy", 128 + 9 * IMAGE_BYTES), 8),
        (lambda staged: flip(staged / "train_images.npy", 5), 16),  # the header is written again
        (lambda staged: (staged / "train_images.npy").unlink(), 0),
        (lambda staged: (staged / "progress.json").write_text("{"), 0),
        (lambda staged: (staged / "progress.json").write_text('{"plan": "another", "sums": []}'), 0),
    ],
    ids=["a pixel", "the header", "no file", "no progress", "another plan"],
)
def test_what_is_not_what_was_written_is_decoded_again(
    folder: Path,
    tmp_path: Path,
    cache: Path,
    decoded: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], object],
    kept: int,
) -> None:
    kill(folder, 17)
    harm(staged(cache))
    dataset = open_dataset(folder)
    assert len(decoded) == 36 - kept
    same(dataset, undisturbed(folder, tmp_path, monkeypatch))


def test_all_bad_images_are_named_after_a_kill(folder: Path) -> None:
    for name in ("train/bee/001.png", "test/cow/002.png"):
        (folder / name).write_bytes(b"no image")
    kill(folder, 25)
    with pytest.raises(BadImagesError, match=r"2 of 36 images .* train/bee/001.png.*; test/cow/002.png") as caught:
        open_dataset(folder)
    assert len(caught.value.names) == 2


@pytest.mark.parametrize("at", [5, 25, 36 + 10, 36 + 30])
def test_skipping_bad_images_survives_a_kill(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The images are gone through twice: to find the bad ones, then without them."""
    (folder / "train/bee/001.png").write_bytes(b"no image")
    kill(folder, at, skip_bad=True)
    same(open_dataset(folder, skip_bad=True), undisturbed(folder, tmp_path, monkeypatch, skip_bad=True))
