"""How good the rates of the range test are, against a grid of rates.

    python benchmarks/rates.py cifar10-jpeg --out benchmarks/records/DATE_rates

Every trial is evaluated on a tenth of the training images, held out and the same for all; the test set is not used.
Seeds are interleaved and failed trials are counted. trials.jsonl has every trial with its curve; trials that are there
are not repeated. The table goes into docs/one-cycle.md.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from held_out import without_test
from series import open_record, setting_of
from tables import between, second_run
from trials import Row, about, accuracy_of, by_name, by_seed, lead, per_cent, read, run_once

from daybreak.core.config import Recipe, override
from daybreak.core.files import write_json, write_text
from daybreak.data import Dataset, open_dataset
from daybreak.recipes import get_recipe
from daybreak.training.lr_finder import lr_find, with_rate

DOCS = Path(__file__).parents[1] / "docs" / "one-cycle.md"
BLOCK = between("rates")


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
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--recipes", nargs="+", default=list(GRIDS), choices=list(GRIDS))
    parser.add_argument("--fresh", type=int, default=0, help="more seeds for the best of each grid and the found rate")
    arguments = parser.parse_args()
    dataset = without_test(open_dataset(arguments.data))
    folder = open_record(arguments.out, setting_of(dataset))
    trials = {k: v for name in arguments.recipes for k, v in grid_trials(name, dataset, folder).items()}
    for seed in range(arguments.seeds):
        for name, recipe in trials.items():
            run_once(folder, name, recipe, dataset, seed)
    for seed in range(arguments.seeds, arguments.seeds + arguments.fresh):
        for recipe_name in arguments.recipes:
            for name in (best_of_grid(recipe_name, read(folder)), f"{recipe_name} found"):
                run_once(folder, name, trials[name], dataset, seed)
    write_text(DOCS, BLOCK.sub(lambda m: m[1] + table(folder) + m[2], DOCS.read_text()))


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


def table(folder: Path) -> str:
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
    singles = [group[0]["train_seconds"] for group in by_name(rows).values() if len(group) == 1]
    return "\n".join([*lines, "", *filter(None, [about(folder), second_run(singles)])]) + "\n"


if __name__ == "__main__":
    main()
