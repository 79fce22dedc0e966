"""Evaluation of a finished run, on its own test images or on others."""

from contextlib import suppress
from pathlib import Path

from daybreak.core.config import Device, Tta
from daybreak.core.errors import StorageError, UsageError
from daybreak.evaluation.evaluation import Evaluation
from daybreak.runs.classifier import predict_test
from daybreak.runs.datasets import other_dataset, run_dataset
from daybreak.runs.directory import RunDirectory
from daybreak.runs.predictions import Predictions

NOT_MIRRORED = {
    "flip": "the recipe does not mirror images in training, so that mirrored views can mislead the net; --tta none "
    "or full goes without",
    "full": "no mirrored views: the recipe does not mirror images in training",
}


def evaluate(
    run: RunDirectory,
    *,
    data: str | Path | None = None,
    tta: Tta | None = None,
    device: Device = "auto",
    moved_to: str | Path | None = None,
) -> Evaluation:
    """Evaluate a run on its own test images, or on those of other data with the same classes.

    Args:
        data: other data; by default what the run was trained on, and then the stored predictions serve.
        tta: test-time augmentation; by default the recipe's.
        moved_to: where the run's own data is now.

    Raises:
        DataError: the data is gone, has changed since the run, or has other classes.
        RunError: the run cannot be used.
    """
    tta = tta or run.recipe.tta
    if data is None and tta in ("none", run.recipe.tta):
        predictions, title, notes = (
            stored_predictions(run, device, moved_to),
            run.summary["dataset"],
            run.summary["notes"],
        )
    else:
        dataset = run_dataset(run, moved_to) if data is None else other_dataset(run, data)
        predictions, title, notes = (
            predict_test(run.classifier(device), dataset.test, tta),
            dataset.title,
            dataset.notes,
        )
    mirrors = run.recipe.mirrors
    notes = (*notes, *(() if mirrors or tta == "none" else (NOT_MIRRORED[tta],)))
    return Evaluation(predictions, run.card.classes, tta, title, notes, mirrors)


def stored_predictions(run: RunDirectory, device: Device = "auto", data: str | Path | None = None) -> Predictions:
    """The run's test predictions; made now, and stored if possible, where an interrupted run has none."""
    predictions = run.predictions()
    if predictions is None:
        predictions = predict_test(run.classifier(device), run_dataset(run, data).test, run.recipe.tta)
        with suppress(StorageError):  # storing is only a shortcut
            run.write_predictions(predictions)
    return predictions


def image_index(index: int, count: int) -> int:
    """A test image's number, checked.

    Raises:
        UsageError: there are not that many.
    """
    if not 0 <= index < count:
        raise UsageError(f"image {index}", f"the test part has {count} images", f"0 to {count - 1}")
    return index
