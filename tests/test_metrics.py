"""Metrics against scikit-learn, torch and known answers."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn import metrics as sk

from daybreak.core import metrics

RNG = np.random.default_rng(1)
LOGITS = RNG.normal(size=(500, 6)).astype(np.float32) * 3
LABELS = RNG.integers(0, 5, 500)  # class 5 never occurs


def test_accuracy_and_loss() -> None:
    assert metrics.accuracy(LOGITS, LABELS) == sk.accuracy_score(LABELS, LOGITS.argmax(1))
    assert metrics.correct(LOGITS[:3], LOGITS[:3].argmax(1) + np.array([0, 1, 0])).tolist() == [True, False, True]
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


def test_right_answers_come_least_confident_first() -> None:
    logits = np.array([[5, 0], [1, 0], [0, 3], [9, 0]], dtype=np.float32)
    assert metrics.unsure(logits, np.array([0, 0, 1, 1]), 2).tolist() == [1, 2]


def test_top_k_is_sklearns_and_ties_are_no_hits() -> None:
    for k in (1, 2, 5):
        theirs = sk.top_k_accuracy_score(LABELS, LOGITS, k=k, labels=range(6))
        assert metrics.top_k_accuracy(LOGITS, LABELS, k) == pytest.approx(theirs)
    assert metrics.top_k_accuracy(np.zeros((4, 6)), np.zeros(4, int), 5) == 0


def test_reliability_bins_by_hand() -> None:
    """Probabilities 0.5, 0.9, 0.95: with ten bins the last two share one, and a sure 1.0 belongs to it as well."""
    probability = np.array([[0.5, 0.5], [0.1, 0.9], [0.95, 0.05], [1 - 1e-12, 1e-12]])
    bins = metrics.reliability(np.log(probability), np.array([0, 1, 1, 0]), bins=10)
    assert [(b.low, b.high, b.images, b.accuracy) for b in bins] == [(0.5, 0.6, 1, 1.0), (0.9, 1.0, 3, 2 / 3)]
    assert bins[1].confidence == pytest.approx((0.9 + 0.95 + 1) / 3)


def test_temperature_undoes_what_was_done() -> None:
    """Labels drawn from softmax(logits): their temperature is 1, and c for logits that were multiplied by c."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5)) * 2
    labels = (metrics.softmax(logits).cumsum(1) > rng.random((20_000, 1))).argmax(1)
    for factor in (1.0, 0.3, 4.0):
        assert metrics.fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.03)
    surer = logits * 4
    assert metrics.expected_calibration_error(surer, labels) > 0.1
    assert metrics.expected_calibration_error(metrics.cross_fitted(surer, labels), labels) < 0.02


def test_cross_fitting_never_looks_at_the_images_it_changes() -> None:
    changed = LABELS.copy()
    changed[::2] = LOGITS[::2].argmax(1)  # the even images are all right now: only the odd ones' logits may notice
    before, after = metrics.cross_fitted(LOGITS, LABELS), metrics.cross_fitted(LOGITS, changed)
    assert np.array_equal(before[::2], after[::2])
    assert not np.allclose(before[1::2], after[1::2])


def test_there_are_fifteen_bins() -> None:
    """Labels as likely as the logits say: where all were too sure, the error would be the same for any bins."""
    rng = np.random.default_rng(0)
    labels = np.array([rng.choice(6, p=softmax(logits)) for logits in LOGITS])
    for figure in (metrics.reliability, metrics.expected_calibration_error, metrics.chance_calibration_error):
        assert figure(LOGITS, labels) == figure(LOGITS, labels, 15) != figure(LOGITS, labels, 16)


def test_a_class_with_one_image_has_its_whole_share() -> None:
    found = metrics.per_class(np.array([[1, 0], [0, 0]]), ("a", "b"))
    assert found == [metrics.ClassScore("a", 1, 1.0, 1.0, 1.0), metrics.ClassScore("b", 0, 0.0, 0.0, 0.0)]


def test_each_class_needs_its_name() -> None:
    with pytest.raises(ValueError, match="longer"):
        metrics.per_class(np.eye(3, dtype=int), ("a", "b"))


def test_a_class_that_was_predicted_once_and_never_there_counts_in_macro_f1() -> None:
    assert metrics.macro_f1(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]])) == pytest.approx((6 / 7 + 0) / 2)


def test_ten_mistakes_are_named() -> None:
    assert len(metrics.most_confused(np.ones((4, 4), int), tuple("abcd"))) == 10


def test_a_temperature_has_its_limits() -> None:
    assert metrics.fit_temperature(LOGITS * 1e3, LABELS) == pytest.approx(20, rel=1e-3)
    assert metrics.fit_temperature(LOGITS / 1e3, LOGITS.argmax(1)) == pytest.approx(1 / 20, rel=1e-3)
