"""Runs compared: differences in configuration and results, and the images that only one of two runs classifies
correctly, with McNemar's test of whether the difference is significant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from daybreak.core import metrics
from daybreak.core.errors import UsageError, one_line
from daybreak.core.sections import flatten
from daybreak.evaluation.evaluate import evaluate
from daybreak.evaluation.evaluation import Evaluation
from daybreak.runs.directory import RunDirectory

MISSING = "–"
SIGNIFICANT = 0.05  # p-values below
SUMMARY = ("dataset", "recipe", "seed", "test_acc", "test_acc_tta", "train_seconds", "epochs", "params")


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test of two classifiers on the same images.

    Attributes:
        only_first: number of images that only the first classifies correctly.
        only_second: number of images that only the second classifies correctly.
        p_value: two-sided: the probability of a split at least this uneven if both were equally good.
    """

    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class Pair:
    """The first run against another, image by image: the indices of test images that only one classifies correctly."""

    other: int
    test: McNemar
    only_first: tuple[int, ...]
    only_other: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """Runs, evaluated without test-time augmentation.

    Attributes:
        labels: short names that tell the runs apart.
        differences: configuration keys that differ, with each run's value as text.
        evaluations: of the runs, in their order.
        pairs: the first run against each other run that was evaluated on the same test images.
    """

    runs: tuple[RunDirectory, ...]
    labels: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    differences: tuple[tuple[str, tuple[str, ...]], ...]
    pairs: tuple[Pair, ...]

    def verdict(self, pair: Pair) -> str:
        """Whether one of a pair is better, as a sentence."""
        better = self.labels[0 if pair.test.only_first > pair.test.only_second else pair.other]
        if pair.test.p_value < SIGNIFICANT:
            return f"{better} is significantly better."
        return "The difference is not significant: it can be chance."

    def sentence(self, pair: Pair) -> str:
        """What each of a pair gets right alone, and whether that is chance."""
        counts = f"{self.labels[0]} {pair.test.only_first}, {self.labels[pair.other]} {pair.test.only_second}"
        return f"right alone: {counts} (McNemar's exact test: p = {pair.test.p_value:.3g}). {self.verdict(pair)}"

    def as_json(self) -> dict[str, Any]:
        return {
            "runs": [
                {"run": str(run.path), "label": label} | {key: run.summary[key] for key in SUMMARY}
                for run, label in zip(self.runs, self.labels, strict=True)
            ],
            "differences": {key: list(values) for key, values in self.differences},
            "pairs": [
                {
                    "runs": [self.labels[0], self.labels[pair.other]],
                    "only_first_right": pair.test.only_first,
                    "only_second_right": pair.test.only_second,
                    "mcnemar_p": pair.test.p_value,
                    "verdict": self.verdict(pair),
                }
                for pair in self.pairs
            ],
        }


def compare(runs: Sequence[RunDirectory]) -> Comparison:
    """Compare two or more runs.

    Raises:
        UsageError: there are fewer than two.
        RunError: a run cannot be used.
    """
    if len(runs) < 2:
        raise UsageError("compare", "needs at least two runs", "daybreak compare RUN RUN")
    evaluations = tuple(evaluate(run, tta="none") for run in runs)
    same = [number for number in range(1, len(runs)) if _same_images(evaluations[0], evaluations[number])]
    return Comparison(
        tuple(runs),
        _labels(runs),
        evaluations,
        tuple(differences([run.config for run in runs])),
        tuple(_pair(evaluations[0], evaluations[number], number) for number in same),
    )


def mcnemar(first_N: np.ndarray, second_N: np.ndarray) -> McNemar:
    """McNemar's exact test on two boolean arrays (N,), true where the classifier is correct (McNemar 1947)."""
    from scipy.stats import binomtest  # a third of a second that only comparisons need

    a, b = int((first_N & ~second_N).sum()), int((second_N & ~first_N).sum())
    return McNemar(a, b, float(binomtest(a, a + b).pvalue) if a + b else 1.0)


def differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[str, ...]]]:
    """The dotted keys whose values are not the same in all configurations, each with its values as text."""
    flat = [{key: str(value) for key, value in flatten(config).items()} for config in configs]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    rows = [(key, tuple(values.get(key, MISSING) for values in flat)) for key in keys if not key.startswith("command")]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _pair(first: Evaluation, other: Evaluation, number: int) -> Pair:
    a_N, b_N = (metrics.correct(e.logits_NK, e.labels_N) for e in (first, other))
    only = (tuple(np.flatnonzero(chosen).tolist()) for chosen in (a_N & ~b_N, b_N & ~a_N))
    return Pair(number, mcnemar(a_N, b_N), *only)


def _same_images(a: Evaluation, b: Evaluation) -> bool:
    if a.classes != b.classes or len(a.labels_N) != len(b.labels_N):
        return False
    return bool(np.array_equal(a.labels_N, b.labels_N) and np.array_equal(a.predictions.names, b.predictions.names))


def _labels(runs: Sequence[RunDirectory]) -> tuple[str, ...]:
    """The directories' names, numbered where two are equal."""
    names = [one_line(run.path.resolve().name) for run in runs]
    return tuple(f"{name} ({n})" if names.count(name) > 1 else name for n, name in enumerate(names, 1))
