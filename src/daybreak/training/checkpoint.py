"""Checkpoints on disk: written whole or not at all, and believed only after their bytes have been checked.

A checkpoint is a folder `checkpoints/step-00000120` with `state.safetensors` (weights, buffers, moving average,
optimizer, random states), `state.json` (step, clock, how far metrics.jsonl had come) and `manifest.json`, the SHA-256
of both, which is checked before either is parsed. Nothing is pickled. What the state is made of: `training.state`.
"""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from daybreak.core.errors import RunError, StorageError
from daybreak.core.files import free_name, remove_folder, storage_errors, to_json, whole_folder, write_json
from daybreak.runs.schemas import Facts, fault_in

FORMAT = 1
TENSORS, FACTS, MANIFEST, BEST = "state.safetensors", "state.json", "manifest.json", "best.json"
KEPT = 2  # besides the best


@dataclass(frozen=True)
class Checkpoint:
    """A run's state after a whole step.

    Attributes:
        facts: `step`, `skipped`, `sizes` (steps at each image size), `spent` (seconds of each phase), `metrics_bytes`,
            `callbacks` (what they want kept) and `circumstances`, on which exact bits depend.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def write(folder: Path, checkpoint: Checkpoint) -> Path:
    """Store a checkpoint and remove old ones: the newest two stay, and the one that is marked as best.

    Raises:
        StorageError: the file system refused; what was there is still there.
    """
    path = _path(folder, checkpoint.facts["step"])
    if not path.exists():
        files = {TENSORS: save(checkpoint.tensors), FACTS: to_json(checkpoint.facts | {"format": FORMAT}).encode()}
        files[MANIFEST] = to_json({name: sha256(content).hexdigest() for name, content in files.items()}).encode()
        with whole_folder(path, sum(map(len, files.values()))) as unfinished:
            for name, content in files.items():
                (unfinished / name).write_bytes(content)
    _remove_old(folder)
    return path


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and what was wrong with newer ones; those are set aside as `damaged-…`.

    Returns:
        None where there never was a checkpoint.

    Raises:
        RunError: there are checkpoints, but all are damaged, or one is of a newer daybreak.
    """
    damaged: list[str] = []
    for path in reversed(_stored(folder)):
        try:
            return read(path), damaged
        except _DamagedError as error:
            aside = free_name(path)
            with storage_errors(path):
                path.rename(aside)
            damaged.append(f"{path.name} is damaged ({error}), kept as {aside.name}")
    if any(folder.glob("damaged-*")):
        why = "; ".join(damaged) or "there are only damaged ones"
        raise RunError(folder, f"no checkpoint can be used: {why}", "a copy of one, or train again with another --out")
    return None, []


def read_step(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of a step that another process has found to be whole.

    Raises:
        RunError: this process does not find the same.
    """
    try:
        return read(_path(folder, step))
    except _DamagedError as error:
        raise RunError(_path(folder, step), f"is damaged here ({error})", "one folder for all processes") from None


def mark_best(folder: Path, step: int) -> None:
    """Say that the checkpoint of this step is the best so far: it stays until another one is."""
    write_json(folder / BEST, {"step": step})


def best(folder: Path) -> Checkpoint | None:
    """The checkpoint that is marked as best; None where none is.

    Raises:
        RunError: it is damaged.
    """
    path = _best_path(folder)
    if path is None:
        return None
    try:
        return read(path)
    except _DamagedError as error:
        raise RunError(path, f"is damaged ({error})", "--keep last, or train again") from None


def read(path: Path) -> Checkpoint:
    """A stored checkpoint, its content checked before it is parsed."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        content = {name: (path / name).read_bytes() for name in (TENSORS, FACTS)}
    except FileNotFoundError as error:
        raise _DamagedError(f"{Path(error.filename).name} is missing") from None
    except OSError as error:
        raise _DamagedError(f"cannot be read, {error.strerror}") from None
    except (ValueError, RecursionError):
        raise _DamagedError(f"{MANIFEST} cannot be read") from None
    for name, found in content.items():
        if not isinstance(manifest, dict) or manifest.get(name) != sha256(found).hexdigest():
            raise _DamagedError(f"{name} is not what {MANIFEST} says")
    return Checkpoint(_tensors(content[TENSORS]), _facts(path, content[FACTS]))


def _tensors(content: bytes) -> dict[str, Tensor]:
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _DamagedError(f"{TENSORS} cannot be read ({type(error).__name__})") from None


def _facts(path: Path, content: bytes) -> dict[str, Any]:
    """What the sums do not tell: they can have been made to fit."""
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError):
        raise _DamagedError(f"{FACTS} cannot be read") from None
    if isinstance(facts, dict) and isinstance(facts.get("format"), int) and facts["format"] > FORMAT:
        raise RunError(path, "written by a newer version of daybreak", "upgrade daybreak")
    if fault := fault_in(facts, Facts):
        raise _DamagedError(f"{FACTS}: {fault}")
    return dict(facts)


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def _stored(folder: Path) -> list[Path]:
    """The checkpoints by their step: as text, 100,000,000 would stand before 99,999,999."""
    return sorted(folder.glob("step-[0-9]*"), key=lambda path: int(re.findall(r"[0-9]+", path.name)[0]))


class _DamagedError(Exception):
    """A checkpoint is not what was written."""


def _remove_old(folder: Path) -> None:
    for path in _stored(folder)[:-KEPT]:
        if path != _best_path(folder):
            with suppress(StorageError):  # it costs space and nothing else
                remove_folder(path)


def _best_path(folder: Path) -> Path | None:
    try:
        return _path(folder, int(json.loads((folder / BEST).read_bytes())["step"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None  # nothing was marked, or the mark cannot be read
