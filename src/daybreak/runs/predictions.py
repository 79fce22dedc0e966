"""What a net says about every test image."""

from dataclasses import dataclass

import numpy as np

from daybreak.core.config import Tta
from daybreak.data.dataset import Split
from daybreak.runs.classifier import Classifier


@dataclass(frozen=True)
class Predictions:
    """predictions.npz: what the net said about every test image."""

    logits: np.ndarray  # (N, K) float32, one view
    logits_tta: np.ndarray  # (N, K) float32, the recipe's test-time augmentation
    labels: np.ndarray  # (N,) int64
    names: np.ndarray  # (N,) str


def predict_test(classifier: Classifier, test: Split, tta: Tta) -> Predictions:
    """What a net says about test images, with and without test-time augmentation."""
    plain = classifier.logits(test.images_NHWC)
    averaged = plain if tta == "none" else classifier.logits(test.images_NHWC, tta)
    return Predictions(plain, averaged, np.asarray(test.labels_N), np.asarray(test.names, dtype=np.str_))
