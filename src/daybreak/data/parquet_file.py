"""One Parquet file of images and their labels. It may be damaged, or claim more than it holds."""

import json
import mmap
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from daybreak.core.errors import DataError, one_line
from daybreak.data.archives import refuse_swelling, unpacked_limit
from daybreak.data.arrays import MAX_CLASSES
from daybreak.data.pages import Chunk, chunks_of, unpacked
from daybreak.data.table import IMAGE, LABEL

LABELS = (*LABEL, "labels", "fine_label")
IMAGES = (*IMAGE, "img")
MAX_LABEL = 1000  # characters
ROWS_AT_A_TIME, BYTES_AT_A_TIME = 64, 256 * 2**20
NO_BYTES = "has no bytes in it, only a path or nothing"


class ParquetFile:
    """A file that is mapped into memory. (Of one that is not, pyarrow takes memory for all images of a row group before
    it gives out the first, or for as many bytes as a damaged page claims to have.)

    Attributes:
        path: of the file.
        groups: how many rows each row group has.

    Raises:
        DataError: it cannot be read, or pyarrow is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path, arrow = path, _pyarrow(path)
        try:
            with path.open("rb") as file:
                self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._opened = arrow.parquet.ParquetFile(arrow.BufferReader(self._memory), pre_buffer=False)
        except Exception as error:  # pyarrow raises kinds of its own
            why = f"cannot be read as Parquet ({one_line(error)[:100]})"
            raise DataError(path, why, "a whole file") from None
        # (What the foot says of a single column is not asked for: where that is damaged, pyarrow ends the process.)
        metadata = self._opened.metadata
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        self.rows, self.groups = int(metadata.num_rows), [int(group.num_rows) for group in groups]
        refuse_swelling(path, self.rows, sum(int(group.total_byte_size) for group in groups), unpacked_limit(path))

    @property
    def class_names(self) -> list[str]:
        """What `datasets` writes of a ClassLabel into the schema; nothing where it wrote none.

        Raises:
            DataError: there is no column of labels.
        """
        column = self._column(LABELS, "label")
        try:
            facts = json.loads((self._opened.schema_arrow.metadata or {})[b"huggingface"])
            names = facts["info"]["features"][column]["names"]
        except (KeyError, TypeError, ValueError, RecursionError):
            return []
        return [str(name) for name in names] if isinstance(names, list) else []

    def images(self, group: int) -> Iterator[list[Any]]:
        """The values of the image column in a row group, some at a time.

        Raises:
            DataError: there is no such column.
            ValueError: it holds no bytes, or whatever pyarrow says of values that cannot be read.
        """
        column = self._column(IMAGES, "image")
        leaf = self._leaf((column, f"{column}.bytes"))
        if leaf is None:
            raise ValueError(NO_BYTES)
        return self._values(group, leaf)

    def labels(self) -> list[str]:
        """The label of each row.

        Raises:
            DataError: one is missing or has no name, there are too many that differ, or they cannot be read.
        """
        column = self._column(LABELS, "label")
        leaf = self._leaf([column])
        if leaf is None:
            raise DataError(self.path, "row 0: several labels an image", "one class for each image")
        names, found = self.class_names, list[str]()
        known: dict[str, str] = {}  # a class's name is kept once
        try:
            for value in self._all_values(leaf):
                label = _label(value, len(found), names, self.path)
                found.append(known.setdefault(label, label))
                if len(known) > MAX_CLASSES:
                    raise DataError(self.path, f"more than {MAX_CLASSES:,} labels that differ", "a column of classes")
                if len(found) > self.rows:
                    break
        except (ValueError, IndexError) as error:  # IndexError: a row group without the column
            raise DataError(self.path, f"column {column}: {error}", "a whole file") from None
        if len(found) != self.rows:
            raise DataError(self.path, f"{len(found):,} labels for {self.rows:,} rows", "a whole file")
        return found

    def _all_values(self, leaf: int) -> Iterator[Any]:
        for group in range(len(self.groups)):
            for values in self._values(group, leaf):
                yield from values

    def _values(self, group: int, leaf: int) -> Iterator[list[Any]]:
        try:
            yield from self._batches(group, leaf)
        except Exception as error:  # pyarrow raises kinds of its own
            raise ValueError(f"cannot be read ({one_line(error)[:100] or type(error).__name__})") from None

    def _batches(self, group: int, leaf: int) -> Iterator[list[Any]]:
        """So few rows at a time that they fit into BYTES_AT_A_TIME even if each value is as long as all that is stored:
        what repeats is stored once."""
        self._release()
        stored, limit = unpacked(self._memory, self._chunks[group][leaf]), unpacked_limit(self.path)
        if stored > limit:
            raise ValueError(f"a column that unpacks to {stored:,} bytes: too much for its size")
        rows, name = max(1, min(ROWS_AT_A_TIME, BYTES_AT_A_TIME // max(1, stored))), self._leaves[leaf]
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

    def _column(self, names: Sequence[str], what: str) -> str:
        try:
            there = list(dict.fromkeys(leaf.partition(".")[0] for leaf in self._leaves))
        except UnicodeDecodeError:
            raise DataError(self.path, "the name of a column is not UTF-8 text", "a whole file") from None
        found = next((name for name in names if name in there), None)
        if found is None:
            why = f"no column called {what} (found: {one_line(', '.join(there))[:100]})"
            raise DataError(self.path, why, f"call it one of {', '.join(names)}")
        return found

    @cached_property
    def _leaves(self) -> list[str]:
        """The paths of what holds values: COLUMN, or COLUMN.FIELD in a structure."""
        schema = self._opened.schema
        return [schema.column(n).path for n in range(len(schema))]

    def _leaf(self, paths: Sequence[str]) -> int | None:
        """The number of the first leaf of such a path that has one value a row; None where lists or other fields
        are."""
        schema = self._opened.schema
        found = (n for n, leaf in enumerate(self._leaves) if leaf in paths)
        return next((n for n in found if not schema.column(n).max_repetition_level), None)


def _pyarrow(path: Path) -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(path, "needs pyarrow, which is not installed", "pip install pyarrow") from None
    return pyarrow


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
