"""Runs for the tests of resuming: forty steps, with all that could be forgotten in a checkpoint."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from daybreak.core.config import Recipe, override
from daybreak.core.locks import LOCK
from daybreak.core.options import TrainOptions
from daybreak.data import open_dataset
from daybreak.recipes import RECIPES
from daybreak.runs.directory import RunDirectory
from daybreak.training.checkpoint import MANIFEST, TENSORS
from daybreak.training.train import resume, train

STEPS = 40
TIMES = {"train_seconds"}


def recipe(name: str = "sprint", precision: str = "float32") -> Recipe:
    """Two epochs of twenty steps on digits, with a moving average, dropout and every augmentation."""
    settings: dict[str, Any] = {"epochs": 2, "min_steps": 0, "batch_size": 71, "precision": precision, "ema": 0.9}
    settings |= {"augment.crop": 2, "augment.cutout": 4, "augment.rotation": 10, "augment.brightness": 0.1}
    return override(RECIPES[name], settings | {"augment.contrast": 0.1, "model.width": 0.1, "model.dropout": 0.2})


def begin(out: str, name: str = "sprint", precision: str = "float32", every: int = 5) -> None:
    train(
        recipe(name, precision),
        open_dataset("digits"),
        Path(out),
        TrainOptions(device="cpu", checkpoint_every=f"{every}steps"),
    )


def go_on(out: str, every: int = 5, **options: Any) -> RunDirectory:
    data, own = open_dataset("digits"), RunDirectory.open(out).options
    return resume(out, data, replace(own, checkpoint_every=f"{every}steps"), **options)


def begin_or_go_on(out: str) -> None:
    """What a user does after a crash."""
    if not (Path(out) / "config.json").exists():
        begin(out)
    elif not (Path(out) / "summary.json").exists():
        go_on(out)


def final_state(path: Path) -> str:
    """The SHA-256 over all tensors of the last state."""
    last = max(path.glob("checkpoints/step-*"))
    assert last.name == f"step-{STEPS:08d}"
    return str(json.loads((last / MANIFEST).read_text())[TENSORS])


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what differs from one second to the next."""
    run = RunDirectory.open(path)
    found = sorted(run.metrics("step") + run.metrics("epoch"), key=lambda row: (row["step"], row["event"]))
    return [{key: value for key, value in row.items() if key not in TIMES} for row in found]


def files(path: Path) -> set[str]:
    """All files but the lock's: one that was killed after its last write leaves it, and it locks nothing."""
    return {f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file() and f.name != LOCK}
