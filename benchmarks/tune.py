"""Evaluate settings of a recipe on held-out training images, so that nothing is tuned on the test set.

    python benchmarks/tune.py cifar10-jpeg --recipe sprint settings.txt

settings.txt has one trial per line, as `key=value key=value`; an empty line is the unchanged recipe. A tenth of each
class's training images is held out, the same for every trial. Write the result into LOG.md.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from daybreak.core.config import override, parse_settings
from daybreak.data import Dataset, Split, open_dataset
from daybreak.recipes import get_recipe
from daybreak.training.train import train

HELD_OUT = 0.1
SPLIT_SEED = 123


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--recipe", default="sprint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", type=Path)
    arguments = parser.parse_args()
    dataset = without_test(open_dataset(arguments.data))
    for line in arguments.settings.read_text().splitlines():
        recipe = override(get_recipe(arguments.recipe), parse_settings(line.split()))
        with tempfile.TemporaryDirectory() as folder:
            run = train(recipe, dataset, Path(folder) / "run", seed=arguments.seed)
            keys = ("test_acc", "test_acc_tta", "test_loss", "train_seconds")
            found = {k.replace("test_", "held_out_"): round(run.summary[k], 4) for k in keys}
        print(json.dumps({"settings": line, "seed": arguments.seed} | found), flush=True)


def without_test(dataset: Dataset) -> Dataset:
    """The training part alone, divided: a tenth of each class takes the place of the test part."""
    labels_N = np.asarray(dataset.train.labels_N)
    rng, held = np.random.default_rng(SPLIT_SEED), np.zeros(len(labels_N), dtype=bool)
    for label in range(len(dataset.classes)):
        mine = np.flatnonzero(labels_N == label)
        held[rng.choice(mine, round(HELD_OUT * len(mine)), replace=False)] = True
    return replace(dataset, train=part(dataset.train, ~held), test=part(dataset.train, held))


def part(split: Split, chosen_N: np.ndarray) -> Split:
    names = tuple(name for name, is_chosen in zip(split.names, chosen_N, strict=True) if is_chosen)
    return Split(split.images_NHWC[chosen_N], split.labels_N[chosen_N], names)


if __name__ == "__main__":
    main()
