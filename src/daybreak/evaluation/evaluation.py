"""Test predictions with the metrics that are computed from them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from daybreak.core import metrics
from daybreak.core.config import Tta
from daybreak.core.errors import UsageError, nearest, one_line
from daybreak.runs.predictions import Predictions


@dataclass(frozen=True)
class Mistake:
    """A wrongly classified test image."""

    index: int
    file: str  # its name inside the data set
    true: str
    predicted: str
    confidence: float  # probability given to the predicted class
    true_probability: float


@dataclass(frozen=True)
class Evaluation:
    """Test predictions with their metrics.

    Attributes:
        tta: the test-time augmentation of `logits_NK`.
        dataset: title of the evaluated data.
        mirrors: whether full test-time augmentation has mirrored views (`daybreak.runs.classifier.tta_views`).
    """

    predictions: Predictions
    classes: tuple[str, ...]
    tta: Tta
    dataset: str
    notes: tuple[str, ...]
    mirrors: bool = True

    @property
    def logits_NK(self) -> np.ndarray:  # noqa: N802 - shape suffix
        return self.predictions.logits if self.tta == "none" else self.predictions.logits_tta

    @property
    def labels_N(self) -> np.ndarray:  # noqa: N802
        return self.predictions.labels

    @property
    def accuracy(self) -> float:
        return metrics.accuracy(self.logits_NK, self.labels_N)

    @property
    def accuracy_of_one_view(self) -> float:
        return metrics.accuracy(self.predictions.logits, self.labels_N)

    @property
    def views(self) -> int:
        """How many views of each image the logits are averaged over."""
        return {"none": 1, "flip": 2, "full": 6 if self.mirrors else 3}[self.tta]

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
    def balanced_accuracy(self) -> float:
        return metrics.balanced_accuracy(self.confusion)

    @property
    def is_even(self) -> bool:
        return metrics.is_even(self.accuracy, self.balanced_accuracy)

    @property
    def macro_f1(self) -> float:
        return metrics.macro_f1(self.confusion)

    @property
    def per_class(self) -> list[metrics.ClassScore]:
        return metrics.per_class(self.confusion, self.classes)

    def most_confused(self, n: int = 10) -> list[tuple[str, str, int]]:
        """The most frequent mistakes as (true, predicted, count)."""
        return metrics.most_confused(self.confusion, self.classes, n)

    def mistakes(self, n: int = 25, between: Sequence[str] = ()) -> list[Mistake]:
        """The wrongly classified test images, the most confident first.

        Args:
            between: two classes, of which one was taken for the other; by default all are asked for.

        Raises:
            UsageError: that is not two of the classes.
        """
        probability_NK = metrics.softmax(self.logits_NK)
        wrong = metrics.mistakes(self.logits_NK, self.labels_N, len(self.labels_N))
        if between:
            pair = self._pair(between)
            both = np.isin(self.labels_N[wrong], pair) & np.isin(probability_NK[wrong].argmax(1), pair)
            wrong = wrong[both]
        return [self._mistake(int(i), probability_NK[i]) for i in wrong[:n]]

    def _pair(self, names: Sequence[str]) -> list[int]:
        unknown = [name for name in names if name not in self.classes]
        if unknown:
            raise UsageError(
                f"class {one_line(unknown[0])}", "the run has no such class", nearest(unknown[0], self.classes)
            )
        if len(set(names)) != 2:
            raise UsageError(f"classes {one_line(' '.join(names))}", "not two classes", "two that are confused")
        return [self.classes.index(name) for name in names]

    def as_json(self) -> dict[str, Any]:
        """What `evaluate --json` adds to the run's summary; `test_acc_tta` is the accuracy with `tta`."""
        plain = replace(self, tta="none")
        return {
            "dataset": self.dataset,
            "notes": list(self.notes),
            "tta": self.tta,
            "views": self.views,
            "test_acc": self.accuracy_of_one_view,
            "test_acc_tta": self.accuracy,
            "test_loss": plain.loss,
            "ece": self.ece,
            "balanced_acc": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "recall": {score.name: score.recall for score in self.per_class},
            "classes": list(self.classes),
            "per_class": [asdict(score) for score in self.per_class],
            "confusion": self.confusion.tolist(),
        }

    def _mistake(self, index: int, probability_K: np.ndarray) -> Mistake:
        true, predicted = int(self.labels_N[index]), int(probability_K.argmax())
        return Mistake(
            index=index,
            file=str(self.predictions.names[index]),
            true=self.classes[true],
            predicted=self.classes[predicted],
            confidence=float(probability_K[predicted]),
            true_probability=float(probability_K[true]),
        )
