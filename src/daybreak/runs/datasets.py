"""The data of a run: what it was trained on, and other data with the same classes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.core.errors import DataError, RunError
from daybreak.data import Dataset, open_dataset
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
        how = {"size": request["size"], "split_seed": request["split_seed"], "skip_bad": bool(request.get("skip_bad"))}
        return request["data"], how, data["fingerprint"]
    except (KeyError, TypeError):
        raise RunError(run.path / "config.json", "does not say which data", "a whole copy of the run") from None


def other_dataset(run: RunDirectory, data: str | Path) -> Dataset:
    """Other data, decoded as the run's was, its labels matched to the run's by name.

    Raises:
        DataError: its classes are not the run's, or it has no test part of its own: one drawn now would hold images
            that the run was trained on.
    """
    _, how, fingerprint = _request(run)
    dataset, classes = open_dataset(data, **how | {"size": run.card.decode.size}), run.card.classes
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
    renumber = np.array([classes.index(name) for name in dataset.classes])
    return replace(dataset, classes=classes, test=replace(dataset.test, labels_N=renumber[dataset.test.labels_N]))
