"""The data of a run: what it was trained on, and other data with the same classes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.core.errors import DataError, RunError
from daybreak.data import Dataset, Split, open_dataset
from daybreak.data.split import SPLIT_NOTE
from daybreak.runs.directory import RunDirectory


def run_dataset(run: RunDirectory, data: str | Path | None = None) -> Dataset:
    """The data set that the run was trained on.

    Args:
        data: where it is now, if it has moved.

    Raises:
        DataError: it is gone, or its content is not what it was.
    """
    trained_on, how, fingerprint = _request(run)
    try:
        dataset = open_dataset(data or trained_on, **how)
    except DataError as error:
        if data is None:
            raise DataError(error.what, error.why, "--data with the place where the run's data is now") from None
        raise
    if dataset.fingerprint != fingerprint:
        raise DataError(
            data or trained_on, f"its content is not what {run.path} was trained on", "the data as it was then"
        )
    return dataset


def _request(run: RunDirectory) -> tuple[str, dict[str, Any], str]:
    """Which data the run was trained on, how it was opened, and its fingerprint."""
    try:
        data = run.config["data"]
        request = data["request"]
        how = {
            "size": request["size"],
            "split_seed": request["split_seed"],
            "skip_bad": bool(request.get("skip_bad")),
            "validate": request.get("validate"),
            "parts_of_0_1_0": request.get("parts_of_0_1_0", "validate" not in request),
        }
        return request["data"], how, data["fingerprint"]
    except (KeyError, TypeError):
        raise RunError(run.path / "config.json", "does not say which data", "a whole copy of the run") from None


def other_dataset(run: RunDirectory, data: str | Path) -> Dataset:
    """Other data, decoded as the run's was, its labels matched to the run's by name.

    Training images are held out of it as `open_dataset` does by default, unless it is the run's own data: its test part
    is what it is opened for, and a share that the run was given must not refuse data with few training images.

    Raises:
        DataError: its classes are not the run's, or it has no test part of its own: one drawn now would hold images
            that the run was trained on.
    """
    _, how, fingerprint = _request(run)
    how, classes = how | {"size": run.card.decode.size}, run.card.classes
    dataset = open_dataset(data, **how | {"validate": None})
    if dataset.fingerprint == fingerprint:
        dataset = open_dataset(data, **how)
    if dataset.fingerprint != fingerprint and any(note.startswith(SPLIT_NOTE) for note in dataset.notes):
        why = "has no test part, and is not what the run was trained on but may hold some of it"
        raise DataError(data, why, "images below test/CLASS, and others below train/CLASS")
    unlike = sorted(set(dataset.classes) ^ set(classes))
    if unlike:
        raise DataError(
            data, f"classes differ from those of {run.path}: {', '.join(unlike)}", "data of the same classes"
        )
    if dataset.decode.channels != run.card.decode.channels:
        raise DataError(
            data, f"{dataset.decode.channels} channels, the run has {run.card.decode.channels}", "like data"
        )
    return _renumbered(dataset, classes)


def _renumbered(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """The same images under the same names of classes, in another order of the classes."""
    number_K = np.array([classes.index(name) for name in dataset.classes])

    def renumber(split: Split) -> Split:
        return replace(split, labels_N=number_K[split.labels_N])

    validation = renumber(dataset.validation) if dataset.validation else None
    train, test = renumber(dataset.train), renumber(dataset.test)
    return replace(dataset, classes=classes, train=train, validation=validation, test=test)
