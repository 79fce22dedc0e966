"""Evaluate settings of recipes on held-out training images, so that nothing is tuned on the test set.

    python benchmarks/tune.py cifar10 trials.txt --seeds 4

trials.txt has one trial a line: a recipe, and what to set in it, as `sprint batch_size=1000 schedule.max_lr=0.18`. A
tenth of each class's training images is held out, the same for every trial. Seeds are interleaved. With `--workers`
several trainings share the machine: their accuracies count, their seconds do not. The last lines are a table; write the
result into LOG.md.
"""

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from daybreak.benchmarking.record import spread
from daybreak.core.config import override, parse_settings
from daybreak.core.errors import NonFiniteError
from daybreak.core.options import TrainOptions
from daybreak.data import Dataset, open_dataset
from daybreak.data.split import hold_out
from daybreak.recipes import get_recipe
from daybreak.training.train import train

HELD_OUT = 0.1
SPLIT_SEED = 123
FIGURES = ("test_acc", "test_acc_tta", "test_loss", "train_seconds")
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("trials", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    lines = [*dict.fromkeys(line.strip() for line in arguments.trials.read_text().splitlines() if line.strip())]
    open_dataset(arguments.data, validate=0)  # decoded once, before the workers want it
    jobs = [(line, arguments.first_seed + seed) for seed in range(arguments.seeds) for line in lines]
    rows = []
    for row in results(partial(trial, arguments.data, arguments.device), jobs, arguments.workers):
        rows.append(row | ({} if arguments.workers == 1 else {"shared_machine": True}))
        print(json.dumps(rows[-1]), flush=True)
    for line in lines:
        print(summary(line, [row for row in rows if row["trial"] == line]))


def results(run: partial[Row], jobs: Iterable[tuple[str, int]], workers: int) -> Iterator[Row]:
    """What the jobs find, as they end."""
    if workers == 1:
        yield from map(run, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(run, jobs)


def trial(data: str, device: str, job: tuple[str, int]) -> Row:
    """One training of a line with a seed; without figures if its loss stopped being finite."""
    line, seed = job
    name, *pairs = line.split()
    recipe = override(get_recipe(name), parse_settings(pairs))
    dataset = without_test(open_dataset(data, validate=0))
    options = TrainOptions(seed=seed, device=device, checkpoint_every="never")  # type: ignore[arg-type]
    found: Row = {"trial": line, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        try:
            summary = train(recipe, dataset, Path(folder) / "run", options).summary
        except NonFiniteError as error:
            return found | {"failed": str(error)}
    return found | {key.replace("test_", "held_out_"): round(summary[key], 4) for key in FIGURES}


def summary(line: str, rows: list[Row]) -> str:
    """A line of the table: one view, all views, loss, each with its spread; and how many runs failed."""
    done = [row for row in rows if "failed" not in row]
    cells = []
    for key, scale in (("held_out_acc", 100), ("held_out_acc_tta", 100), ("held_out_loss", 1)):
        found = spread([scale * row[key] for row in done])
        cells.append("-" if not done else f"{found['mean']:.3f} ± {found['std'] or 0:.3f}")
    return f"| {line} | {' | '.join(cells)} | {len(done)} | {len(rows) - len(done)} failed |"


def without_test(dataset: Dataset) -> Dataset:
    """The training part alone, divided: a tenth of each class takes the place of the test part."""
    train, held_out, _ = hold_out(dataset.train, HELD_OUT, SPLIT_SEED, dataset.classes, dataset.name)
    return replace(dataset, train=train, test=held_out)


if __name__ == "__main__":
    main()
