"""Writing files whole: text, JSON, pictures and bytes, and what a file system that refuses becomes."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from daybreak.core.errors import StorageError
from daybreak.core.files import (
    check_space,
    flush,
    free_name,
    is_leftover,
    make_folder,
    remove_leftovers,
    storage_errors,
    truncate,
    whole_file,
    whole_folder,
    write_bytes,
    write_json,
    write_picture,
    write_text,
)
from daybreak.runs.directory import RunDirectory


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    paths = [
        write_text(tmp_path / "deep" / "a.txt", "naïve\r\n–\n"),
        write_json(str(tmp_path / "deep" / "b.json"), {"b": 1.5, "a": None}),
        write_picture(tmp_path / "deep" / "c.png", Image.fromarray(pixels)),
        write_bytes(tmp_path / "deep" / "d.bin", b"\0\r\n"),
    ]
    assert [path.name for path in paths] == sorted(path.name for path in (tmp_path / "deep").iterdir())
    assert paths[0].read_bytes() == "naïve\r\n–\n".encode()
    assert paths[1].read_text() == '{\n  "b": 1.5,\n  "a": null\n}\n'
    assert json.loads(paths[1].read_text()) == {"b": 1.5, "a": None}
    np.testing.assert_array_equal(np.asarray(Image.open(paths[2])), pixels)
    assert paths[3].read_bytes() == b"\0\r\n"


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(StorageError, match=rf"{name}: cannot be written \(it is there and is not a file\)"):
            write_text(tmp_path / name, "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "folder", "pipe"]
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(
    ("number", "needed", "remedy", "expected"),
    [
        (28, 0, None, "x: cannot be written (No space); try: free space, or another disk"),
        (28, 2000, None, "x: cannot be written (No space, 2,000 bytes needed); try: free space, or another disk"),
        (13, 0, None, "x: cannot be written (No space); try: a place that can be written"),
        (28, 0, "another cache", "x: cannot be written (No space); try: another cache"),
    ],
)
def test_an_error_of_the_file_system_names_the_file(
    number: int, needed: int, remedy: str | None, expected: str
) -> None:
    with pytest.raises(StorageError) as caught, storage_errors(Path("x"), needed, remedy):
        raise OSError(number, "No space")
    assert str(caught.value) == expected


def test_space_that_just_suffices_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    check_space(tmp_path, 1000)
    with pytest.raises(StorageError, match=r"1,001 bytes needed, 1,000 are free; try: free space, or another disk"):
        check_space(tmp_path, 1001)


def test_a_file_is_only_ever_shortened(tmp_path: Path) -> None:
    path, none = write_bytes(tmp_path / "log", b"12345"), tmp_path / "none"
    truncate(path, 9)
    assert path.read_bytes() == b"12345"
    truncate(path, 2)
    truncate(none, 0)
    assert (path.read_bytes(), none.exists()) == (b"12", False)
    assert (flush(path), flush(none), none.exists()) == (2, 0, True)


def test_what_is_damaged_does_not_replace_what_was(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        names.append(free_name(tmp_path / "a").name)
        (tmp_path / names[-1]).touch()
    assert names == ["damaged-a", "damaged-a-2", "damaged-a-3"]


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_an_error_stays_itself_where_there_is_nothing_to_remove(whole: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole(tmp_path / "a") as temporary:  # noqa: PT012
        if temporary.exists():
            temporary.rmdir()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("block", [storage_errors, whole_file, whole_folder])
def test_bytes_are_named_only_where_they_are_known(block: Any, tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught, block(tmp_path / "x"):
        raise OSError(28, "No space")
    assert caught.value.why == "cannot be written (No space)"


def test_a_folder_that_somebody_has_just_made_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)
    make_folder(tmp_path)
    monkeypatch.undo()
    assert tmp_path.is_dir()


@pytest.mark.parametrize("life", ["", "-0badcafe"])
def test_what_a_killed_writer_of_our_own_number_left_is_in_nobodys_way(tmp_path: Path, life: str) -> None:
    """In a container every life of a program can have the number 1."""
    left = tmp_path / f".step-1.{os.getpid()}{life}.tmp"
    left.mkdir()
    with whole_folder(tmp_path / "step-1") as folder:
        (folder / "a.txt").write_text("whole")
        (ours,) = [path for path in tmp_path.iterdir() if path != left]
        assert not is_leftover(ours)
    assert (tmp_path / "step-1" / "a.txt").read_text() == "whole"
    assert is_leftover(left, "step-1")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_what_a_killed_start_left_is_no_run(tmp_path: Path) -> None:
    left = tmp_path / ".config.json.2000000000.tmp"  # no process has such a number
    left.write_text("half")
    assert is_leftover(left, "config.json")
    assert not is_leftover(left, "model.json")
    assert not is_leftover(tmp_path / "config.json.2000000000.tmp")
    with RunDirectory.create(tmp_path) as run:
        assert [path.name for path in run.path.iterdir()] == [".lock"]
