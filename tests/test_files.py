"""Writing files whole: text, JSON, pictures and bytes, and what a file system that refuses becomes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daybreak.core.errors import StorageError
from daybreak.core.files import storage_errors, write_bytes, write_json, write_picture, write_text


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
