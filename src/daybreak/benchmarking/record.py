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

from daybreak.core.config import Recipe
from daybreak.core.errors import RunError
from daybreak.core.files import remove_leftovers, to_json, whole_folder, write_json
from daybreak.evaluation.compare import SIGNIFICANT
from daybreak.runs.directory import RunDirectory
from daybreak.training.loop import reaches

CLOCK = (
    "train_seconds: from before the first byte of training data is touched, stopped for evaluation; excludes process "
    "start, download, decoding and one-off compilation (docs/run-directory.md)"
)
SECONDS = ("train_seconds", "final_evaluate_seconds", "wall_seconds")
FIGURES = ("test_acc", "test_acc_tta", "test_loss", *SECONDS, "images_per_second")
EVIDENCE = ("config.json", "summary.json", "metrics.jsonl")
SHARED = ("hardware", "versions", "compute_dtype")


def keep_evidence(run: RunDirectory, folder: Path) -> None:
    """Copy what proves a run; paths on this machine are cut down to the file's name.

    Raises:
        StorageError: the copy cannot be written; then nothing has the folder's name.
    """
    remove_leftovers(folder.parent)
    with whole_folder(folder) as unfinished:
        for name in (name for name in EVIDENCE if (run.path / name).exists()):  # a run may fail before its first row
            text = (run.path / name).read_text(encoding="utf-8")
            kept = to_json(_without_paths(json.loads(text))) if name == "config.json" else text
            (unfinished / name).write_text(kept, encoding="utf-8")


def evidence(folder: Path) -> dict[str, list[RunDirectory]]:
    """The runs of a record's folder by label, in the order of their seeds."""
    labels = sorted({path.parent.parent.name for path in folder.glob("*/seed-*/config.json")})
    return {
        label: [RunDirectory.open(path) for path in sorted((folder / label).glob("seed-*"), key=_seed)]
        for label in labels
    }


def shared_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What all runs of a record have in common."""
    return {key: config[key] for key in SHARED} | {"fingerprint": config["data"]["fingerprint"]}


def settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a run, without what is only said about it."""
    return {key: value for key, value in recipe.items() if key not in ("name", "summary", "expected")}


def check_same_setting(folder: Path, facts: Mapping[str, Any], recipes: Mapping[str, Recipe]) -> None:
    """Refuse, before anything is trained, to add runs to a record that they would not fit.

    Args:
        facts: of the runs to come, as far as they are known: some of the keys of `shared_facts`.
        recipes: by label; a recipe must be the one that the label's runs were made with.

    Raises:
        RunError: the record has other data, another machine, other versions, or another recipe of this name.
    """
    for label, runs in evidence(folder).items():
        there = shared_facts(runs[0].config)
        for key, value in facts.items():
            if there[key] != value:
                raise RunError(folder, f"its runs of {label} have another {key}", "another --out")
        if label in recipes and settings(recipes[label].model_dump(mode="json")) != settings(
            runs[0].recipe.model_dump(mode="json")
        ):
            raise RunError(folder / label, f"recipe {label} was another one then", "another --out")


def make_record(folder: Path, target: float | None = None, dawn_rule: bool = False) -> dict[str, Any]:
    """All that the runs of a record's folder say, a row for each label, the quickest first.

    Args:
        target: accuracy for the time to target; without it there is none.
        dawn_rule: count the first epoch whose test accuracy reaches the target, not the whole run.

    Raises:
        RunError: the runs do not belong into one record.
    """
    found = evidence(folder)
    facts = [shared_facts(run.config) for runs in found.values() for run in runs]
    if any(fact != facts[0] for fact in facts):
        raise RunError(folder, "its runs differ in data, hardware or versions", "another --out")
    for label, runs in found.items():
        if runs[0].options.budget is None and any(_recipe_of(run) != _recipe_of(runs[0]) for run in runs):
            raise RunError(folder / label, "its runs were made with different recipes", "another --out")
    is_shared = any(run.summary.get("shared_machine") for runs in found.values() for run in runs)
    rows = [_row(label, runs, target, dawn_rule) for label, runs in found.items()]
    if is_shared:
        rows = [row | _without_times() for row in rows]
    rows.sort(key=lambda row: row["train_seconds"]["mean"] or math.inf)
    shared = {"shared_machine": is_shared} if is_shared else {}
    return {"clock": CLOCK, **(facts[0] if facts else {}), **shared, "target": target, "recipes": rows}


def write_record(folder: Path, record: Mapping[str, Any]) -> Path:
    """record.json, whole or not at all; accuracies.json where runs shared a machine, which is no record."""
    return write_json(folder / ("accuracies.json" if record.get("shared_machine") else "record.json"), record)


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


def leads(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first recipe's accuracy against each other one's, as sentences that say whether the difference can be chance.

    Welch's test, which needs two runs of each; nothing is said where no run differs from another of its recipe.
    """
    found = []
    for row in rows[1:]:
        one, other = (each["test_acc_tta"]["values"] for each in (rows[0], row))
        if min(len(one), len(other)) < 2 or len({*one}) == len({*other}) == 1:
            continue
        test = stats.ttest_ind(one, other, equal_var=False)
        low, high = test.confidence_interval()
        points = f"{100 * (statistics.fmean(one) - statistics.fmean(other)):+.2f} points"
        verdict = "a significant difference" if test.pvalue < SIGNIFICANT else "which can be chance"
        found.append(
            f"{rows[0]['recipe']} against {row['recipe']}: {points} (95 % {100 * low:+.2f} to {100 * high:+.2f}, "
            f"Welch's test: p = {test.pvalue:.3g}), {verdict}"
        )
    return found


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
        **{figure: spread(_values(finished, figure)) for figure in FIGURES},
        "config": runs[0].config["recipe"],
        "chosen": [run.config["recipe"]["name"] for run in runs],  # under a budget not always the same
        "time_to_target": None,
    }
    if target is not None:
        times = [_time_to(run, target, dawn_rule) for run in runs]
        row["time_to_target"] = time_to_target(times, target, dawn_rule)
    return row


def _without_times() -> dict[str, Any]:
    """A row's times where its runs shared a machine: none, so that they cannot be quoted."""
    return {figure: spread([]) for figure in (*SECONDS, "images_per_second")} | {"time_to_target": None}


def _values(runs: Sequence[RunDirectory], figure: str) -> list[float]:
    """A figure of each run; nothing of runs that are older than it."""
    return [run.summary[figure] for run in runs if figure in run.summary]


def _recipe_of(run: RunDirectory) -> dict[str, Any]:
    return settings(run.recipe.model_dump(mode="json"))  # keys that are newer than the run have their defaults


def _time_to(run: RunDirectory, target: float, dawn_rule: bool) -> float | None:
    summary = run.summary
    if summary["test_acc"] is None:
        return None
    if dawn_rule:
        rows = run.metrics("epoch")
        good = (row for row in rows if reaches(row, rows[-1]["size"], target))
        return next((float(row["train_seconds"]) for row in good), None)
    return float(summary["train_seconds"]) if summary["test_acc_tta"] >= target else None


def _seed(path: Path) -> int:
    return int(path.name.removeprefix("seed-"))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    request = config["data"]["request"]
    data, name = str(request["data"]), Path(request["data"]).name
    words = (name if word == data else word for word in config["command"])
    changed: dict[str, Any] = {"command": [_without_path(word) for word in words]}
    if "options" in config:
        changed["options"] = {key: _without_path(value) for key, value in config["options"].items()}
    return config | changed | {"data": config["data"] | {"request": request | {"data": name}}}


def _without_path(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
