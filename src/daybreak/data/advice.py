"""What to know and to do about a data set before training on it: sentences made of its numbers."""

from collections.abc import Iterator, Mapping
from math import sqrt

import numpy as np

from daybreak.data.dataset import Dataset, Part, Split
from daybreak.data.duplicates import near_duplicates, perceptual_hashes
from daybreak.data.files import plural
from daybreak.data.hamming import Hashes

IMBALANCED = 3.0  # times as many training images in the largest class as in the smallest
UNSURE = 0.01  # half the width of the interval of an accuracy, from which on it is mentioned
NAMED = 3
SMALLEST_FOR_NEAR_COPIES = 32  # px: smaller images are nearly alike without being of one thing


def advice(dataset: Dataset, *, duplicates: Mapping[Part, int], conflicts: int) -> list[str]:
    """Sentences, the most important first; none about what is in order. (Scarce classes stand in the data's notes.)

    Args:
        duplicates: of each other part, images whose exact pixels are in the training part.
        conflicts: pictures under two labels.
    """
    return [*_leaks(dataset, duplicates), *_labels(conflicts), *_classes(dataset), *_test_part(dataset)]


def _leaks(dataset: Dataset, duplicates: Mapping[Part, int]) -> Iterator[str]:
    is_large = dataset.decode.size >= SMALLEST_FOR_NEAR_COPIES
    known = perceptual_hashes(dataset.train.images_NHWC) if is_large else None
    yield from _leak(dataset, "test", dataset.test, known, duplicates["test"], "the accuracy")
    if dataset.validation:
        yield from _leak(dataset, "validation", dataset.validation, known, duplicates["validation"], "the curves")


def _leak(dataset: Dataset, name: str, part: Split, known: Hashes | None, duplicates: int, what: str) -> Iterator[str]:
    near = [] if known is None else near_duplicates(dataset.train, part, known)
    if not near and not duplicates:
        return
    pairs = [f"{part.names[d.test]} and {dataset.train.names[d.train]}" for d in near[:NAMED]]
    named = f", such as {'; '.join(pairs)}" if pairs else ""
    count, images = max(duplicates, len(near)), len(part.labels_N)
    yield (
        f"exactly or nearly in the training part, too, as photos of a burst are: {count} of {images:,} {name} images"
        f"{named}; {what} will be too high: keep such photos in one part"
    )


def _labels(conflicts: int) -> Iterator[str]:
    if conflicts:
        yield f"{plural(conflicts, 'picture')} under two labels: decide for one, or --strict refuses such data"


def is_uneven(counts_K: np.ndarray) -> bool:
    """Whether classes of so many training images are of very unequal size."""
    return bool(counts_K.max() >= IMBALANCED * max(counts_K.min(), 1))


def _classes(dataset: Dataset) -> Iterator[str]:
    counts_K = np.bincount(dataset.train.labels_N, minlength=len(dataset.classes))
    if is_uneven(counts_K):
        yield (
            f"the largest class has {counts_K.max():,} training images, the smallest {counts_K.min():,}: training "
            "evens them out (--balance), and balanced accuracy says more than accuracy"
        )


def _test_part(dataset: Dataset) -> Iterator[str]:
    images = len(dataset.test.labels_N)
    half = 1.96 * sqrt(0.9 * 0.1 / max(images, 1))
    if half >= UNSURE:
        yield f"{plural(images, 'test image')}: an accuracy of 90 % is known to ±{100 * half:.1f} points (95 %)"
