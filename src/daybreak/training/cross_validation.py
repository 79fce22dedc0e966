"""Logits for training images from nets that never trained on them."""

import tempfile
from collections.abc import Container
from dataclasses import replace
from pathlib import Path

import numpy as np

from daybreak.core.config import Device, Recipe
from daybreak.core.errors import StoppedError, UsageError
from daybreak.core.events import OnEvent
from daybreak.core.options import TrainOptions
from daybreak.data.dataset import Dataset
from daybreak.training.train import train

FOLDS = 4


def out_of_sample(
    dataset: Dataset,
    recipe: Recipe,
    *,
    folds: int = FOLDS,
    budget: float | None = None,
    seed: int = 0,
    device: Device = "auto",
    only: Container[int] | None = None,
    on_event: OnEvent = lambda event: None,
) -> np.ndarray:
    """Logits (N, K) of all training images, each by a net that was trained on the other folds.

    Args:
        recipe: of every fold's net. On features, which the folds share, a fold takes seconds.
        folds: how many; stratified by class.
        budget: seconds of training a fold, instead of the recipe's epochs.
        only: the folds to train, from 1; the images of others keep zeros. All by default.
        on_event: called with the progress of every fold's training.

    Raises:
        UsageError: fewer than two folds, or more than the smallest class has images.
    """
    train_part, labels_N = dataset.train, np.asarray(dataset.train.labels_N)
    counts = np.bincount(labels_N)
    smallest = int(counts[counts > 0].min())
    if not 2 <= folds <= smallest:
        raise UsageError(f"--folds {folds}", f"the smallest class has {smallest} training images", f"2 to {smallest}")
    options = TrainOptions(seed=seed, device=device, budget=budget)
    logits_NK = np.zeros((len(labels_N), len(dataset.classes)), np.float32)
    from sklearn.model_selection import StratifiedKFold  # a third of a second that only folds need

    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels_N, labels_N)
    for number, (known, asked) in enumerate(splits, 1):
        if only is not None and number not in only:
            continue
        on_event({"event": "run", "label": f"fold {number} of {folds}", "seed": seed})
        fold = replace(dataset, train=train_part.take(known), test=train_part.take(asked), validation=None)
        with tempfile.TemporaryDirectory() as folder:
            run = train(recipe, fold, Path(folder) / "run", options, by_features=True, on_event=on_event)
            predictions = run.predictions()
            if predictions is None:
                raise StoppedError(run.summary["interrupted"], "nothing was changed; the same command starts again")
        logits_NK[asked] = predictions.logits_tta
    return logits_NK
