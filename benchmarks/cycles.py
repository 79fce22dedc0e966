"""What each option of the one-cycle policy changes at equal length, and how good the rates of the range test are.

    python benchmarks/cycles.py variants cifar10-jpeg --out benchmarks/records/DATE_cycles
    python benchmarks/cycles.py rates cifar10-jpeg --out benchmarks/records/DATE_rates

Every trial is evaluated on a tenth of the training images, held out and the same for all; the test set is not used.
Seeds are interleaved and failed trials are counted. trials.jsonl has every trial with its curve; trials that are there
are not repeated. Tables and figure go into docs/one-cycle.md.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from held_out import without_test
from matplotlib.figure import Figure
from peers import open_record, setting_of
from tables import between

from daybreak.benchmarking.record import spread
from daybreak.core.config import Recipe, override
from daybreak.core.errors import NonFiniteError, StoppedError
from daybreak.core.files import write_json, write_text
from daybreak.core.options import TrainOptions
from daybreak.data import Dataset, open_dataset
from daybreak.recipes import get_recipe
from daybreak.report.figures import STYLE, svg
from daybreak.runs.old_format import recipe_of
from daybreak.training import schedule
from daybreak.training.lr_finder import lr_find, with_rate
from daybreak.training.train import train

ROOT = Path(__file__).parents[1]
DOCS, FIGURE = ROOT / "docs" / "one-cycle.md", ROOT / "docs" / "cycles.svg"
BLOCKS = {name: between(name) for name in ("variants", "rates")}
Row = dict[str, Any]

# The net and cycle of `page`, a quarter as wide, at 20 px, for three epochs: what two cores can repeat in minutes.
PEAK = get_recipe("page").schedule.max_lr
SHORT_PAGE = {"model.width": 0.25, "epochs": 3, "resolution": [{"until": 1.0, "scale": 0.625}]}
# Without a warm-up: the share of the peak that they end with, and the rest.
WITHOUT_CYCLE: dict[str, tuple[float, Row]] = {
    "flat, then cosine": (0.0, {"schedule.warmup": 0.5, "schedule.shape": "cosine"}),
    "step decay": (0.1, {"schedule.warmup": 0.0, "schedule.shape": "steps"}),
    "one rate all the way": (1.0, {"schedule.warmup": 0.0}),
}


def held(peak: float, end: float, shape: Row) -> Row:
    """A schedule that begins at its highest rate."""
    rates = {"schedule.initial_lr": peak, "schedule.max_lr": peak, "schedule.final_lr": end * peak}
    return shape | rates | {"schedule.momentum": None}


VARIANTS: dict[str, Row] = {
    "one cycle, ends where it began (the assignment)": {},  # as the record calls it; the table says `page`
    "one cycle, down to zero": {"schedule.final_lr": 0.0},
    "one cycle, three phases (Smith: annihilation)": {
        "schedule.phases": 3, "schedule.warmup": 0.45, "schedule.final_lr": PEAK / 1000,
    },
    "one cycle, cosine, down to zero": {"schedule.final_lr": 0.0, "schedule.shape": "cosine"},
    "one cycle, momentum fixed at 0.9": {"schedule.momentum": None},
}  # fmt: skip
for name, (end, shape) in WITHOUT_CYCLE.items():  # what is right for a moment may be too high to hold
    VARIANTS[name] = held(PEAK, end, shape)
    VARIANTS[f"{name}, a third of the peak"] = held(PEAK / 3, end, shape)


@dataclass(frozen=True)
class Grid:
    """A recipe at a short length, and five rates round what is usual for its optimizer."""

    settings: Row
    rates: tuple[float, ...]


SMALL = [{"until": 1.0, "scale": 0.625}]
GRIDS = {
    "page": Grid({"steps": 100, "resolution": SMALL}, (0.0003, 0.001, 0.003, 0.01, 0.03)),
    "resnet18": Grid({"steps": 200, "resolution": SMALL}, (0.003, 0.01, 0.03, 0.1, 0.3)),
    "sprint": Grid({"steps": 150}, (0.015, 0.05, 0.15, 0.5, 1.5)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(BLOCKS))
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--recipes", nargs="+", default=list(GRIDS), choices=list(GRIDS), help="of the rates")
    parser.add_argument("--fresh", type=int, default=0, help="more seeds for the best of each grid and the found rate")
    arguments = parser.parse_args()
    dataset = without_test(open_dataset(arguments.data))
    folder = open_record(arguments.out, setting_of(dataset))
    if arguments.what == "variants":
        trials = {name: override(get_recipe("page"), SHORT_PAGE | changed) for name, changed in VARIANTS.items()}
    else:
        trials = {k: v for name in arguments.recipes for k, v in grid_trials(name, dataset, folder).items()}
    for seed in range(arguments.seeds):
        for name, recipe in trials.items():
            run_once(folder, name, recipe, dataset, seed)
    for seed in range(arguments.seeds, arguments.seeds + arguments.fresh):
        for recipe_name in arguments.recipes:
            for name in (best_of_grid(recipe_name, read(folder)), f"{recipe_name} found"):
                run_once(folder, name, trials[name], dataset, seed)
    write_docs(arguments.what, folder)


def grid_trials(name: str, dataset: Dataset, folder: Path) -> dict[str, Recipe]:
    """A recipe at the five rates of its grid and at what the range test finds; the test is kept."""
    grid, file = GRIDS[name], folder / f"lr-find-{name}.json"
    recipe = override(get_recipe(name), grid.settings)
    if not file.exists():
        write_json(file, lr_find(recipe, dataset, seeds=(0, 1)).as_json())
    test = json.loads(file.read_text())
    found = test["lr_max"] if test["clear"] else recipe.schedule.max_lr  # as --lr auto does
    trials = {f"{name} {rate:g}": with_rate(recipe, rate) for rate in grid.rates}
    return trials | {f"{name} found": with_rate(recipe, found)}


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


def write_docs(what: str, folder: Path) -> None:
    text = TABLES[what](folder)
    DOCS.write_text(BLOCKS[what].sub(lambda m: m[1] + text + m[2], DOCS.read_text()))
    if what == "variants":
        write_text(FIGURE, svg(draw(read(folder))))
    print(text)


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


def variants_table(folder: Path) -> str:
    lines = ["| schedule | held-out accuracy | n | failed |", "| --- | --- | --- | --- |"]
    for name, group in by_name(read(folder)).items():
        lines.append(
            f"| {name.replace('the assignment', '`page`')} | {per_cent(accuracy_of(group))} | {len(group)} "
            f"| {failed(group)} |"
        )
    return "\n".join([*lines, "", about(folder)]) + "\n"


def grids(rows: Iterable[Row]) -> dict[str, set[int]]:
    """The recipes, with the seeds that all rates of their grid were tried with."""
    seeds: dict[str, dict[str, set[int]]] = {}
    for row in rows:
        recipe, _, rate = row["name"].partition(" ")
        seeds.setdefault(recipe, {}).setdefault(rate, set()).add(row["seed"])
    return {recipe: set.intersection(*by_rate.values()) for recipe, by_rate in seeds.items()}


def best_of_grid(recipe: str, rows: list[Row]) -> str:
    """The trial with the highest mean over the seeds that all rates had."""
    seeds = grids(rows)[recipe]
    groups = by_name(row for row in rows if row["seed"] in seeds and row["name"].startswith(f"{recipe} "))
    groups.pop(f"{recipe} found")
    return max(groups, key=lambda name: accuracy_of(groups[name])["mean"] or 0.0)


def to_the_best(recipe: str, rows: list[Row]) -> str:
    """What the found rate is ahead of the best of the grid, seed by seed; on fresh seeds where there are any, since the
    best of five was chosen for its luck too."""
    best = best_of_grid(recipe, rows)
    found, other = (by_seed(row for row in rows if row["name"] == name) for name in (f"{recipe} found", best))
    fresh = sorted((found.keys() & other.keys()) - grids(rows)[recipe])
    ahead = lead(found, other, fresh or grids(rows)[recipe])
    interval = "" if ahead["ci95"] is None else f", 95 % interval {ahead['ci95'][0]:+.2f} to {ahead['ci95'][1]:+.2f}"
    return f"{ahead['mean']:+.2f} points ({'fresh seeds' if fresh else 'same seeds'}: {len(ahead['values'])}{interval})"


def rates_table(folder: Path) -> str:
    """One row per recipe: the grid, the suggested rate, and its accuracy minus that of the best rate of the grid."""
    rows = read(folder)
    lines = ["| recipe | grid: peak and held-out accuracy | suggested | accuracy | minus the best of the grid |"]
    lines.append("| --- " * 5 + "|")
    for recipe, seeds in grids(rows).items():
        groups = by_name(row for row in rows if row["name"].startswith(f"{recipe} ") and row["seed"] in seeds)
        mine = {name.split()[1]: accuracy_of(group) for name, group in groups.items()}
        found = mine.pop("found")
        lr = json.loads((folder / f"lr-find-{recipe}.json").read_text())["lr_max"]
        grid = ", ".join(f"{rate}: {per_cent(value)}" for rate, value in mine.items())
        lines.append(f"| `{recipe}` | {grid} | {lr:.3g} | {per_cent(found)} | {to_the_best(recipe, rows)} |")
    return "\n".join([*lines, "", about(folder)]) + "\n"


TABLES = {"variants": variants_table, "rates": rates_table}


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


def draw(rows: list[Row]) -> Figure:
    """Above the rate, below the loss of the batches, smoothed, over progress: a line a schedule, its first seed."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 7), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        at = np.linspace(0, 1, 400, endpoint=False)
        for name, (first, *_) in by_name(row for row in rows if "failed" not in row).items():
            cycle = recipe_of(first["recipe"]).schedule
            upper.plot(at, [schedule.learning_rate(cycle, p) for p in at], label=name, linewidth=1.2)
            progress, losses = np.array(first["curve"], dtype=float).T
            kernel = np.ones(15) / 15
            lower.plot(progress[7:-7], np.convolve(losses, kernel, "valid"), linewidth=1.2)
        upper.set(ylabel="learning rate")
        lower.set(xlabel="progress", ylabel="loss of a batch, mean of 15")
        upper.legend(fontsize=7, loc="upper right")
    return figure


if __name__ == "__main__":
    main()
