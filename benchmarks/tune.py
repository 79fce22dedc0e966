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

from daybreak.core.config import override, parse_settings
from daybreak.core.options import TrainOptions
from daybreak.data import Dataset, open_dataset
from daybreak.data.split import hold_out
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
    dataset = without_test(open_dataset(arguments.data, validate=0))
    for line in arguments.settings.read_text().splitlines():
        recipe = override(get_recipe(arguments.recipe), parse_settings(line.split()))
        with tempfile.TemporaryDirectory() as folder:
            run = train(recipe, dataset, Path(folder) / "run", TrainOptions(seed=arguments.seed))
            keys = ("test_acc", "test_acc_tta", "test_loss", "train_seconds")
            found = {k.replace("test_", "held_out_"): round(run.summary[k], 4) for k in keys}
        print(json.dumps({"settings": line, "seed": arguments.seed} | found), flush=True)


def without_test(dataset: Dataset) -> Dataset:
    """The training part alone, divided: a tenth of each class takes the place of the test part."""
    train, held_out, _ = hold_out(dataset.train, HELD_OUT, SPLIT_SEED, dataset.classes, dataset.name)
    return replace(dataset, train=train, test=held_out)


if __name__ == "__main__":
    main()
