"""Which images train, validate and test, and whether the labels can be learned from at all."""

from collections.abc import Mapping, Sequence

import numpy as np

from daybreak.core.errors import DataError, UsageError
from daybreak.data.dataset import PARTS, TRAIN, Indices, Labels, Part, Pictures, Split

TEST_SHARE = 0.2
VALIDATION_SHARE, ENOUGH_FOR_IT = 0.1, 20  # the default, and how many training images of each class it takes
NAMED = 10  # classes that a note or an error names
SPLIT_NOTE = "no test part: stratified 80/20 split by seed "


def split_indices(pictures: Pictures, seed: int, where: object) -> tuple[dict[Part, Indices], tuple[str, ...]]:
    """Indices of the images of each part, in the order of PARTS, and the notes to show.

    Raises:
        DataError: fewer than two classes, or a class without images in one of the parts.
    """
    if len(pictures.classes) < 2:
        found = ", ".join(map(repr, pictures.classes)) or "none"
        raise DataError(where, f"a classifier needs two classes or more (found: {found})", "add one folder per class")
    codes = np.full(len(pictures.labels_N), TRAIN) if pictures.part_N is None else pictures.part_N
    parts: dict[Part, Indices] = {
        part: np.flatnonzero(codes == code) for code, part in enumerate(PARTS) if code in codes
    }
    _check_classes(pictures, parts, where)
    if pictures.has_test_part:
        return parts, ()
    train, test = _drawn_test_part(pictures, parts.pop("train"), seed, where)
    return {"train": train, "test": test, **parts}, (f"{SPLIT_NOTE}{seed}",)


def stratified_split(labels_N: Labels, share: float, seed: int) -> tuple[Indices, Indices]:
    """Draw a share of each class, rounded (halves up); at least one image of each class stays on either side.

    Args:
        labels_N: int64; each class that occurs must occur twice or more.
        share: of the images that are drawn, in (0, 1).
        seed: the same seed gives the same split.

    Returns:
        Indices of the images that stay and of those that are drawn, int64, each ascending.
    """
    rng = np.random.default_rng(seed)
    is_drawn_N = np.zeros(len(labels_N), bool)
    for label in np.unique(labels_N):
        members = np.flatnonzero(labels_N == label)
        count = min(max(1, int(len(members) * share + 0.5)), len(members) - 1)
        is_drawn_N[rng.permutation(members)[:count]] = True
    return np.flatnonzero(~is_drawn_N), np.flatnonzero(is_drawn_N)


def check_share(validate: float | None) -> None:
    """Refuse what is not a share of the training images.

    Raises:
        UsageError: it is not in [0, 1).
    """
    if validate is not None and not 0 <= validate < 1:
        raise UsageError(f"--validate {validate:g}", "not a share of the training images", "0.1, or 0 for none")


def default_share(labels_N: Labels, classes: int) -> float:
    """A tenth, where every class has enough training images for it; else nothing."""
    return VALIDATION_SHARE if np.bincount(labels_N, minlength=classes).min() >= ENOUGH_FOR_IT else 0.0


def few_images(labels_N: Labels, classes: Sequence[str]) -> tuple[str, ...]:
    """A note on the classes that have hardly any training images, the scarcest first; nothing if there are none."""
    counts_K = np.bincount(labels_N, minlength=len(classes))
    order = [k for k in np.argsort(counts_K, kind="stable") if counts_K[k] < ENOUGH_FOR_IT]
    if not order:
        return ()
    named = ", ".join(f"{classes[k]} {counts_K[k]}" for k in order[:NAMED])
    more = f" and {len(order) - NAMED} more" if len(order) > NAMED else ""
    return (f"classes with fewer than {ENOUGH_FOR_IT} training images: {named}{more}; more of these help most",)


def hold_out(
    train: Split, share: float, seed: int, classes: Sequence[str], where: object
) -> tuple[Split, Split, tuple[str, ...]]:
    """The training part without a share of each class, the held-out images, and the note to show.

    Raises:
        DataError: a class has too few training images.
    """
    few = _names(classes, np.bincount(train.labels_N, minlength=len(classes)) < 2)
    if few:
        why = f"too few training images for --validate {share:g}: a class needs two ({few})"
        raise DataError(where, why, "add images, or --validate 0")
    stay, drawn = stratified_split(np.asarray(train.labels_N), share, seed)
    note = f"validation part: {100 * share:g} % of the training images, stratified, by split seed {seed}"
    return train.take(stay), train.take(drawn), (note,)


def _drawn_test_part(pictures: Pictures, train: Indices, seed: int, where: object) -> tuple[Indices, Indices]:
    labels_N = pictures.labels_N[train]
    few = _names(pictures.classes, np.bincount(labels_N, minlength=len(pictures.classes)) < 2)
    if few:
        raise DataError(where, f"too few images to split: a class needs two ({few})", "add images, or a test part")
    stay, drawn = stratified_split(labels_N, TEST_SHARE, seed)
    return train[stay], train[drawn]


def _check_classes(pictures: Pictures, parts: Mapping[Part, Indices], where: object) -> None:
    """Every class must be in every part. (Of one part alone, classes without images are too small to split.)"""
    missing = {
        part: _names(pictures.classes, np.bincount(pictures.labels_N[index], minlength=len(pictures.classes)) == 0)
        for part, index in parts.items()
    }
    differences = [f"no image in {part}: {names}" for part, names in missing.items() if names]
    if differences and len(parts) > 1:
        why = f"the classes of {', '.join(parts)} differ ({'; '.join(differences)})"
        raise DataError(where, why, "give all parts the same classes")


def _names(classes: Sequence[str], chosen_K: np.ndarray) -> str:
    names = [name for name, is_chosen in zip(classes, chosen_K, strict=True) if is_chosen]
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
