"""Data for a net that was trained on other data: decoded as that was, its labels matched by name."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.core.errors import DataError
from daybreak.data.dataset import Dataset, Split
from daybreak.data.image import DecodeSpec
from daybreak.data.open import open_dataset
from daybreak.data.split import SPLIT_NOTE


def open_like(
    data: str | Path,
    classes: tuple[str, ...],
    decode: DecodeSpec,
    how: Mapping[str, Any],
    fingerprint: str,
    whose: str,
) -> Dataset:
    """Other data, with the labels that a net knows.

    Training images are held out of it as `open_dataset` does by default, unless it is the net's own data: its test part
    is what it is opened for, and a share that the net was given must not refuse data with few training images.

    Args:
        classes: those of the net, in its order.
        decode: how the net's images were decoded.
        how: how its own data was opened: arguments of `open_dataset`.
        fingerprint: of its own data.
        whose: what the net is called in messages.

    Raises:
        DataError: its classes are not the net's, or it has no test part of its own: one drawn now would hold images
            that the net was trained on.
    """
    how = {**how, "size": decode.size}
    dataset = open_dataset(data, **how | {"validate": None})
    if dataset.fingerprint == fingerprint:
        dataset = open_dataset(data, **how)
    if dataset.fingerprint != fingerprint and any(note.startswith(SPLIT_NOTE) for note in dataset.notes):
        why = f"has no test part, and is not what {whose} was trained on but may hold some of it"
        raise DataError(data, why, "images below test/CLASS, and others below train/CLASS")
    unlike = sorted(set(dataset.classes) ^ set(classes))
    if unlike:
        raise DataError(data, f"classes differ from those of {whose}: {', '.join(unlike)}", "data of the same classes")
    if dataset.decode.channels != decode.channels:
        raise DataError(data, f"{dataset.decode.channels} channels, {whose} has {decode.channels}", "like data")
    return _renumbered(dataset, classes)


def _renumbered(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """The same images under the same names of classes, in another order of the classes."""
    number_K = np.array([classes.index(name) for name in dataset.classes])

    def renumber(split: Split) -> Split:
        return replace(split, labels_N=number_K[split.labels_N])

    validation = renumber(dataset.validation) if dataset.validation else None
    train, test = renumber(dataset.train), renumber(dataset.test)
    return replace(dataset, classes=classes, train=train, validation=validation, test=test)
