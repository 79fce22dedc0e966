"""The data of a run: what it was trained on, and other data with the same classes."""

from pathlib import Path
from typing import Any

from daybreak.core.errors import DataError, RunError
from daybreak.data import Dataset, open_dataset
from daybreak.data.match import open_like
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


def data_of(run: RunDirectory) -> str:
    """The name or the place of the run's data, as it was when the run was trained."""
    return _request(run)[0]


def opened_how(run: RunDirectory) -> dict[str, Any]:
    """The arguments with which `open_dataset` opened the run's data, but for its place."""
    return _request(run)[1]


def other_dataset(run: RunDirectory, data: str | Path) -> Dataset:
    """Other data, decoded as the run's was, its labels matched to the run's by name.

    Raises:
        DataError: see `daybreak.data.match.open_like`.
    """
    _, how, fingerprint = _request(run)
    return open_like(data, run.card.classes, run.card.decode, how, fingerprint, f"the run {run.path}")
