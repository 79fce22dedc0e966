"""Which images train and which test, and whether the labels can be learned from at all."""

from collections.abc import Sequence

import numpy as np

from daybreak.core.errors import DataError
from daybreak.data.dataset import Indices, Labels, Pictures

TEST_FRACTION = 0.2
SPLIT_NOTE = "no test part: stratified 80/20 split by seed "


def split_indices(pictures: Pictures, seed: int, where: object) -> tuple[Indices, Indices, tuple[str, ...]]:
    """Indices of the training and of the test images, and the notes to show.

    Raises:
        DataError: fewer than two classes, or a class without images in one of the parts.
    """
    if len(pictures.classes) < 2:
        found = ", ".join(map(repr, pictures.classes)) or "none"
        raise DataError(where, f"a classifier needs two classes or more (found: {found})", "add one folder per class")
    if pictures.is_test_N is not None:
        train, test = np.flatnonzero(~pictures.is_test_N), np.flatnonzero(pictures.is_test_N)
        _check_parts(pictures, train, test, where)
        return train, test, ()
    _check_counts(pictures, where)
    train, test = stratified_split(pictures.labels_N, seed)
    return train, test, (f"{SPLIT_NOTE}{seed}",)


def stratified_split(labels_N: Labels, seed: int) -> tuple[Indices, Indices]:
    """A fifth of each class, rounded, to the test part; at least one image of it in each part.

    Args:
        labels_N: int64; each class that occurs must occur twice or more.
        seed: the same seed gives the same split.

    Returns:
        Train and test indices, int64, each ascending.
    """
    rng = np.random.default_rng(seed)
    is_test_N = np.zeros(len(labels_N), bool)
    for label in np.unique(labels_N):
        members = np.flatnonzero(labels_N == label)
        count = max(1, int(len(members) * TEST_FRACTION + 0.5))
        is_test_N[rng.permutation(members)[:count]] = True
    return np.flatnonzero(~is_test_N), np.flatnonzero(is_test_N)


def _check_parts(pictures: Pictures, train: Indices, test: Indices, where: object) -> None:
    missing = {
        part: _names(pictures.classes, np.bincount(pictures.labels_N[index], minlength=len(pictures.classes)) == 0)
        for part, index in (("train", train), ("test", test))
    }
    if missing["train"] or missing["test"]:
        differences = [f"no image in {part}: {names}" for part, names in missing.items() if names]
        remedy = "give both parts the same classes"
        raise DataError(where, f"train and test classes differ ({'; '.join(differences)})", remedy)


def _check_counts(pictures: Pictures, where: object) -> None:
    few = _names(pictures.classes, np.bincount(pictures.labels_N, minlength=len(pictures.classes)) < 2)
    if few:
        raise DataError(where, f"too few images to split: a class needs two ({few})", "add images, or a test part")


def _names(classes: Sequence[str], chosen_K: np.ndarray, most: int = 10) -> str:
    names = [name for name, is_chosen in zip(classes, chosen_K, strict=True) if is_chosen]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
