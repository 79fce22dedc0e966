"""Trials of a series, a line each in trials.jsonl: those that are there are not repeated."""

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from daybreak.benchmarking.record import spread
from daybreak.core.config import Recipe
from daybreak.core.errors import NonFiniteError, StoppedError
from daybreak.core.options import TrainOptions
from daybreak.data import Dataset
from daybreak.training.train import train

Row = dict[str, Any]


def run_once(folder: Path, name: str, recipe: Recipe, dataset: Dataset, seed: int) -> Row:
    """A trial, evaluated on the data's test part; it is added to the record if it is not there."""
    for row in read(folder):
        if (row["name"], row["seed"]) == (name, seed):
            return row
    row = {"name": name, "seed": seed, "recipe": recipe.model_dump(mode="json", exclude={"expected"})}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            run = train(recipe, dataset, Path(scratch) / "run", TrainOptions(seed=seed))
        except NonFiniteError as error:
            row["failed"] = str(error)
        else:
            summary = run.summary
            if summary["interrupted"]:
                raise StoppedError(summary["interrupted"], f"the same command with --out {folder} goes on")
            row |= {"accuracy": summary["test_acc"], "loss": summary["test_loss"]}
            row |= {"train_seconds": summary["train_seconds"], "steps": summary["steps"]}
            row["curve"] = [[r["progress"], r["batch_loss"]] for r in run.metrics("step")]
            row["epochs"] = [[r["progress"], r["test_acc"]] for r in run.metrics("epoch")]
    with (folder / "trials.jsonl").open("ab", buffering=0) as file:  # in one write: rivals.py has two workers
        file.write(f"{json.dumps(row)}\n".encode())
    print(name, seed, row.get("accuracy", "failed"), f"{row.get('train_seconds', 0):.0f} s", flush=True)
    return row


def read(folder: Path) -> list[Row]:
    file = folder / "trials.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]  # another worker may be writing the last one


def by_name(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["name"], []).append(row)
    return groups


def accuracy_of(group: list[Row]) -> Row:
    return spread([row["accuracy"] for row in group if "failed" not in row])


def by_seed(rows: Iterable[Row]) -> dict[int, float]:
    """Accuracy; a failed trial counts as nothing right."""
    return {row["seed"]: row.get("accuracy", 0.0) for row in rows}


def lead(one: Mapping[int, float], other: Mapping[int, float], seeds: Iterable[int]) -> Row:
    """How many points the first is ahead of the other, seed by seed."""
    return spread([100 * (one[seed] - other[seed]) for seed in sorted(seeds)])


def about(folder: Path) -> str:
    setting, rows = json.loads((folder / "setting.json").read_text()), read(folder)
    hardware, seeds = setting["hardware"], sorted({row["seed"] for row in rows})
    return (
        f"{setting['dataset']}, {hardware['cores']} cores, {hardware['cpu']}, seeds {', '.join(map(str, seeds))}, "
        f"{len(rows)} trials of which {failed(rows)} failed; record `benchmarks/records/{folder.name}`."
    )


def failed(group: list[Row]) -> int:
    return sum("failed" in row for row in group)


def per_cent(value: Mapping[str, Any]) -> str:
    if value["mean"] is None:
        return "failed"
    return f"{100 * value['mean']:.2f}" + (f" ± {100 * value['std']:.2f}" if value["std"] is not None else "") + " %"
