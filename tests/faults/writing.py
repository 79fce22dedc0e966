"""A program under shim.c: writes checkpoints into the folder it is given, and says what the shim then counted.

LD_PRELOAD=shim.so FAULTS_ROOT=FOLDER python writing.py calm FOLDER        three checkpoints; FAULTS_LOG has the calls
LD_PRELOAD=shim.so FAULTS_ROOT=FOLDER python writing.py faults FOLDER      the third fails at each call in turn
"""

import ctypes
import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from daybreak.core.errors import StorageError
from daybreak.core.files import append_text, flush, remove_leftovers, truncate, write_json
from daybreak.training.checkpoint import Checkpoint, newest, write

SHIM = ctypes.CDLL(None)
SHIM.faults_count.restype = ctypes.c_long
ROWS = 3  # of the log, before every checkpoint


def made(step: int) -> Checkpoint:
    """A checkpoint whose every number says its step."""
    facts = {"step": step, "skipped": 0, "sizes": {}, "spent": {}, "circumstances": {}}
    tensors = {f"net.{name}": torch.full((40, 50), float(step)) for name in "ab"}
    return Checkpoint(tensors, facts | {"metrics_bytes": 0})


def save(folder: Path, step: int) -> None:
    """What a training does: rows of a log, flushed, then a checkpoint that knows how long the log was."""
    log = folder / "metrics.jsonl"
    append_text(log, "".join(json.dumps({"step": step, "row": row}) + "\n" for row in range(ROWS)))
    checkpoint = made(step)
    checkpoint.facts["metrics_bytes"] = flush(log)
    write(folder / "checkpoints", checkpoint)


def calm(folder: Path) -> None:
    log = Path(os.environ["FAULTS_LOG"])
    write_json(folder / "config.json", {"text": "first"})
    for step in (1, 2, 3):
        save(folder, step)
        with log.open("a") as file:
            file.write(f"acknowledge {step}\n")
    write_json(folder / "config.json", {"text": "second"})


def faults(folder: Path) -> None:
    """Every call of a save, refused once with each error."""
    for error in (errno.ENOSPC, errno.EIO):
        calls = refused_at(folder / f"{error}-count", 0, error)[1]
        for number in range(1, calls + 1):
            was_refused, _ = refused_at(folder / f"{error}-{number}", number, error)
            print(json.dumps({"error": error, "number": number, "of": calls} | was_refused), flush=True)


def refused_at(folder: Path, number: int, error: int) -> tuple[dict[str, object], int]:
    folder.mkdir()
    save(folder, 1)
    save(folder, 2)
    size = (folder / "metrics.jsonl").stat().st_size
    SHIM.faults_arm(ctypes.c_long(number), ctypes.c_int(error))
    said = _error_of(lambda: save(folder, 3))
    calls = SHIM.faults_count()
    SHIM.faults_arm(ctypes.c_long(0), ctypes.c_int(0))
    remove_leftovers(folder)
    truncate(folder / "metrics.jsonl", size)
    found, damaged = newest(folder / "checkpoints")
    whole = found is not None and all(bool((v == found.facts["step"]).all()) for v in found.tensors.values())
    left = sorted(path.name for path in folder.rglob("*") if path.name.startswith("."))
    step = found.facts["step"] if found else None
    return {"said": said, "step": step, "whole": whole, "damaged": damaged, "left": left}, calls


def _error_of(action: Callable[[], None]) -> str | None:
    try:
        action()
    except StorageError as error:
        return str(error)
    return None


if __name__ == "__main__":
    {"calm": calm, "faults": faults}[sys.argv[1]](Path(sys.argv[2]))
