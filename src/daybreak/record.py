"""What a series of runs says, and the files that prove it.

A record is a folder: record.json, and for every run `LABEL/seed-N/` with its configuration, raw log and summary.
`make_record` computes the first from the others, so every number can be traced to its runs.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from daybreak.run import RunDirectory

CLOCK = (
    "train_seconds: from before the first byte of training data is touched, stopped for evaluation; excludes process "
    "start, download, decoding and one-off compilation (docs/run-directory.md)"
)
FIGURES = ("test_acc", "test_acc_tta", "test_loss", "train_seconds", "wall_seconds", "images_per_second")
EVIDENCE = ("config.json", "summary.json", "metrics.jsonl")
SHARED = ("hardware", "versions", "compute_dtype")


def keep_evidence(run: RunDirectory, folder: Path) -> None:
    """Copy what proves a run; paths on this machine are cut down to the file's name."""
    folder.mkdir(parents=True)
    for name in (name for name in EVIDENCE if (run.path / name).exists()):  # a run may fail before its first row
        text = (run.path / name).read_text(encoding="utf-8")
        text = _json(_without_paths(json.loads(text))) if name == "config.json" else text
        (folder / name).write_text(text, encoding="utf-8")


def make_record(folder: Path, target: float | None = None, dawn_rule: bool = False) -> dict[str, Any]:
    """All that the runs of a record's folder say, a row for each label, the quickest first.

    Args:
        target: accuracy for the time to target; without it there is none.
        dawn_rule: count the first epoch whose test accuracy reaches the target, not the whole run.
    """
    rows, shared = [], None
    for label in sorted({path.parent.parent.name for path in folder.glob("*/seed-*/config.json")}):
        runs = [RunDirectory.open(path) for path in sorted((folder / label).glob("seed-*"), key=_seed)]
        facts = [{key: run.config[key] for key in SHARED} for run in runs]
        shared = shared or facts[0]
        if any(fact != shared for fact in facts):
            raise ValueError(f"{label}: runs of one record differ in hardware or versions")
        rows.append(_row(label, runs, target, dawn_rule))
    rows.sort(key=lambda row: row["train_seconds"]["mean"] or math.inf)
    return {"clock": CLOCK, **(shared or {}), "target": target, "recipes": rows}


def write_record(folder: Path, record: Mapping[str, Any]) -> Path:
    path = folder / "record.json"
    path.write_text(_json(record), encoding="utf-8")
    return path


def read_record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    return record


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation and the 95 % interval of the mean (Student's t); the last two need two values."""
    if not values:
        return {"mean": None, "std": None, "ci95": None, "values": []}
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return {"mean": mean, "std": None, "ci95": None, "values": list(values)}
    std = statistics.stdev(values)
    half = float(stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n)
    return {"mean": mean, "std": std, "ci95": [mean - half, mean + half], "values": list(values)}


def time_to_target(seconds: Sequence[float | None], target: float, dawn_rule: bool) -> dict[str, Any]:
    """Statistics of times of which some are missing: a run that never got there counts as infinite.

    The median is finite as long as more than half of the runs got there; the mean only if all did. What is not finite
    is None, as JSON has no infinity.
    """
    endless = [math.inf if value is None else value for value in seconds]
    reached = [value for value in endless if math.isfinite(value)]
    return {
        "target": target,
        "rule": "first epoch, one view" if dawn_rule else "whole run, the recipe's TTA",
        "n": len(endless),
        "reached": len(reached),
        "mean": statistics.fmean(reached) if endless and len(reached) == len(endless) else None,
        "median": _finite(statistics.median(endless)) if endless else None,
        "values": list(seconds),
    }


def _row(label: str, runs: Sequence[RunDirectory], target: float | None, dawn_rule: bool) -> dict[str, Any]:
    finished = [run for run in runs if run.summary["test_acc"] is not None]
    row = {
        "recipe": label,
        "dataset": runs[0].config["data"]["title"],
        "command": runs[0].config["command"],
        "seeds": [run.config["seed"] for run in runs],
        "n": len(finished),
        "failed": len(runs) - len(finished),
        **{figure: spread([run.summary[figure] for run in finished]) for figure in FIGURES},
        "config": runs[0].config["recipe"],
    }
    if target is not None:
        times = [_time_to(run, target, dawn_rule) for run in runs]
        row["time_to_target"] = time_to_target(times, target, dawn_rule)
    return row


def _time_to(run: RunDirectory, target: float, dawn_rule: bool) -> float | None:
    summary = run.summary
    if summary["test_acc"] is None:
        return None
    if dawn_rule:
        rows = (row for row in run.metrics("epoch") if row["test_acc"] >= target)
        return next((float(row["train_seconds"]) for row in rows), None)
    return float(summary["train_seconds"]) if summary["test_acc_tta"] >= target else None


def _seed(path: Path) -> int:
    return int(path.name.removeprefix("seed-"))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    request = config["data"]["request"]
    data, name = str(request["data"]), Path(request["data"]).name
    command = [name if word == data else word for word in config["command"]]
    return config | {"data": config["data"] | {"request": request | {"data": name}}, "command": command}


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, allow_nan=False) + "\n"
