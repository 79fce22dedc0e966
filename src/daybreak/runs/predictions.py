"""What a net says about every test image."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """predictions.npz: what the net said about every test image."""

    logits: np.ndarray  # (N, K) float32, one view
    logits_tta: np.ndarray  # (N, K) float32, the recipe's test-time augmentation
    labels: np.ndarray  # (N,) int64
    names: np.ndarray  # (N,) str
