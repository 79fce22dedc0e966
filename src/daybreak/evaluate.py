"""Judging a finished run: its test predictions, and the numbers drawn from them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from daybreak import metrics
from daybreak.config import Device, Tta
from daybreak.data import Dataset, open_dataset
from daybreak.errors import DataError, RunError, UsageError
from daybreak.run import Predictions, RunDirectory, predict_test


@dataclass(frozen=True)
class Evaluation:
    """Test logits and labels, with the numbers that people ask of them."""

    logits_NK: np.ndarray
    labels_N: np.ndarray
    classes: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        return metrics.accuracy(self.logits_NK, self.labels_N)

    @property
    def loss(self) -> float:
        return metrics.cross_entropy(self.logits_NK, self.labels_N)

    @property
    def ece(self) -> float:
        return metrics.expected_calibration_error(self.logits_NK, self.labels_N)

    @property
    def confusion(self) -> np.ndarray:
        return metrics.confusion_matrix(self.logits_NK, self.labels_N)

    @property
    def per_class(self) -> list[metrics.ClassScore]:
        return metrics.per_class(self.confusion, self.classes)

    def most_confused(self, n: int = 10) -> list[tuple[str, str, int]]:
        """The most frequent mistakes as (true, predicted, count)."""
        return metrics.most_confused(self.confusion, self.classes, n)

    def mistakes(self, n: int = 25) -> np.ndarray:
        """Indices of wrongly classified test images, the most confident first."""
        return metrics.mistakes(self.logits_NK, self.labels_N, n)


def evaluate(
    run: RunDirectory, *, data: str | Path | None = None, tta: Tta | None = None, device: Device = "auto"
) -> Evaluation:
    """Judge a run on its own test images, or on those of other data with the same classes.

    Args:
        data: other data; by default what the run was trained on, and then the stored predictions serve.
        tta: test-time augmentation; by default the recipe's.

    Raises:
        DataError: the data is gone, has changed since the run, or has other classes.
        RunError: the run cannot be used.
    """
    tta = tta or run.recipe.tta
    predictions = stored_predictions(run, device) if data is None and tta in ("none", run.recipe.tta) else None
    if predictions is None:
        dataset = run_dataset(run) if data is None else other_dataset(run, data)
        predictions = predict_test(run.classifier(device), dataset.test, tta)
    logits = predictions.logits if tta == "none" else predictions.logits_tta
    return Evaluation(logits, predictions.labels, run.card.classes)


def stored_predictions(run: RunDirectory, device: Device = "auto") -> Predictions:
    """The run's test predictions; made and stored now where the run was interrupted before it made them."""
    predictions = run.predictions()
    if predictions is None:
        predictions = predict_test(run.classifier(device), run_dataset(run).test, run.recipe.tta)
        run.write_predictions(predictions)
    return predictions


def run_dataset(run: RunDirectory) -> Dataset:
    """The data set that the run was trained on.

    Raises:
        DataError: it is gone, or its content is not what it was.
    """
    try:
        request, fingerprint = run.config["data"]["request"], run.config["data"]["fingerprint"]
        data, size, split_seed = request["data"], request["size"], request["split_seed"]
    except (KeyError, TypeError):
        raise RunError(run.path / "config.json", "does not say which data", "evaluate --data DATA") from None
    dataset = open_dataset(data, size=size, split_seed=split_seed)
    if dataset.fingerprint != fingerprint:
        raise DataError(data, "not the data this run was trained on (its content differs)", "evaluate --data DATA")
    return dataset


def other_dataset(run: RunDirectory, data: str | Path) -> Dataset:
    """Other data, decoded as the run's was.

    Raises:
        DataError: its classes are not the run's.
    """
    dataset = open_dataset(data, size=run.card.decode.size)
    if dataset.classes != run.card.classes:
        unlike = sorted(set(dataset.classes) ^ set(run.card.classes))
        raise DataError(
            data, f"its classes are not those of {run.path}: {', '.join(unlike)} differ", "data of the same classes"
        )
    if dataset.decode.channels != run.card.decode.channels:
        raise DataError(
            data, f"{dataset.decode.channels} channels, the run has {run.card.decode.channels}", "data like the run's"
        )
    return dataset


def image_index(index: int, count: int) -> int:
    """A test image's number, checked.

    Raises:
        UsageError: there are not that many.
    """
    if not 0 <= index < count:
        raise UsageError(f"image {index}", f"the test part has {count} images", f"0 to {count - 1}")
    return index
