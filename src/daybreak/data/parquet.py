"""Images in Parquet files, as Hugging Face's hub and `datasets` store them: train-00000-of-00002.parquet and its like.

A row holds an image file's bytes (or a structure with `bytes`) and a label: a name, or a number whose names stand in
the schema as `datasets` writes it. The part is what the file's name says. Needs pyarrow.
"""

import io
import json
import mmap
import re
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from daybreak.core.errors import DataError, one_line
from daybreak.data.archives import MAX_MEMBERS, refuse_swelling, unpacked_limit
from daybreak.data.arrays import MAX_CLASSES
from daybreak.data.dataset import TRAIN
from daybreak.data.download import sha256_of
from daybreak.data.entry import file_stamp
from daybreak.data.layout import Layout, check_class_names
from daybreak.data.pages import Chunk, chunks_of, unpacked
from daybreak.data.table import IMAGE, LABEL, PARTS

SUFFIX = ".parquet"
LABELS = (*LABEL, "labels", "fine_label")
IMAGES = (*IMAGE, "img")
MAX_LABEL = 1000  # characters
ROWS_AT_A_TIME, BYTES_AT_A_TIME = 64, 256 * 2**20
NO_BYTES = "has no bytes in it, only a path or nothing"


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
        self._files = [_File(path) for path in paths]
        counts = [file.metadata.num_rows for file in self._files]
        for file, rows in zip(self._files, counts, strict=True):
            stored = sum(_stored(file, group) for group in range(file.metadata.num_row_groups))
            refuse_swelling(file.path, rows, stored, unpacked_limit(file.path))
        if sum(counts) > MAX_MEMBERS:
            raise DataError(paths[0], f"more than {MAX_MEMBERS:,} rows", "fewer files")
        pairs = zip(paths, counts, strict=True)
        self.names = [f"{path.stem}/{row}" for path, rows in pairs for row in range(rows)]
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
        labels = [label for file in self._files for label in _labels(file)]
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
        first, *others = (_class_names(file, _column(file, LABELS, "label")) for file in self._files)
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
        metadata, first = self._files[file].metadata, 0
        for group in range(metadata.num_row_groups):
            end = first + metadata.row_group(group).num_rows
            if row < end:
                column = _column(self._files[file], IMAGES, "image")
                leaf = _leaf(self._files[file], (column, f"{column}.bytes"))
                if leaf is None:
                    raise ValueError(NO_BYTES)
                return _Place(file, first, end, [], _values(self._files[file], leaf, group))
            first = end
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


class _File:
    """A file that is mapped into memory. (Of one that is not, pyarrow takes memory for all images of a row group before
    it gives out the first, or for as many bytes as a damaged page claims to have.)

    Raises:
        DataError: it cannot be read, or pyarrow is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path, arrow = path, _pyarrow(path)
        try:
            with path.open("rb") as file:
                self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            opened = arrow.parquet.ParquetFile(arrow.BufferReader(self._memory), pre_buffer=False)
        except Exception as error:  # pyarrow raises kinds of its own
            why = f"cannot be read as Parquet ({one_line(error)[:100]})"
            raise DataError(path, why, "a whole file") from None
        self.metadata, self.schema, self.schema_arrow = opened.metadata, opened.schema, opened.schema_arrow
        self._opened = opened

    def values(self, group: int, leaf: int) -> Iterator[list[Any]]:
        """The values of a leaf in a row group, so few rows at a time that they fit into BYTES_AT_A_TIME even if each
        value is as long as all that is stored: what repeats is stored once.

        Raises:
            ValueError, or what pyarrow raises: they cannot be read.
        """
        self._release()
        stored, limit = unpacked(self._memory, self._chunks[group][leaf]), unpacked_limit(self.path)
        if stored > limit:
            raise ValueError(f"a column that unpacks to {stored:,} bytes: too much for its size")
        rows, name = max(1, min(ROWS_AT_A_TIME, BYTES_AT_A_TIME // max(1, stored))), _leaves(self)[leaf]
        for batch in self._opened.iter_batches(rows, row_groups=[group], columns=[name]):
            yield batch[name.partition(".")[0]].to_pylist()
            del batch
            self._release()

    @cached_property
    def _chunks(self) -> list[list[Chunk]]:
        return chunks_of(self._memory)

    def _release(self) -> None:
        """As `dataset.release`, and for the same reason. What is no longer in the file must not be asked for: the
        system would end the process."""
        if self._memory.size() < len(self._memory):
            raise ValueError("it is shorter than it was")
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self._memory.madvise(mmap.MADV_DONTNEED)


def _pyarrow(path: Path) -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(path, "needs pyarrow, which is not installed", "pip install pyarrow") from None
    return pyarrow


def _column(file: _File, names: Sequence[str], what: str) -> str:
    try:
        there = list(dict.fromkeys(leaf.partition(".")[0] for leaf in _leaves(file)))
    except UnicodeDecodeError:
        raise DataError(file.path, "the name of a column is not UTF-8 text", "a whole file") from None
    found = next((name for name in names if name in there), None)
    if found is None:
        columns = one_line(", ".join(there))[:100]
        raise DataError(file.path, f"no column called {what} (found: {columns})", f"call it one of {', '.join(names)}")
    return found


def _leaves(file: _File) -> list[str]:
    """The paths of what holds values: COLUMN, or COLUMN.FIELD in a structure."""
    return [file.schema.column(n).path for n in range(len(file.schema))]


def _leaf(file: _File, paths: Sequence[str]) -> int | None:
    """The number of the first leaf of such a path that has one value a row; None where lists or other fields are."""
    leaves = enumerate(_leaves(file))
    return next((n for n, leaf in leaves if leaf in paths and not file.schema.column(n).max_repetition_level), None)


def _stored(file: _File, group: int) -> int:
    """Bytes of a row group before they are compressed, as the file's foot says. (What it says of a single column is not
    asked for: where that is damaged, pyarrow ends the process.)"""
    return int(file.metadata.row_group(group).total_byte_size)


def _values(file: _File, leaf: int, group: int) -> Iterator[list[Any]]:
    """Those of a row group, some at a time.

    Raises:
        ValueError: whatever pyarrow says of values that cannot be read.
    """
    try:
        yield from file.values(group, leaf)
    except Exception as error:  # pyarrow raises kinds of its own
        raise ValueError(f"cannot be read ({one_line(error)[:100] or type(error).__name__})") from None


def _labels(file: _File) -> list[str]:
    path, column = file.path, _column(file, LABELS, "label")
    leaf = _leaf(file, [column])
    if leaf is None:
        raise DataError(path, "row 0: several labels an image", "one class for each image")
    names, found, rows = _class_names(file, column), list[str](), file.metadata.num_rows
    known: dict[str, str] = {}  # a class's name is kept once
    try:
        for value in _label_values(file, leaf):
            label = _label(value, len(found), names, path)
            found.append(known.setdefault(label, label))
            if len(known) > MAX_CLASSES:
                raise DataError(path, f"more than {MAX_CLASSES:,} labels that differ", "a column of classes")
            if len(found) > rows:
                break
    except (ValueError, IndexError) as error:  # IndexError: a row group without the column
        raise DataError(path, f"column {column}: {error}", "a whole file") from None
    if len(found) != rows:
        raise DataError(path, f"{len(found):,} labels for {rows:,} rows", "a whole file")
    return found


def _label_values(file: _File, leaf: int) -> Iterator[Any]:
    for group in range(file.metadata.num_row_groups):
        for values in _values(file, leaf, group):
            yield from values


def _label(value: Any, row: int, names: Sequence[str], path: Path) -> str:
    if value is None or value != value:  # NaN is how a table of pandas says that there is none
        raise DataError(path, f"row {row}: no label", "one class for each image")
    if names and not (isinstance(value, int) and 0 <= value < len(names)):
        raise DataError(path, f"row {row}: label {value!r:.50} has no name among {len(names)}", "the schema's names")
    try:
        label = names[value] if names else value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        raise DataError(path, f"row {row}: label {value!r:.50} is not UTF-8 text", "names or numbers") from None
    if len(label) > MAX_LABEL:
        raise DataError(path, f"row {row}: a label of {len(label):,} characters", "the name of a class")
    return label


def _class_names(file: _File, column: str) -> list[str]:
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
