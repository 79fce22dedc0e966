"""Metrics against scikit-learn, torch and known answers."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from daybreak import metrics

RNG = np.random.default_rng(1)
LOGITS = RNG.normal(size=(500, 6)).astype(np.float32) * 3
LABELS = RNG.integers(0, 5, 500)  # class 5 never occurs


def test_accuracy_and_loss() -> None:
    assert metrics.accuracy(LOGITS, LABELS) == sk.accuracy_score(LABELS, LOGITS.argmax(1))
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(LOGITS), torch.from_numpy(LABELS)).item()
    assert metrics.cross_entropy(LOGITS, LABELS) == pytest.approx(expected, rel=1e-5)


def test_huge_logits_stay_finite() -> None:
    assert metrics.cross_entropy(np.array([[1e4, -1e4]], np.float32), np.array([1])) == pytest.approx(2e4)


def test_confusion_rows_are_true_and_columns_predicted() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    counts = metrics.confusion_matrix(logits, np.array([0, 1, 0, 2]))
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    theirs = sk.confusion_matrix(LABELS, LOGITS.argmax(1), labels=range(6))
    assert np.array_equal(metrics.confusion_matrix(LOGITS, LABELS), theirs)


def test_per_class_is_sklearns() -> None:
    ours = metrics.per_class(metrics.confusion_matrix(LOGITS, LABELS), tuple("abcdef"))
    theirs = sk.precision_recall_fscore_support(LABELS, LOGITS.argmax(1), labels=range(6), zero_division=0)
    assert np.allclose([[c.precision, c.recall, c.f1, c.images] for c in ours], np.array(theirs).T)


def test_most_confused_counts_no_right_answers() -> None:
    counts = np.array([[50, 2, 0], [7, 40, 1], [0, 0, 30]])
    assert metrics.most_confused(counts, ("a", "b", "c")) == [("b", "a", 7), ("a", "b", 2), ("b", "c", 1)]


def test_calibration_error_known_answers() -> None:
    sure = np.array([[100.0, 0.0]] * 10, dtype=np.float32)
    assert metrics.expected_calibration_error(sure, np.zeros(10, int)) == pytest.approx(0)
    assert metrics.expected_calibration_error(sure, np.arange(10) % 2) == pytest.approx(0.5)
    half = np.zeros((10, 2), dtype=np.float32)  # says 50 % and is right half of the time
    assert metrics.expected_calibration_error(half, np.arange(10) % 2) == pytest.approx(0)


def test_mistakes_come_most_confident_first() -> None:
    logits = np.array([[5, 0], [1, 0], [0, 3], [9, 0]], dtype=np.float32)
    assert metrics.mistakes(logits, np.array([1, 1, 1, 0]), 5).tolist() == [0, 1]
