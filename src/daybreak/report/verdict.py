"""The verdict on a run: plain sentences made of its numbers, each with where its evidence stands on the page.

Pure functions from numbers to findings; None where the numbers allow no claim. What each needs before it says anything
is documented in docs/report.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import numpy as np

from daybreak.core import metrics
from daybreak.data.advice import SMALLEST_FOR_NEAR_COPIES, is_uneven
from daybreak.data.files import plural

Level = Literal["good", "note", "warning"]
Fault = Literal["overfitted", "undertrained", "underfitted"]

OVERFITTED = 0.10  # accuracy on training images above that on others, beyond chance
UNLEARNT = 0.05  # share of the training images that are still wrong
FALLING = 0.05  # relative fall of the held-out loss in the last quarter, from which on it has not levelled off
RISEN = 0.05  # relative rise of the held-out loss above its minimum
FEWEST_EPOCHS = 4  # that a trend can be seen in
WEAKEST = 3  # classes named
FEWEST_IMAGES = 20  # of a class that can be called as good as the others
PAIR = 3  # mistakes between two classes that are no coincidence
TRUSTED = 0.90  # out-of-sample accuracy, mean over classes, from which on suspect labels are shown
MISCALIBRATED = 2.0  # times the calibration error that chance alone gives
LARGE_ECE = 0.02
FLATTERED = 0.005  # accuracy that copies in the training part add
EXTREME = 10.0  # a temperature that no one should use


class Name(str):
    """A name in a sentence: the page shortens it where it is long."""

    is_name = True


@dataclass(frozen=True)
class Finding:
    """One sentence or two of the verdict.

    Attributes:
        words: the text; names of classes are of the type `Name`.
        evidence: the id of what shows it on the page.
        cell: (true class, predicted class, images) of the confusion matrix, where the evidence is a cell's images.
        fault: what the curves show, where they do.
    """

    words: tuple[str, ...]
    level: Level
    evidence: str
    cell: tuple[int, int, int] | None = None
    fault: Fault | None = None

    @property
    def text(self) -> str:
        return "".join(self.words)


def accuracy(right: int, counts_K: np.ndarray, macro_f1: float) -> Finding:
    """How good the answers are, against always giving the same one.

    Args:
        right: test images classified correctly.
        counts_K: test images of each class.
    """
    images, same = int(counts_K.sum()), float(counts_K.max() / counts_K.sum())
    low, high = metrics.wilson_interval(right, images)
    text = (
        f"{percent(right / images)} of {plural(images, 'test image')} are classified correctly "
        f"(95 % interval {percent(low)} to {percent(high)}). Always naming the largest class would give "
        f"{percent(same)}. Macro-F1, the mean over classes, is {percent(macro_f1)}."
    )
    if low <= same:
        return Finding((text, " So it is not shown that the net does better than that."), "warning", "classes")
    return Finding((text,), "note", "classes")


def fit(epochs: Sequence[Mapping[str, Any]], part: str, part_name: str, images: int) -> Finding | None:
    """Undertrained, overfitted, or neither, from the curves.

    Args:
        epochs: rows of metrics.jsonl, whose accuracies are of the weights at the end of each epoch.
        part: prefix of the held-out figures, "val" or "test"; `images` is how many of them there are.
    """
    if not epochs or not images:
        return None
    train, held = epochs[-1]["train_acc"], epochs[-1][f"{part}_acc"]
    noise, fall = 1.96 * sqrt(held * (1 - held) / images), _fall([row[f"{part}_loss"] for row in epochs])
    both = f"{percent(train)} of the training images are correct, and {percent(held)} of the {part_name} images"
    if train - held - noise >= OVERFITTED and 1 - train < (1 - held) / 2:
        return _fault("overfitted", f"Overfitted: {both}.{_rise(epochs, part, part_name)}")
    if 1 - train >= max(UNLEARNT, (1 - held) / 2):
        if fall is None:
            return _fault("undertrained", f"Undertrained: after {plural(len(epochs), 'epoch')} {both}.")
        if fall >= FALLING:
            still = f"the {part_name} loss still fell by {percent(fall, 0)} in the last quarter of training"
            return _fault("undertrained", f"Undertrained: {both}, and {still}.")
        why = f"the {part_name} loss has levelled off: a longer training alone will not help"
        return _fault("underfitted", f"Underfitted: {both}, but {why}.")
    return Finding((f"Neither undertrained nor overfitted: {both}.",), "good", "curves")


def _fault(fault: Fault, text: str) -> Finding:
    return Finding((text,), "warning", "curves", fault=fault)


def _fall(losses: Sequence[float]) -> float | None:
    """By how much a loss fell in the last quarter of the epochs, relative to its value at the beginning of it."""
    if len(losses) < FEWEST_EPOCHS:
        return None
    before = losses[len(losses) - 1 - len(losses) // 4]
    return (before - losses[-1]) / before if before > 0 else 0.0


def _rise(epochs: Sequence[Mapping[str, Any]], part: str, part_name: str) -> str:
    lowest = min(epochs, key=lambda row: row[f"{part}_loss"])
    before, last = lowest[f"{part}_loss"], epochs[-1][f"{part}_loss"]
    if not before or last < (1 + RISEN) * before:
        return ""
    return f" The {part_name} loss has risen by {percent(last / before - 1, 0)} since epoch {lowest['epoch']:g}."


def weakest(confusion_KK: np.ndarray, classes: Sequence[str]) -> Finding | None:
    """The classes whose recall is below the accuracy beyond chance, allowing for as many comparisons as classes."""
    right_K, true_K = np.diag(confusion_KK), confusion_KK.sum(1)
    present = np.flatnonzero(true_K).tolist()
    if len(present) < 2:
        return None
    overall, confidence = right_K.sum() / true_K.sum(), 1 - 0.05 / len(present)
    below = [k for k in present if metrics.wilson_interval(int(right_K[k]), int(true_K[k]), confidence)[1] < overall]
    if not below:
        return _equally_good(int(true_K[present].min()))
    below = sorted(below, key=lambda k: right_K[k] / true_K[k])
    words = ["Weakest class: " if len(below) == 1 else "Weakest classes: "]
    for n, k in enumerate(below[:WEAKEST]):
        words += [", " if n else "", Name(classes[k]), f" ({percent(right_K[k] / true_K[k])} recognised)"]
    return Finding((*words, "."), "note", "classes")


def _equally_good(fewest: int) -> Finding:
    if fewest >= FEWEST_IMAGES:
        return Finding(("No class is clearly weaker than the others.",), "good", "classes")
    text = f"No class is weaker than the others beyond chance, but some have only {plural(fewest, 'test image')}."
    return Finding((text,), "note", "classes")


def pair(confusion_KK: np.ndarray, classes: Sequence[str]) -> Finding | None:
    """The two classes with the most mistakes between them, to look at first."""
    wrong_KK = confusion_KK * (1 - np.eye(len(confusion_KK), dtype=int))
    between_KK, total = np.triu(wrong_KK + wrong_KK.T), int(wrong_KK.sum())
    a, b = np.unravel_index(int(between_KK.argmax()), between_KK.shape)
    count = int(between_KK[a, b])
    if count < PAIR:
        return None
    true, predicted = (int(a), int(b)) if wrong_KK[a, b] >= wrong_KK[b, a] else (int(b), int(a))
    text = f": {count:,} of {plural(total, 'mistake')} are between them."
    words = ("Look first at ", Name(classes[true]), " and ", Name(classes[predicted]), text)
    return Finding(words, "note", "confused", (true, predicted, int(wrong_KK[true, predicted])))


def calibration(logits_NK: np.ndarray, labels_N: np.ndarray, temperature: float) -> Finding:
    """Whether the net is as often right as it is sure, beyond what chance would give for so many images."""
    ece, chance = (f(logits_NK, labels_N) for f in _CALIBRATION_ERRORS)
    sure, right = float(metrics.softmax(logits_NK).max(1).mean()), metrics.accuracy(logits_NK, labels_N)
    if ece < MISCALIBRATED * chance:
        text = f"Calibrated: its calibration error of {percent(ece)} is no more than chance explains for so few images."
        if ece < LARGE_ECE:
            text = f"Well calibrated: {percent(sure)} sure on average, right in {percent(right)} (ECE {percent(ece)})."
        return Finding((text,), "good", "calibration")
    kind = "Overconfident" if sure > right else "Underconfident"
    text = f"{kind}: {percent(sure)} sure on average, but right in {percent(right)} (ECE {percent(ece)})."
    if (temperature > 1) == (sure > right) and 1 / EXTREME < temperature < EXTREME:
        text += f" Divide its logits by {temperature:.2f} where probabilities matter."
    return Finding((text,), "note" if ece < LARGE_ECE else "warning", "calibration")


_CALIBRATION_ERRORS = metrics.expected_calibration_error, metrics.chance_calibration_error


def balance(train_K: np.ndarray, classes: Sequence[str], balanced_accuracy: float) -> Finding | None:
    """Classes of very unequal size."""
    small, large = int(train_K.argmin()), int(train_K.argmax())
    if not is_uneven(train_K):
        return None
    words = (
        "Unequal classes: ", Name(classes[large]), f" has {plural(int(train_K[large]), 'training image')}, ",
        Name(classes[small]), f" {train_K[small]:,}. Go by the balanced accuracy, {percent(balanced_accuracy)}.",
    )  # fmt: skip
    return Finding(words, "warning", "data")


def leaks(found: int, other_label: int, images: int, size: int, accuracies: tuple[float, float | None]) -> Finding:
    """Test images that are in the training part, too.

    Args:
        found: how many; `other_label` of them with another label there.
        size: side of the images in px: below SMALLEST_FOR_NEAR_COPIES only exact copies count.
        accuracies: on all test images, and on those without a copy; None where there are none.
    """
    kind = "exact copy" if size < SMALLEST_FOR_NEAR_COPIES else "exact or near copy"
    if not found:
        return Finding((f"No test image has an {kind} in the training part.",), "good", "duplicates")
    text = f"{found:,} of {plural(images, 'test image')} have an {kind} in the training part"
    text += f", {other_label:,} with another label" if other_label else ""
    text += f"; on the others the accuracy is {percent(accuracies[1])}." if accuracies[1] is not None else "."
    return Finding((text,), "warning" if do_flatter(*accuracies) else "note", "duplicates")


def do_flatter(accuracy: float, without: float | None) -> bool:
    """Whether copies make the accuracy look better than it is."""
    return without is None or accuracy - without >= FLATTERED


def mistrust(balanced_accuracy: float) -> str | None:
    """Why suspect labels are not shown; None where the net is good enough to doubt a label."""
    if balanced_accuracy >= TRUSTED:
        return None
    return (
        f"the net is right in {percent(balanced_accuracy)} of such images only (mean over classes): below "
        f"{percent(TRUSTED, 0)} most of the labels that it contradicts are its own mistakes"
    )


def labels(suspects: int, images: int, hidden: str | None) -> Finding:
    """Test images whose labels are probably wrong, or why nothing is said of them."""
    if hidden:
        return Finding((f"Nothing is said about wrong labels: {hidden}.",), "note", "labels")
    if not suspects:
        return Finding(("No label of the test part looks wrong.",), "good", "labels")
    return Finding((f"{suspects:,} of {plural(images, 'test label')} look wrong; see for yourself.",), "note", "labels")


def percent(share: float, digits: int = 1) -> str:
    """With a space that no line breaks at."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"
