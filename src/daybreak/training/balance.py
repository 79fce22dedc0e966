"""Classes of unequal size: whether training evens them out, and how."""

import numpy as np

from daybreak.core.config import Recipe, override
from daybreak.core.errors import UsageError
from daybreak.core.options import TrainOptions
from daybreak.data.advice import is_uneven
from daybreak.data.dataset import Dataset, Labels

HOW = {"weights": "all classes weigh alike in the loss", "sampling": "each is shown equally often"}


def balance_for(recipe: Recipe, dataset: Dataset, options: TrainOptions) -> tuple[Recipe, str | None]:
    """The recipe as `options.balance` wants it for this data, and what to tell if that was not said.

    `auto` leaves a recipe alone that has a way of its own or data that is nearly even, and else takes weights, which
    were far better than sampling where classes have 100 images or 2 (benchmarks/records/2026-11-26_balance). With a
    loss of somebody's own it takes sampling, the best in most cases of Buda et al. 2018, "A systematic study of the
    class imbalance problem in convolutional neural networks".

    Raises:
        UsageError: weights are for daybreak's own loss, and the run has another.
    """
    if options.balance == "weights" and options.loss is not None:
        raise UsageError("--balance weights", f"{options.loss} weighs classes itself", "--balance sampling or none")
    if options.balance != "auto":
        return override(recipe, {"balance": options.balance}), None
    counts_K = np.bincount(dataset.train.labels_N, minlength=len(dataset.classes))
    if recipe.balance != "none" or not is_uneven(counts_K):
        return recipe, None
    how = "weights" if options.loss is None else "sampling"
    counts = f"{counts_K.min()} to {counts_K.max():,}"
    why = f"classes have {counts} training images: {HOW[how]} (--balance none: as they are)"
    return override(recipe, {"balance": how}), why


def class_weights(labels_N: Labels, classes: int) -> np.ndarray:
    """What an image of each class counts: float32 (K,), inversely to the size of the class, 1 on average over the
    images; 0 where there are none."""
    counts_K = np.bincount(labels_N, minlength=classes)
    present = np.count_nonzero(counts_K)
    return np.where(counts_K > 0, len(labels_N) / (present * np.maximum(counts_K, 1)), 0).astype(np.float32)


def balanced_order(labels_N: Labels, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch in which every class has equally many places: int64 (N,).

    N places are dealt out to K classes, as evenly as they can be; who gets one more is drawn. A class with more images
    than places shows others in every epoch. One with fewer shows each of them before any for another time.
    """
    rng = np.random.default_rng([seed, epoch, 3])
    by_class = np.split(np.argsort(labels_N, kind="stable"), np.cumsum(np.bincount(labels_N))[:-1])
    classes = [members for members in by_class if len(members)]
    places_K = np.full(len(classes), len(labels_N) // len(classes))
    places_K[rng.permutation(len(classes))[: len(labels_N) % len(classes)]] += 1
    drawn = [_drawn(members, places, rng) for members, places in zip(classes, places_K.tolist(), strict=True)]
    return rng.permutation(np.concatenate(drawn))


def _drawn(members: np.ndarray, places: int, rng: np.random.Generator) -> np.ndarray:
    rounds = -(-places // len(members))
    return np.concatenate([rng.permutation(members) for _ in range(rounds)])[:places]
