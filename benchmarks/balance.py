"""What evening out classes of unequal size is worth: runs with and without it on the same imbalanced data, in turn.

    python benchmarks/balance.py cifar10 --most 500 --ratio 50 --seeds 5 --out benchmarks/records/DATE_balance

Half of the classes keep `most` training images, the other half a `ratio`-th of them; which images these are depends on
the seed. Evaluated on a tenth of the training images (with its own classes of equal size), so that the test set is not
used. trials.jsonl has every trial, balance.json the differences, paired by seed, with Student's t interval and p.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from held_out import without_test
from scipy import stats
from series import append, open_record, read, setting_of

from daybreak.core.config import override, parse_settings
from daybreak.core.files import write_json
from daybreak.core.options import TrainOptions
from daybreak.data import Dataset, open_dataset
from daybreak.recipes import get_recipe
from daybreak.training.train import train

WAYS, TRIALS = ("none", "weights", "sampling"), "trials.jsonl"
FIGURES = ("balanced_acc", "macro_f1", "test_acc_tta", "train_seconds")
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--most", type=int, required=True)
    parser.add_argument("--ratio", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--set", nargs="*", default=[], dest="settings")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    dataset = without_test(open_dataset(arguments.data, validate=0))
    asked = {name: getattr(arguments, name) for name in ("most", "ratio", "recipe", "settings")}
    folder = open_record(arguments.out, setting_of(dataset) | asked)
    done = {(row["balance"], row["seed"]) for row in read(folder, TRIALS)}
    for seed in range(arguments.seeds):
        uneven = imbalanced(dataset, arguments.most, arguments.ratio, seed)
        for way in WAYS:
            if (way, seed) not in done:
                row = {"balance": way, "seed": seed}
                append(folder, row | trial(uneven, way, seed, arguments.recipe, arguments.settings), TRIALS)
    found = {way: against_none(read(folder, TRIALS), way) for way in WAYS[1:]}
    write_json(folder / "balance.json", {"asked": asked, "differences": found})
    print(json.dumps(found, indent=1))


def imbalanced(dataset: Dataset, most: int, ratio: int, seed: int) -> Dataset:
    """Every second class with `most` training images, the others with a `ratio`-th of them."""
    rng, labels_N = np.random.default_rng(seed), dataset.train.labels_N
    kept = [
        rng.permutation(np.flatnonzero(labels_N == k))[: most if k % 2 == 0 else max(1, most // ratio)]
        for k in range(len(dataset.classes))
    ]
    return replace(dataset, train=dataset.train.take(np.sort(np.concatenate(kept))))


def trial(dataset: Dataset, way: str, seed: int, name: str, settings: list[str]) -> Row:
    recipe = override(get_recipe(name), parse_settings(settings) | {"balance": way})
    options = TrainOptions(seed=seed, checkpoint_every="never")
    with tempfile.TemporaryDirectory() as folder:
        summary = train(recipe, dataset, Path(folder) / "run", options).summary
    return {key: summary[key] for key in FIGURES} | {"recall": list(summary["recall"].values())}


def against_none(rows: list[Row], way: str) -> Row:
    """Mean difference of each figure to the runs of the same seeds that even nothing out."""
    by_seed = {(row["balance"], row["seed"]): row for row in rows}
    seeds = sorted(seed for balance, seed in by_seed if balance == way and ("none", seed) in by_seed)
    found: Row = {"seeds": seeds}
    for figure in FIGURES[:3]:
        mine, none = ([by_seed[balance, seed][figure] for seed in seeds] for balance in (way, "none"))
        test = stats.ttest_rel(mine, none)
        low, high = test.confidence_interval()
        difference = {"mean": float(np.mean(mine) - np.mean(none)), "low": float(low), "high": float(high)}
        found[figure] = {"of": float(np.mean(mine)), "none": float(np.mean(none))} | difference
        found[figure]["p"] = float(test.pvalue)
    return found


if __name__ == "__main__":
    main()
