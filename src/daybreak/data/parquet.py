"""Images in Parquet files, as Hugging Face's hub and `datasets` store them: train-00000-of-00002.parquet and its like.

A row holds an image file's bytes (or a structure with `bytes`) and a label: a name, or a number whose names stand in
the schema as `datasets` writes it. The part is what the file's name says. Needs pyarrow.
"""

import io
import re
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.core.errors import DataError
from daybreak.data.archives import MAX_MEMBERS
from daybreak.data.dataset import TRAIN
from daybreak.data.download import sha256_of
from daybreak.data.entry import file_stamp
from daybreak.data.layout import Layout, check_class_names
from daybreak.data.parquet_file import NO_BYTES, ParquetFile
from daybreak.data.table import PARTS

SUFFIX = ".parquet"


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
        self.stamp = self.stamp_now()
        self._files = [ParquetFile(path) for path in paths]
        if sum(file.rows for file in self._files) > MAX_MEMBERS:
            raise DataError(paths[0], f"more than {MAX_MEMBERS:,} rows", "fewer files")
        self.names = [f"{file.path.stem}/{row}" for file in self._files for row in range(file.rows)]
        self.names_in_hidden: list[str] = []
        self.folders: list[str] = []
        self._places = {path.stem: n for n, path in enumerate(paths)}
        self._place: _Place | None = None

    def open(self, name: str) -> io.BytesIO:
        """The image file of a row."""
        stem, _, row = name.rpartition("/")
        with self._lock:
            value = self._image(self._places[stem], int(row))
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise ValueError(NO_BYTES)  # as a bad image: listed with the others
        return io.BytesIO(content)

    def stamp_now(self) -> str:
        """`stamp` is that of before they were read."""
        return " ".join(file_stamp(path.stat()) for path in self.paths)

    def digest(self) -> str:
        """SHA-256 over the files and their names, which say the parts."""
        return sha256(" ".join(f"{path.name}\0{sha256_of(path)}" for path in self.paths).encode()).hexdigest()

    def layout(self, left_out: Collection[str]) -> Layout:
        """The files' own classes and parts, without some of their rows.

        Raises:
            DataError: a label is missing, the files name other classes, or class names only look different.
        """
        named = self._named_classes
        labels = [label for file in self._files for label in file.labels()]
        kept = [n for n, name in enumerate(self.names) if name not in left_out]
        classes = named or tuple(sorted({labels[n] for n in kept}))
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
    def _named_classes(self) -> tuple[str, ...]:
        """What the schemas name; nothing where they name no classes."""
        first, *others = (file.class_names for file in self._files)
        for path, names in zip(self.paths[1:], others, strict=True):
            if names != first:
                why = f"its schema names other classes than {self.paths[0].name}, or in another order"
                raise DataError(path, why, "files that name the same classes in the same order")
        return tuple(first)

    def _image(self, file: int, row: int) -> Any:
        """Images are asked for in order: reading goes on behind the last one, or begins anew in the row's group."""
        place = self._place
        if place is None or place.file != file or not place.first <= row < place.end:
            place = self._place = self._start(file, row)
        while row >= place.first + len(place.values):
            try:
                values = next(place.batches)
            except ValueError as error:
                place.why = str(error)
                raise
            except StopIteration:
                raise ValueError(place.why) from None
            place.first, place.values = place.first + len(place.values), values
        return place.values[row - place.first]

    def _start(self, file: int, row: int) -> "_Place":
        first = 0
        for group, rows in enumerate(self._files[file].groups):
            if row < first + rows:
                return _Place(file, first, first + rows, [], self._files[file].images(group))
            first += rows
        raise ValueError("is in no row group")


@dataclass
class _Place:
    """Where the reading of a row group stands: the values of some of its rows, and those behind them."""

    file: int
    first: int  # row of `values`
    end: int  # row behind the group
    values: list[Any]
    batches: Iterator[list[Any]]
    why: str = "cannot be read, as its row group ends before it"  # where `batches` has no more


def part_of(name: str) -> int:
    """The part that the name of a file says, as in train-00000-of-00002 or birds_val_7: the code of its first word that
    is a part's name, TRAIN where none is."""
    words = re.split(r"[-_. ]", name.lower().partition("/")[0])
    return next((PARTS[word] for word in words if word in PARTS), TRAIN)
