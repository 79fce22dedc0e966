"""DAWNBench's own files: the log of an epoch a line as .tsv, and a .json beside it for training and for inference.

The format is that of the published entries (github.com/stanford-futuredata/dawn-bench-entries, README): hours since the
start, accuracy in per cent, cost of one image = cost an hour × latency.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from daybreak.core.files import write_json, write_text

HOUR = 3600.0


def tsv(epochs: Sequence[Mapping[str, Any]]) -> str:
    """Rows of metrics.jsonl as DAWNBench's training log."""
    rows = [f"{math.ceil(row['epoch'])}\t{row['train_seconds'] / HOUR}\t{100 * row['test_acc']}" for row in epochs]
    return "\n".join(["epoch\thours\ttop1Accuracy", *rows]) + "\n"


def training_cost(seconds: float, cost_per_hour: float) -> float:
    """USD of a training run."""
    return cost_per_hour * seconds / HOUR


def inference_cost(latency_ms: float, cost_per_hour: float) -> float:
    """USD of classifying one image."""
    return cost_per_hour * latency_ms / 1e3 / HOUR


def describe(row: Mapping[str, Any], record: Mapping[str, Any], cost_per_hour: float | None) -> dict[str, Any]:
    """The fields that training and inference entries share.

    Args:
        row: of a record, for one recipe.
    """
    hardware, versions = record["hardware"], record["versions"]
    accelerator = hardware.get("gpu") or f"{hardware['cores']} cores"
    return {
        "version": "v1.0",
        "author": "daybreak",
        "authorEmail": "",
        "framework": f"PyTorch {versions['torch']}, daybreak {versions['daybreak']}",
        "model": f"{row['config']['model']['name']}, recipe {row['recipe']}",
        "hardware": f"{accelerator} / {hardware['cpu']}",
        **({} if cost_per_hour is None else {"costPerHour": cost_per_hour}),
        "timestamp": date.today().isoformat(),
        "misc": {"dataset": row["dataset"], "threads": hardware["threads"], "compute dtype": record["compute_dtype"]},
    }


def write_entries(
    folder: Path,
    row: Mapping[str, Any],
    record: Mapping[str, Any],
    logs: Mapping[int, str],
    cost_per_hour: float | None,
) -> None:
    """Write train/NAME.tsv and .json for every seed, and inference/NAME.json where a latency was measured: that of the
    fastest form that answers as the run does, which "misc" names.

    Args:
        logs: the training log of each seed that did not fail, as `tsv` makes it.

    Raises:
        StorageError: a file cannot be written.
    """
    shared = describe(row, record, cost_per_hour)
    stem = f"daybreak_{row['recipe']}_{record['hardware']['device']}-{record['hardware']['cores']}cores_pytorch"
    for seed, log in logs.items():
        entry = shared | {"misc": shared["misc"] | {"seed": seed, "rule": "accuracy of one view at each epoch's end"}}
        write_json(folder / "train" / f"{stem}_seed{seed}.json", entry)
        write_text(folder / "train" / f"{stem}_seed{seed}.tsv", log)
    if row["latency_ms"] is not None:
        cost = {} if cost_per_hour is None else {"cost": inference_cost(row["latency_ms"], cost_per_hour)}
        form = next(r for r in row["latency"] if (r["form"], r["batch"]) == (row["latency_form"], 1))
        found = {"latency": row["latency_ms"], **cost, "top1Accuracy": 100 * form["test_acc"]}
        said = {key: form[key] for key in ("form", "device", "dtype", "n")} | {"seed": row["latency_run"]["seed"]}
        misc = shared["misc"] | said | {"latency": "median, one image a call"}
        write_json(folder / "inference" / f"{stem}.json", shared | found | {"misc": misc})
