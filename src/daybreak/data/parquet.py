"""Images in Parquet files, as Hugging Face's hub and `datasets` store them: train-00000-of-00002.parquet and its like.

A row holds an image file's bytes (or a structure with `bytes`) and a label: a name, or a number whose names stand in
the schema as `datasets` writes it. The part is what the file's name says. Needs pyarrow.
"""

import io
import json
import re
import threading
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from daybreak.core.errors import DataError, one_line
from daybreak.data.archives import MAX_MEMBERS
from daybreak.data.dataset import TRAIN
from daybreak.data.download import sha256_of
from daybreak.data.entry import file_stamp
from daybreak.data.layout import Layout, check_class_names
from daybreak.data.table import IMAGE, LABEL, PARTS

SUFFIX = ".parquet"
LABELS = (*LABEL, "labels", "fine_label")
IMAGES = (*IMAGE, "img")


def parquet_files(folder: Path) -> list[Path]:
    """Those of a folder, or of its `data/`, as the hub lays them out."""
    return sorted(folder.glob(f"*{SUFFIX}")) or sorted(folder.glob(f"data/*{SUFFIX}"))


class Parquet:
    """The rows of Parquet files as a container of image files, called FILE/ROW.

    Raises:
        DataError: pyarrow is missing, or the files are not of images and labels.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths, self._lock = paths, threading.Lock()
        self._files = [_open(path) for path in paths]
        counts = [file.metadata.num_rows for file in self._files]
        if sum(counts) > MAX_MEMBERS:
            raise DataError(paths[0], f"more than {MAX_MEMBERS:,} rows", "fewer files")
        pairs = zip(paths, counts, strict=True)
        self.names = [f"{path.stem}/{row}" for path, rows in pairs for row in range(rows)]
        self.names_in_hidden: list[str] = []
        self.folders: list[str] = []
        self._places = {path.stem: n for n, path in enumerate(paths)}
        self._held: tuple[int, int, int, list[Any]] | None = None  # file, its first row, its end, images

    def open(self, name: str) -> io.BytesIO:
        """The image file of a row."""
        stem, _, row = name.rpartition("/")
        with self._lock:
            value = self._image(self._places[stem], int(row))
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise ValueError("has no bytes in it, only a path or nothing")  # as a bad image: listed with the others
        return io.BytesIO(content)

    @property
    def stamp(self) -> str:
        return " ".join(file_stamp(path.stat()) for path in self.paths)

    def digest(self) -> str:
        """SHA-256 over the files and their names, which say the parts."""
        return sha256(" ".join(f"{path.name}\0{sha256_of(path)}" for path in self.paths).encode()).hexdigest()

    def layout(self, left_out: Collection[str]) -> Layout:
        """The files' own classes and parts, without some of their rows.

        Raises:
            DataError: a label is missing, or class names only look different.
        """
        labels = [label for file, path in zip(self._files, self.paths, strict=True) for label in _labels(file, path)]
        kept = [n for n, name in enumerate(self.names) if name not in left_out]
        classes = self._named_classes or tuple(sorted({labels[n] for n in kept}))
        check_class_names(classes, self.paths[0])
        index, names = {name: i for i, name in enumerate(classes)}, tuple(self.names[n] for n in kept)
        parts = [part_of(name) for name in names]
        if parts and all(part != TRAIN for part in parts):
            raise DataError(self.paths[0], "no file of the training part", "one whose name begins with train")
        return Layout(
            classes,
            files=names,
            names=names,
            labels_N=np.array([index[labels[n]] for n in kept], np.int64),
            part_N=np.array(parts, np.int8) if len(set(parts)) > 1 else None,
            notes=(),
        )

    @cached_property
    def _named_classes(self) -> tuple[str, ...] | None:
        names = _class_names(self._files[0], _column(self._files[0], self.paths[0], LABELS, "label"))
        return tuple(names) if names else None

    def _image(self, file: int, row: int) -> Any:
        """Images are read by row groups, and the last group is kept: they are asked for in order."""
        if self._held is None or self._held[0] != file or not self._held[1] <= row < self._held[2]:
            first = 0
            for group in range(self._files[file].metadata.num_row_groups):
                rows = self._files[file].metadata.row_group(group).num_rows
                if row < first + rows:
                    break
                first += rows
            column = _column(self._files[file], self.paths[file], IMAGES, "image")
            values = _read(lambda: self._files[file].read_row_group(group, columns=[column])[column].to_pylist())
            self._held = (file, first, first + rows, values)
        return self._held[3][row - self._held[1]]


def _pyarrow(path: Path) -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(path, "needs pyarrow, which is not installed", "pip install pyarrow") from None
    module: ModuleType = pyarrow.parquet
    return module


def _open(path: Path) -> Any:
    parquet = _pyarrow(path)
    try:
        return parquet.ParquetFile(path)
    except Exception as error:  # pyarrow raises kinds of its own
        raise DataError(path, f"cannot be read as Parquet ({one_line(error)[:100]})", "a whole file") from None


def _read(reading: Callable[[], Any]) -> Any:
    """
    Raises:
        ValueError: whatever pyarrow says of values that cannot be read.
    """
    try:
        return reading()
    except Exception as error:
        raise ValueError(f"cannot be read ({one_line(error)[:100] or type(error).__name__})") from None


def _column(file: Any, path: Path, names: Sequence[str], what: str) -> str:
    there = file.schema_arrow.names
    found = next((name for name in names if name in there), None)
    if found is None:
        columns = one_line(", ".join(there))[:100]
        raise DataError(path, f"no column called {what} (found: {columns})", f"call it one of {', '.join(names)}")
    return found


def _labels(file: Any, path: Path) -> list[str]:
    column = _column(file, path, LABELS, "label")
    names, found = _class_names(file, column), []
    try:
        values = _read(lambda: file.read(columns=[column])[column].to_pylist())
    except ValueError as error:
        raise DataError(path, f"column {one_line(column)[:50]}: {error}", "a whole file") from None
    if len(values) != file.metadata.num_rows:
        raise DataError(path, f"{len(values):,} labels for {file.metadata.num_rows:,} rows", "a whole file")
    for row, value in enumerate(values):
        if isinstance(value, list | dict) or value is None:
            why = f"row {row}: {'no label' if value is None else 'several labels an image'}"
            raise DataError(path, why, "one class for each image")
        if names and not (isinstance(value, int) and 0 <= value < len(names)):
            raise DataError(path, f"row {row}: label {value!r} has no name among {len(names)}", "the schema's names")
        found.append(names[value] if names else str(value))
    return found


def _class_names(file: Any, column: str) -> list[str]:
    """What `datasets` writes of a ClassLabel into the schema; nothing where it wrote none."""
    try:
        facts = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])
        names = facts["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def part_of(name: str) -> int:
    """The part that the name of a file says, as in train-00000-of-00002 or birds_val_7: the code of its first word that
    is a part's name, TRAIN where none is."""
    words = re.split(r"[-_. ]", name.lower().partition("/")[0])
    return next((PARTS[word] for word in words if word in PARTS), TRAIN)
