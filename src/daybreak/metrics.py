"""Numbers from logits (N, K) and labels (N,): numpy in, plain numbers or arrays out."""

from dataclasses import dataclass

import numpy as np


def softmax(logits_NK: np.ndarray) -> np.ndarray:
    """Probabilities (N, K), float64."""
    shifted = logits_NK.astype(np.float64) - logits_NK.max(1, keepdims=True)
    weights = np.exp(shifted)
    return weights / weights.sum(1, keepdims=True)


def accuracy(logits_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Top-1: the share of images whose highest logit is the label's."""
    return float((logits_NK.argmax(1) == labels_N).mean())


def cross_entropy(logits_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Mean negative log-likelihood in nats."""
    shifted = logits_NK.astype(np.float64) - logits_NK.max(1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(1))
    return float((log_total - shifted[np.arange(len(labels_N)), labels_N]).mean())


def confusion_matrix(logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Counts (K, K): rows true, columns predicted."""
    k = logits_NK.shape[1]
    return np.bincount(labels_N * k + logits_NK.argmax(1), minlength=k * k).reshape(k, k)


def expected_calibration_error(logits_NK: np.ndarray, labels_N: np.ndarray, bins: int = 15) -> float:
    """ECE (Guo et al. 2017, eq. 3): mean gap between confidence and accuracy over equal-width bins of confidence."""
    probability_NK = softmax(logits_NK)
    confidence, correct = probability_NK.max(1), probability_NK.argmax(1) == labels_N
    bin_N = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_N, correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels_N))


@dataclass(frozen=True)
class ClassScore:
    name: str
    images: int
    precision: float
    recall: float
    f1: float


def per_class(confusion_KK: np.ndarray, classes: tuple[str, ...]) -> list[ClassScore]:
    """Precision, recall and F1 of each class; 0 where a class was never predicted or never there."""
    right, true, predicted = np.diag(confusion_KK), confusion_KK.sum(1), confusion_KK.sum(0)
    precision, recall = right / np.maximum(predicted, 1), right / np.maximum(true, 1)
    f1 = 2 * right / np.maximum(true + predicted, 1)
    rows = zip(classes, true, precision, recall, f1, strict=True)
    return [ClassScore(name, int(n), float(p), float(r), float(f)) for name, n, p, r, f in rows]


def most_confused(confusion_KK: np.ndarray, classes: tuple[str, ...], n: int = 10) -> list[tuple[str, str, int]]:
    """The most frequent mistakes as (true, predicted, count), most frequent first."""
    wrong = confusion_KK * (1 - np.eye(len(confusion_KK), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:n]
    pairs = [divmod(int(cell), len(wrong)) for cell in order]
    return [(classes[t], classes[p], int(wrong[t, p])) for t, p in pairs if wrong[t, p]]


def mistakes(logits_NK: np.ndarray, labels_N: np.ndarray, n: int) -> np.ndarray:
    """Indices of wrongly classified images, the most confident first."""
    probability_NK = softmax(logits_NK)
    predicted_N = probability_NK.argmax(1)
    wrong = np.flatnonzero(predicted_N != labels_N)
    return wrong[np.argsort(-probability_NK[wrong, predicted_N[wrong]], kind="stable")][:n]
