"""Data without its test part, for scripts that tune or compare: nothing is chosen on the test images."""

from dataclasses import replace

from daybreak.data import Dataset
from daybreak.data.split import hold_out

HELD_OUT = 0.1
SPLIT_SEED = 123


def without_test(dataset: Dataset) -> Dataset:
    """The training part alone, divided: a tenth of each class takes the place of the test part."""
    train, held_out, _ = hold_out(dataset.train, HELD_OUT, SPLIT_SEED, dataset.classes, dataset.name)
    return replace(dataset, train=train, test=held_out)
