"""Images that are listed in a table with their labels: a .csv or .tsv beside or above the files."""

import csv
import hashlib
import io
import os
import posixpath
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np

from daybreak.core.errors import DataError, nearest, one_line
from daybreak.data.archives import MAX_MEMBERS
from daybreak.data.dataset import TEST, TRAIN, VALIDATION
from daybreak.data.entry import file_stamp
from daybreak.data.layout import Layout, check_class_names

SUFFIXES = (".csv", ".tsv")
# What a column may be called, the first that is there; the third is optional.
IMAGE = ("image", "file", "file_name", "filename", "path", "image_path")
LABEL = ("label", "class", "category", "target")
SPLIT = ("split", "part", "subset", "set")
PARTS = {"train": TRAIN, "training": TRAIN, "validation": VALIDATION, "val": VALIDATION, "valid": VALIDATION}
PARTS |= {"test": TEST, "testing": TEST}


@dataclass(frozen=True)
class Row:
    line: int
    image: str
    label: str
    part: int | None


class Table:
    """A table as a container of image files: names relative to its folder, "/" between the parts.

    Raises:
        DataError: the table is not one of images and labels, or a file lies outside its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._root = path, Path(os.path.realpath(path)).parent
        self._bytes = _read(path)
        self.rows = _rows(_text(self._bytes, path), path)
        self.names = [row.image for row in self.rows]
        self.names_in_hidden: list[str] = []
        self.folders: list[str] = []

    def open(self, name: str) -> BufferedReader:
        target = os.path.realpath(self._root / name)
        if os.path.commonpath([self._root, target]) != str(self._root):
            raise ValueError("lies outside the table's folder")  # as a bad image: it is listed with all others
        if os.path.exists(target) and not os.path.isfile(target):  # a pipe would never end
            raise ValueError("is not a file")
        return open(target, "rb")

    @property
    def stamp(self) -> str:
        """Changes when the table or a file it lists may have changed."""
        stamp = hashlib.sha256(self._bytes)
        for name in self.names:
            try:
                stamp.update(f"{name}\0{file_stamp((self._root / name).stat())}\0".encode())
            except (OSError, ValueError):
                stamp.update(f"{name}\0missing\0".encode())
        return stamp.hexdigest()

    def digest(self) -> str:
        """SHA-256 over the table and the files' bytes; an unreadable file counts by its name."""
        digest = hashlib.sha256(self._bytes)
        for name in self.names:
            digest.update(f"{name}\0".encode())
            try:
                with self.open(name) as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except (OSError, ValueError):
                continue  # decoding lists it among the bad files
        return digest.hexdigest()

    def layout(self, left_out: Collection[str]) -> Layout:
        """The table's own classes and parts, without some of its files.

        Raises:
            DataError: class names that only look different.
        """
        rows = [row for row in self.rows if row.image not in left_out]
        classes = tuple(sorted({row.label for row in rows}))
        check_class_names(classes, self.path)
        index, names = {name: i for i, name in enumerate(classes)}, tuple(row.image for row in rows)
        parts = [row.part for row in rows if row.part is not None]
        return Layout(
            classes,
            files=names,
            names=names,
            labels_N=np.array([index[row.label] for row in rows], np.int64),
            part_N=np.array(parts, np.int8) if parts else None,
            notes=(),
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "check its permissions") from None


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(path, f"is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None


def _rows(text: str, path: Path) -> list[Row]:
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines = ((reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells))
    empty = DataError(path, "lists no images", "a head `image,label` and a row for each image")
    try:
        first = next(lines, None)
        if first is None:
            raise empty
        columns = _columns([cell.strip().lower() for cell in first[1]], path)
        rows = list(_body(lines, len(first[1]), columns, path))
    except csv.Error as error:
        raise DataError(path, f"line {reader.line_num}: {error}", "a table of comma-separated values") from None
    if not rows:
        raise empty
    _refuse_two_labels(rows, path)
    if columns[2] is not None and all(row.part != TRAIN for row in rows):
        raise DataError(path, "no row of the training part", "split = train for some, or no such column")
    return rows


def _body(
    lines: Iterator[tuple[int, list[str]]], width: int, columns: tuple[int, int, int | None], path: Path
) -> Iterator[Row]:
    """The rows below a head of so many cells, counted while they are read."""
    for count, (line, cells) in enumerate(lines):
        if count == MAX_MEMBERS:
            raise DataError(path, f"more than {MAX_MEMBERS:,} rows", "a smaller table")
        if any(cell.strip() for cell in cells[width:]):
            why = f"line {line}: {len(cells)} cells below a head of {width}"
            raise DataError(path, why, "quotes around a value that has the separator in it")
        yield _row(line, cells, columns, path)


def _columns(head: list[str], path: Path) -> tuple[int, int, int | None]:
    """Where image, label and split stand."""
    image, label, split = (
        next((head.index(name) for name in names if name in head), None) for names in (IMAGE, LABEL, SPLIT)
    )
    if image is None or label is None:
        missing, names = ("image", IMAGE) if image is None else ("label", LABEL)
        found = one_line(", ".join(head))[:100]
        raise DataError(path, f"no column called {missing} (found: {found})", f"call it one of {', '.join(names)}")
    return image, label, split


def _row(line: int, cells: list[str], columns: tuple[int, int, int | None], path: Path) -> Row:
    image, label, split = (cells[at].strip() if at is not None and at < len(cells) else "" for at in columns)
    for name, value in (("image", image), ("label", label)):
        if not value:
            raise DataError(path, f"line {line}: no {name}", "fill it in, or remove the row")
    image = posixpath.normpath(image.replace("\\", "/"))
    if image.startswith("/") or ".." in image.split("/") or "\0" in image or ":" in image.split("/")[0]:
        why = f"line {line}: {one_line(image)[:100]} is not a path below the table's folder"
        raise DataError(path, why, "paths relative to the table, and the table above its images")
    return Row(line, image, label, _part(line, split, path) if columns[2] is not None else None)


def _part(line: int, split: str, path: Path) -> int:
    part = PARTS.get(split.lower())
    if part is None:
        why = f"line {line}: {one_line(split)[:50]!r} is no part of a data set"
        raise DataError(path, why, nearest(split.lower(), PARTS))
    return part


def _refuse_two_labels(rows: Sequence[Row], path: Path) -> None:
    """An image has one class here; a table that gives it several is of another task."""
    seen: dict[str, Row] = {}
    for row in rows:
        first = seen.setdefault(row.image, row)
        if first is not row:
            what = "twice" if first.label == row.label else f"as {one_line(first.label)} and as {one_line(row.label)}"
            why = f"line {row.line}: {one_line(row.image)[:100]} is listed {what}"
            raise DataError(
                path, why, "one row and one class for each image; several labels an image are not supported"
            )
