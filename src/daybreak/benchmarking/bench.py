"""`daybreak bench`: recipes side by side over many seeds, with what it takes to believe the numbers.

Runs are interleaved (every recipe's first seed, then every recipe's second, …), so that a drifting machine hits all
alike. A run whose loss stops being finite counts as failed. What proves a run is kept in the record's folder; a series
that was interrupted goes on with the runs it lacks when it is started again.

With several workers the runs are fanned out over processes that share this machine. Their accuracies are as good as
any; of their times nothing is kept, and no record is written.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from daybreak import api
from daybreak.benchmarking import dawnbench
from daybreak.benchmarking.latency import Latency, fastest, forms_of, measure
from daybreak.benchmarking.record import check_same_setting, evidence, keep_evidence, make_record, write_record
from daybreak.core import fanout
from daybreak.core.config import Compile, Device, Recipe, with_epochs
from daybreak.core.device import describe_hardware, pick_device, versions
from daybreak.core.errors import NonFiniteError, RunError, StoppedError, UsageError
from daybreak.core.events import OnEvent
from daybreak.core.files import write_json
from daybreak.core.options import TrainOptions, train_options
from daybreak.data import open_dataset
from daybreak.recipes import get_recipe
from daybreak.runs.directory import RunDirectory, default_paths
from daybreak.training import recipe_choice
from daybreak.training.balance import balance_for

LATENCY = "latency.json"
MODULE = "daybreak.benchmarking"  # what a worker's process runs


@dataclass(frozen=True)
class Candidate:
    """What is run with every seed: a recipe, or a budget for which a recipe is chosen."""

    label: str
    recipe: str | None
    epochs: int | None
    budget: float | None


@dataclass(frozen=True)
class Series:
    """A bench: what is run, how often, and where it goes; `forms` are those whose latency is measured."""

    data: str | Path
    candidates: tuple[Candidate, ...]
    seeds: range
    folder: Path
    device: Device
    forms: tuple[str, ...]
    compile: Compile


def bench(
    data: str | Path,
    recipes: Sequence[str] = (),
    *,
    epochs: int | None = None,
    budgets: Sequence[float] = (),
    runs: int = 5,
    seed: int = 0,
    target: float | None = None,
    dawn_rule: bool = False,
    cost_per_hour: float | None = None,
    dawn_folder: str | Path | None = None,
    out: str | Path | None = None,
    device: Device = "auto",
    latency: Latency = "quick",
    compile: Compile = "auto",
    workers: int = 1,
    on_event: OnEvent = lambda event: None,
) -> dict[str, Any]:
    """Train every recipe with every seed; returns the record, which is also written to its folder ("record").

    Args:
        epochs: instead of those of each recipe.
        budgets: seconds; each is benched like a recipe, with the rung of the ladder that fits it.
        runs: how many seeds, from `seed` on.
        target: accuracy for the time to target; under `dawn_rule` the first epoch that reaches it counts.
        cost_per_hour: USD of this machine, for DAWNBench's two costs.
        dawn_folder: where DAWNBench's own files go.
        out: the record's folder, by default a new one below `runs/`; runs that are there already are not repeated.
        latency: how long each recipe's first run takes to answer: "quick" times it as it is and with its batch norms
            folded, "all" also compiled and as ONNX in float32 and in eight bits, for records; "none" nothing.
        compile: whether nets are compiled before training, on CUDA.
        workers: processes on this machine, which share its cores. What they say of time is not kept: there is no
            record then, and no latency, cost or time to target.

    Raises:
        UsageError: there is nothing to run, no such recipe or choice, or what needs times is asked of several workers.
        RunError: the record is there already and has other data, another machine, other versions or recipes.
        StorageError: the record cannot be written.
    """
    train_options(epochs=epochs, budget=min(budgets, default=None), target=target, dawn_rule=dawn_rule, seed=seed)
    if workers != 1:
        _check_shared(
            workers, {"--out": out, "--dawn": dawn_folder, "--cost-per-hour": cost_per_hour, "--target": target}
        )
    forms = forms_of(latency if workers == 1 else "none")
    chosen = {name: with_epochs(get_recipe(name), epochs) for name in recipes}
    labels = [recipe.name for recipe in chosen.values()]
    for name in {label for label in labels if labels.count(label) > 1}:
        raise UsageError(f"--recipe {name}", "two recipes of one name", "another name in the file")
    candidates = tuple(Candidate(recipe.name, name, epochs, None) for name, recipe in chosen.items())
    candidates += tuple(Candidate(f"budget-{seconds:g}s", None, None, seconds) for seconds in budgets)
    if not candidates or runs < 1:
        raise UsageError("bench", "nothing to run", "--recipe NAME or --budget 5m, and --runs 1 or more")
    names = default_paths("bench", "-".join(c.label for c in candidates), seed)
    folder = Path(out) if out else next(path for path in names if not path.exists())
    size = _size(data, chosen.values(), over_budgets=bool(budgets))
    dataset = open_dataset(data, size=size, validate=0.0)
    facts = {"fingerprint": dataset.fingerprint, "versions": versions()}
    facts["hardware"] = describe_hardware(pick_device(device))
    meant = {recipe.name: balance_for(recipe, dataset, TrainOptions())[0] for recipe in chosen.values()}
    check_same_setting(folder, facts, meant)
    series = Series(data, candidates, range(seed, seed + runs), folder, device, forms, compile)
    runs_to_do = [(candidate, run_seed) for run_seed in series.seeds for candidate in series.candidates]
    if workers == 1:
        for candidate, run_seed in runs_to_do:
            _run_once(series, candidate, run_seed, on_event)
    else:
        _fan_out(series, runs_to_do, workers, on_event)
    record = finish(series.folder, target, dawn_rule, cost_per_hour)
    if dawn_folder is not None:
        write_dawn(Path(dawn_folder), series.folder, record, cost_per_hour)
    return record | {"record": str(folder)}


def _check_shared(workers: int, timed: Mapping[str, object]) -> None:
    """
    Raises:
        UsageError: there are no workers, or an option needs times that they cannot have.
    """
    if workers < 1:
        raise UsageError(f"--workers {workers}", "not a number of processes", "--workers 2")
    for option in (name for name, value in timed.items() if value is not None):
        why = "workers that share a machine have no times that could enter a record"
        raise UsageError(f"{option} with --workers", why, f"--workers 1, or leave {option} out")


def _fan_out(series: Series, runs_to_do: Sequence[tuple[Candidate, int]], workers: int, on_event: OnEvent) -> None:
    """Runs over processes, each with every n-th of them, and what is kept of them as it comes."""
    values = asdict(series) | {
        "data": str(series.data),
        "folder": str(series.folder),
        "seeds": None,
        "candidates": None,
    }
    jobs = [
        {"series": values, "runs": [[asdict(candidate), seed] for candidate, seed in runs_to_do[first::workers]]}
        for first in range(min(workers, len(runs_to_do)))
    ]
    told: set[tuple[str, int]] = set()

    def look() -> None:
        for candidate, seed in runs_to_do:
            run = (candidate.label, seed)
            if run not in told and (series.folder / candidate.label / f"seed-{seed}").exists():
                told.add(run)
                on_event({"event": "run", "label": candidate.label, "seed": seed})

    with fanout.started(MODULE, jobs) as running:
        fanout.wait(running, look, f"what was finished is in {series.folder}")
        look()
        if len(told) < len(runs_to_do):
            raise running.error() or RunError(series.folder, "a worker has died", "the same command again")


def run_share(job: Mapping[str, Any]) -> None:
    """What a worker's process does: its runs of a series, one after the other."""
    values = job["series"] | {"folder": Path(job["series"]["folder"]), "candidates": (), "seeds": range(0)}
    series = Series(**values | {"forms": tuple(values["forms"])})
    for candidate, seed in job["runs"]:
        _run_once(series, Candidate(**candidate), seed, lambda event: None)


def _size(data: str | Path, recipes: Iterable[Recipe], over_budgets: bool) -> int | None:
    """At which size in px all runs of a series see the data; None where its own sizes decide.

    Raises:
        UsageError: some see it at another.
    """
    sizes = {recipe_choice.size_for(data, recipe) for recipe in recipes}
    if over_budgets:
        told = recipe_choice.for_photos(data, TrainOptions())
        sizes.add(recipe_choice.size_for(data, told.recipe if told else None))
    if len(sizes) > 1:
        raise UsageError("bench", "its recipes see the data at different sizes", "a record for each of them")
    return sizes.pop()


def finish(folder: Path, target: float | None, dawn_rule: bool, cost_per_hour: float | None) -> dict[str, Any]:
    """The record of the runs in a folder, with latencies and costs, written to record.json."""
    record = make_record(folder, target, dawn_rule)
    record["recipes"] = [row | _inference(folder / row["recipe"]) for row in record["recipes"]]
    for row in record["recipes"]:
        row["cost_train_usd"] = _usd(dawnbench.training_cost, row["train_seconds"]["mean"], cost_per_hour)
        row["cost_inference_usd"] = _usd(dawnbench.inference_cost, row["latency_ms"], cost_per_hour)
    record["cost_per_hour_usd"] = cost_per_hour
    write_record(folder, record)
    return record


def _usd(cost: Callable[[float, float], float], amount: float | None, cost_per_hour: float | None) -> float | None:
    return None if amount is None or cost_per_hour is None else cost(amount, cost_per_hour)


def write_dawn(entries: Path, folder: Path, record: dict[str, Any], cost_per_hour: float | None) -> None:
    """DAWNBench's files for every recipe of the record in `folder`."""
    runs = evidence(folder)
    for row in record["recipes"]:
        finished = [run for run in runs[row["recipe"]] if run.summary["test_acc"] is not None]
        logs = {run.config["seed"]: dawnbench.tsv(run.metrics("epoch")) for run in finished}
        dawnbench.write_entries(entries, row, record, logs, cost_per_hour)


def _run_once(series: Series, candidate: Candidate, seed: int, on_event: OnEvent) -> None:
    kept = series.folder / candidate.label / f"seed-{seed}"
    if kept.exists():
        return
    on_event({"event": "run", "label": candidate.label, "seed": seed})
    with tempfile.TemporaryDirectory(prefix="daybreak-bench-") as scratch:
        run = _train_once(series, candidate, seed, Path(scratch) / "run", on_event)
        if signal := run.summary.get("interrupted"):
            raise StoppedError(signal, f"the same command with --out {series.folder} goes on")
        keep_evidence(run, kept)
        if run.summary["test_acc"] is not None and not _known_forms(kept.parent).issuperset(series.forms):
            on_event({"event": "latency", "label": candidate.label, "forms": series.forms})
            write_json(kept.parent / LATENCY, measure(run, series.device, series.forms))


def _train_once(series: Series, candidate: Candidate, seed: int, out: Path, on_event: OnEvent) -> RunDirectory:
    """A run, finished or not: the summary of one whose loss stopped being finite says so."""
    try:
        return api.train(
            series.data, recipe=candidate.recipe, epochs=candidate.epochs, budget=candidate.budget, seed=seed,
            device=series.device, compile=series.compile, out=out, report=False, validate=0.0, on_event=on_event,
        ).directory  # fmt: skip
    except NonFiniteError:
        return RunDirectory.open(out)


def _inference(folder: Path) -> dict[str, Any]:
    """What a recipe's row says of its latency: that of the form that stands for the run, and of all forms."""
    found = _latency_in(folder)
    best = fastest(found["rows"], found["run"])
    return {
        "latency_ms": best["p50_ms"] if best else None,
        "latency_form": best["form"] if best else None,
        "latency": found["rows"],
        "latency_unavailable": found["unavailable"],
        "latency_run": found["run"],
    }


def _known_forms(folder: Path) -> set[str]:
    """The forms that need not be measured again."""
    found = _latency_in(folder)
    return {row["form"] for row in found["rows"]} | set(found["unavailable"])


def _latency_in(folder: Path) -> dict[str, Any]:
    """What `measure` found; nothing where the file is of 0.1.0, which timed means of one image alone."""
    path = folder / LATENCY
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found if "rows" in found else {"rows": [], "unavailable": {}, "run": None}
