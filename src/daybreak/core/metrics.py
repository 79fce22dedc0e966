"""Numbers from logits (N, K) and labels (N,): numpy in, plain numbers or arrays out."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, ndtri


def softmax(logits_NK: np.ndarray) -> np.ndarray:
    """Probabilities (N, K), float64."""
    weights_NK = np.exp(_below_max(logits_NK))
    return weights_NK / weights_NK.sum(1, keepdims=True)


def correct(logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Whether the highest logit of each image is the label's, bool (N,)."""
    return np.asarray(logits_NK.argmax(1) == labels_N)


def accuracy(logits_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Top-1: the share of images whose highest logit is the label's."""
    return float(correct(logits_NK, labels_N).mean())


def wilson_interval(hits: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a share (Wilson 1927), which holds near 0 and 1, too. Without trials it is (0, 1)."""
    if not trials:
        return 0.0, 1.0
    z, share = float(ndtri(0.5 + confidence / 2)), hits / trials
    spread = z * np.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    low, high = (share + z**2 / (2 * trials) + sign * spread for sign in (-1, 1))
    scale = 1 + z**2 / trials
    return max(0.0, float(low / scale)), min(1.0, float(high / scale))


def lower_bound(share: float, n: int) -> float:
    """The one-sided 95 % lower bound of an accuracy measured on n images: that of a two-sided interval of 90 %."""
    return wilson_interval(share * n, n, 0.9)[0]


def cross_entropy(logits_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Mean negative log-likelihood in nats."""
    shifted_NK = _below_max(logits_NK)
    log_total_N = np.log(np.exp(shifted_NK).sum(1))
    return float((log_total_N - shifted_NK[np.arange(len(labels_N)), labels_N]).mean())


def confusion_matrix(logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Counts (K, K): rows true, columns predicted."""
    k = logits_NK.shape[1]
    return np.bincount(labels_N * k + logits_NK.argmax(1), minlength=k * k).reshape(k, k)


def top_k_accuracy(logits_NK: np.ndarray, labels_N: np.ndarray, k: int) -> float:
    """The share of images whose label is among the k highest logits; ties count against the label."""
    own_N1 = logits_NK[np.arange(len(labels_N)), labels_N][:, None]
    return float(((logits_NK >= own_N1).sum(1) <= k).mean())


@dataclass(frozen=True)
class ReliabilityBin:
    """Images whose highest probability lies between `low` and `high`: how sure the net was, how often it was right."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def reliability(logits_NK: np.ndarray, labels_N: np.ndarray, bins: int = 15) -> list[ReliabilityBin]:
    """The bins that have images, of equal width in confidence (Guo et al. 2017, eq. 1 and 2)."""
    probability_NK = softmax(logits_NK)
    confidence_N, right_N = probability_NK.max(1), probability_NK.argmax(1) == labels_N
    bin_N = np.minimum((confidence_N * bins).astype(int), bins - 1)
    counts = np.bincount(bin_N, minlength=bins)
    confidence, accuracy = (np.bincount(bin_N, v, bins) / np.maximum(counts, 1) for v in (confidence_N, right_N))
    return [
        ReliabilityBin(b / bins, (b + 1) / bins, int(counts[b]), float(confidence[b]), float(accuracy[b]))
        for b in range(bins)
        if counts[b]
    ]


def expected_calibration_error(logits_NK: np.ndarray, labels_N: np.ndarray, bins: int = 15) -> float:
    """ECE (Guo et al. 2017, eq. 3): mean gap between confidence and accuracy over equal-width bins of confidence."""
    gaps = [b.images * abs(b.accuracy - b.confidence) for b in reliability(logits_NK, labels_N, bins)]
    return sum(gaps) / len(labels_N)


def chance_calibration_error(logits_NK: np.ndarray, labels_N: np.ndarray, bins: int = 15) -> float:
    """The ECE that a perfectly calibrated net would have on as many images, by chance alone: each image is then right
    with its confidence, a bin's gap is close to normal, and the mean of its size is sqrt(2/π) of its deviation."""
    confidence_N = softmax(logits_NK).max(1)
    bin_N = np.minimum((confidence_N * bins).astype(int), bins - 1)
    variance = np.bincount(bin_N, confidence_N * (1 - confidence_N), bins)
    return float(np.sqrt(2 / np.pi * variance).sum() / len(labels_N))


def fit_temperature(logits_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """The T in [1/20, 20] for which softmax(logits / T) has the lowest cross-entropy (Guo et al. 2017, section 4.2).
    Above one: the net is surer than it should be."""
    found = minimize_scalar(
        lambda log_t: cross_entropy(logits_NK / np.exp(log_t), labels_N), bounds=(-np.log(20), np.log(20)),
        method="bounded", options={"xatol": 1e-4},
    )  # fmt: skip
    return float(np.exp(found.x))


def cross_fitted(logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """The logits over a temperature; that of each half of the images (even, odd) is fitted on the other half, so that
    no image is evaluated with a temperature that was fitted on it."""
    scaled_NK = logits_NK.astype(np.float64)
    for mine, other in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        if len(labels_N[other]):
            scaled_NK[mine] /= fit_temperature(logits_NK[other], labels_N[other])
    return scaled_NK


def energy(logits_NK: np.ndarray) -> np.ndarray:
    """-log Σ exp(logits), float64 (N,): high for images unlike those of the training part (Liu et al. 2020, eq. 4, at
    temperature 1)."""
    return -np.asarray(logsumexp(logits_NK.astype(np.float64), axis=1))


@dataclass(frozen=True)
class Answered:
    """What comes of leaving all images below a confidence without an answer."""

    confidence: float
    coverage: float  # share of the images that get an answer
    accuracy: float  # of those


def answered(logits_NK: np.ndarray, labels_N: np.ndarray) -> list[Answered]:
    """For every confidence that occurs, the highest first: coverage and accuracy of the images at or above it (El-Yaniv
    & Wiener 2010). Images of the same confidence are answered together."""
    probability_NK = softmax(logits_NK)
    confidence_N, right_N = probability_NK.max(1), probability_NK.argmax(1) == labels_N
    order = np.argsort(-confidence_N, kind="stable")
    confidence_N, sums_N, n = confidence_N[order], np.cumsum(right_N[order]), len(labels_N)
    last = np.flatnonzero(np.append(confidence_N[1:] != confidence_N[:-1], True))
    return [Answered(float(confidence_N[i]), (i + 1) / n, float(sums_N[i] / (i + 1))) for i in last.tolist()]


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


def balanced_accuracy(confusion_KK: np.ndarray) -> float:
    """Mean recall of the classes that have images: every class counts alike, whatever its size."""
    true = confusion_KK.sum(1)
    return float((np.diag(confusion_KK)[true > 0] / true[true > 0]).mean())


def is_even(accuracy: float, balanced: float) -> bool:
    """Whether the balanced accuracy says the same as the accuracy, to a point: then it need not be shown."""
    return abs(accuracy - balanced) < 0.01


def macro_f1(confusion_KK: np.ndarray) -> float:
    """Mean F1 of the classes that have images or were predicted."""
    either = confusion_KK.sum(0) + confusion_KK.sum(1)
    return float((2 * np.diag(confusion_KK)[either > 0] / either[either > 0]).mean())


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


def unsure(logits_NK: np.ndarray, labels_N: np.ndarray, n: int) -> np.ndarray:
    """Indices of correctly classified images, the least confident first."""
    probability_NK = softmax(logits_NK)
    right = np.flatnonzero(probability_NK.argmax(1) == labels_N)
    return right[np.argsort(probability_NK[right].max(1), kind="stable")][:n]


def _below_max(logits_NK: np.ndarray) -> np.ndarray:
    """Logits minus the highest of their image, float64: their exponentials cannot overflow."""
    return logits_NK.astype(np.float64) - logits_NK.max(1, keepdims=True)
