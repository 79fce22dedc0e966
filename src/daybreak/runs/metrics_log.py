"""metrics.jsonl, a row per logged step and per epoch, and metrics.csv, the same epochs as a table.

The first is the record: it only grows, and is cut back when a run is resumed from a checkpoint. The table follows it.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from daybreak.core.errors import RunError
from daybreak.core.files import append_text, flush, free_name, storage_errors, truncate, write_text
from daybreak.runs.metrics_rows import Kept, Row, fault_in, kept_until
from daybreak.runs.reading import COPY, parse_object, read_text


class MetricsLog:
    """The metrics of one run directory. What was read or appended is kept, and read again only if the file has changed
    since, so that a long run does not parse its own rows at every epoch."""

    def __init__(self, folder: Path) -> None:
        self.path, self.table = folder / "metrics.jsonl", folder / "metrics.csv"
        self._rows: list[Row] = []
        self._columns: list[str] = []
        self._stamp: tuple[int, int] | None = None  # of the file whose rows these are

    def rows(self, event: str) -> list[Row]:
        """The rows of one kind, `step` or `epoch`.

        Raises:
            RunError: the file is missing or cannot be read.
        """
        self._update()
        return [dict(row) for row in self._rows if row["event"] == event]

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row to the file, and to the table if it is that of an epoch.

        Raises:
            StorageError: the file system refused.
        """
        if self.path.exists():
            self._update()
        line = json.dumps(row, allow_nan=False)
        append_text(self.path, line + "\n")
        self._rows.append(json.loads(line))  # exactly what a reader of the file gets
        self._stamp = _stamp(self.path)
        if row["event"] == "epoch":
            self._append_to_table(self._rows[-1])

    def flush(self) -> int:
        """Make the rows survive a power cut; returns how many bytes metrics.jsonl has."""
        if self.table.exists():
            flush(self.table)
        return flush(self.path)

    def until(self, step: int, size: int) -> Kept:
        """What of the log is kept when the run goes on after this step, at which the log had `size` bytes. Nothing is
        written: see `keep`.

        Raises:
            RunError: a file is there and the system does not let it be read, or the log is a link: what is written to
                it would go to a file outside the run.
        """
        if self.path.is_symlink():
            raise RunError(self.path, "is a link, and rows cannot be added to it", COPY)
        log, table = _bytes_of(self.path), _bytes_of(self.table)
        return kept_until(step, size, log, (table or b"").decode("utf-8", "replace").replace("\0", ""))

    def keep(self, kept: Kept) -> None:
        """Drop all other rows, and make the table anew. Damaged files are set aside as `damaged-…`.

        Raises:
            StorageError: the file system refused.
        """
        if kept.damage:
            for path in (self.path, self.table):
                if path.exists():
                    with storage_errors(path):
                        path.rename(free_name(path))
            write_text(self.path, kept.text)
        else:
            truncate(self.path, len(kept.text.encode("utf-8")))
        self._rows, self._stamp = [], None
        if self.path.exists():
            self._update()
        self._write_table()

    def _update(self) -> None:
        if self._stamp is None or _stamp(self.path) != self._stamp:
            stamp = _stamp(self.path)  # taken first: rows that come while the file is read are read again later
            self._rows, self._stamp = _parse(self.path), stamp

    def _append_to_table(self, row: Row) -> None:
        """A key that the table has no column for, such as every key of the first epoch, makes it anew."""
        if self.table.exists() and set(_keys([row])) <= set(self._columns):
            append_text(self.table, _csv(self._columns, [row]))
        else:
            self._write_table()

    def _write_table(self) -> None:
        epochs = [row for row in self._rows if row["event"] == "epoch"]
        self._columns = _keys(epochs)
        header = dict(zip(self._columns, self._columns, strict=True))
        write_text(self.table, _csv(self._columns, [header, *epochs]))


def _parse(path: Path) -> list[Row]:
    *lines, unfinished = read_text(path).split("\n")
    lines += [unfinished] if unfinished.endswith("}") else []  # a killed run may have left half a row
    rows = [parse_object(path, line) for line in lines]
    for number, row in enumerate(rows, 1):
        if fault := fault_in(row):
            raise RunError(path, f"line {number}: {fault}", COPY)
    return rows


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(path, f"cannot be read ({error.strerror})", COPY) from None


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _keys(rows: Sequence[Row]) -> list[str]:
    """The keys of all rows in the order of their first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row if key != "event"))


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")  # JSON may hold half a surrogate pair
