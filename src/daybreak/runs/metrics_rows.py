"""What a row of metrics.jsonl must have, and which rows of a damaged log can be kept."""

import csv
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

Row = dict[str, Any]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Position(BaseModel):
    """Callbacks may add keys of their own."""

    model_config = ConfigDict(extra="allow", strict=True)
    step: int = Field(ge=1)
    progress: Number
    lr: Number
    momentum: Number
    size: int = Field(ge=1)
    train_seconds: Number
    batch_loss: Number | None


class _Step(_Position):
    event: Literal["step"]


class _Epoch(_Position):
    event: Literal["epoch"]
    epoch: Number
    train_loss: Number
    train_acc: Number


_ROW: TypeAdapter[_Step | _Epoch] = TypeAdapter(Annotated[_Step | _Epoch, Field(discriminator="event")])


def fault_in(row: Mapping[str, Any]) -> str | None:
    """What a row lacks or has of the wrong kind: the key and why, or None."""
    try:
        found = _ROW.validate_python(row)
    except ValidationError as error:
        first = error.errors()[0]
        keys = [str(part) for part in first["loc"] if part not in ("step", "epoch")]  # the kind of row, not a key
        return f"{'.'.join(keys) or first['loc'][-1] if first['loc'] else 'event'}: {first['msg']}"
    if isinstance(found, _Epoch) and not any({f"{part}_loss", f"{part}_acc"} <= set(row) for part in ("test", "val")):
        return "test_acc or val_acc: neither is there"
    return None


@dataclass(frozen=True)
class Kept:
    """What of a log is kept when a run goes on after a step.

    Attributes:
        text: the whole content of the log from then on.
        damage: what was wrong with it, as a note; None if it only has to be cut.
    """

    text: str
    damage: str | None = None


def kept_until(step: int, size: int, log: bytes | None, table: str) -> Kept:
    """The rows up to a checkpoint.

    Args:
        step, size: where the checkpoint was taken, and how many bytes the log had by then.
        log: metrics.jsonl, or None where it is missing.
        table: metrics.csv, from which epochs can come that the log has lost.
    """
    content = log or b""
    head = content[:size]
    if len(content) >= size and all(_sound(line, step) for line in head.splitlines()) and head[-1:] in (b"", b"\n"):
        return Kept(head.decode("utf-8"))
    rows = [row for line in content.split(b"\n") if (row := _sound(line, step))]
    there = {row["step"] for row in rows if row["event"] == "epoch"}
    restored = [row for row in _epochs_of(table, step) if row["step"] not in there]
    rows = sorted([*rows, *restored], key=lambda row: (row["step"], row["event"] == "epoch"))
    found = f"{len(rows) - len(restored)} rows of it" + (f" and {len(restored)} of metrics.csv" if restored else "")
    state = "missing" if log is None else "damaged"
    return Kept("".join(json.dumps(row) + "\n" for row in rows), f"metrics.jsonl was {state}: {found} are kept")


def _sound(line: bytes, step: int) -> Row | None:
    try:
        row = json.loads(line.decode("utf-8"))  # of bytes it would take lone surrogates and UTF-16 too
    except (ValueError, RecursionError):
        return None
    is_row = isinstance(row, dict) and fault_in(row) is None
    return row if is_row and row["step"] <= step else None


def _epochs_of(table: str, step: int) -> Iterable[Row]:
    with suppress(csv.Error):  # a field longer than the reader takes: what stands before it is kept
        for values in csv.DictReader(table.splitlines()):
            row = _typed(values)
            if fault_in(row) is None and row["step"] <= step:
                yield row


def _typed(values: Mapping[str, Any]) -> Row:
    row: Row = {"event": "epoch"}
    for key, text in values.items():
        try:
            row |= {key: json.loads(text)} if text else {}
        except (ValueError, TypeError, RecursionError):
            row |= {key: text}
    row.setdefault("batch_loss", None)
    return row
