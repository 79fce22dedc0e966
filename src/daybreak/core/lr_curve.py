"""What the curve of a learning-rate range test says."""

from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d

SMOOTHING = 3.0  # deviation of the centred Gaussian, in steps


MIN_FALL, MIN_SIGNAL = 0.05, 3.0  # of the first loss; of the noise: below, there is no clear answer


MAX_SPREAD = 30.0  # factor between the lowest and the highest rate that seeds suggest


RISE = 0.05  # of the total drop of the loss


PICK = "edge"  # the rule that one cycle's peak follows


CYCLE = 10.0  # Smith 2018, section 4.1: a cycle begins at a third to a tenth of its peak


Curve = np.ndarray


@dataclass(frozen=True)
class RangeTest:
    """One climb of the rate.

    Attributes:
        lr_S, raw_S: rate and loss of each step that was finite.
        loss_S: the smoothed loss.
        diverged: the loss ended the test before the highest rate.
    """

    lr_S: Curve
    raw_S: Curve
    diverged: bool

    @property
    def loss_S(self) -> Curve:  # noqa: N802 - shape suffix
        return np.asarray(gaussian_filter1d(self.raw_S, SMOOTHING, mode="nearest"))

    @property
    def suggestions(self) -> dict[str, float]:
        """Rates by five rules, see `steepest`, `valley`, `minimum_10`, `slide` and `edge`."""
        return {name: float(self.lr_S[rule(self)]) / factor for name, (rule, factor) in RULES.items()}

    @property
    def doubt(self) -> str | None:
        """Why there is no clear answer, or None where there is one."""
        loss_S = self.loss_S
        fall, noise = loss_S[0] - loss_S.min(), float(np.std(self.raw_S[: self.lowest + 1] - loss_S[: self.lowest + 1]))
        if self.lowest == 0 and loss_S.max() > (1 + MIN_FALL) * loss_S[0]:
            return "the loss rises from the lowest rate on: test lower ones"
        if fall < MIN_FALL * loss_S[0]:
            return "the loss hardly falls at any rate"
        if fall < MIN_SIGNAL * noise:
            return "the loss is too noisy: take more steps or a larger batch"
        if not self.diverged and self.lowest >= len(loss_S) - 2:
            return "the loss still falls at the highest rate: test higher ones"
        if not self.diverged and edge(self) == len(loss_S) - 1:
            return "the loss does not rise up to the highest rate: test higher ones"
        return None

    @property
    def lowest(self) -> int:
        """The step of the lowest smoothed loss."""
        return int(self.loss_S.argmin())

    @property
    def slope_S(self) -> Curve:  # noqa: N802
        """Of the smoothed loss over ln(rate)."""
        return np.asarray(np.gradient(self.loss_S, np.log(self.lr_S)))


def steepest(test: RangeTest) -> int:
    """Where the loss falls fastest."""
    return int(test.slope_S[: test.lowest + 1].argmin())


def valley(test: RangeTest) -> int:
    """The middle of the longest way down: of the longest falling subsequence of the smoothed loss."""
    loss_S = test.loss_S
    length, before = [1] * len(loss_S), [-1] * len(loss_S)
    for i in range(len(loss_S)):
        for j in range(i):
            if loss_S[j] > loss_S[i] and length[j] >= length[i]:
                length[i], before[i] = length[j] + 1, j
    at = int(np.argmax(length))
    for _ in range(max(length) // 2):
        at = before[at]
    return at


def minimum_10(test: RangeTest) -> int:
    """The lowest loss; a tenth of its rate is suggested, since at the lowest point it has begun to be too high."""
    return test.lowest


def slide(test: RangeTest) -> int:
    """From the highest rate downwards, the first at which the loss still falls: by a tenth of its steepest fall."""
    slope_S = test.slope_S[: test.lowest + 1]
    falling = np.flatnonzero(slope_S <= min(0.1 * slope_S.min(), 0.0))
    return int(falling[-1]) if len(falling) else 0


def edge(test: RangeTest) -> int:
    """The highest rate before the loss rises by 5 % of its total drop: beyond, it diverges (Smith 2017, section 3.3:
    the highest usable rate is where the curve begins to rise)."""
    loss_S, low = test.loss_S, test.lowest
    limit = loss_S[low] + RISE * (loss_S[0] - loss_S[low])
    beyond = np.flatnonzero(loss_S[low:] > limit)
    return low + int(beyond[0]) - 1 if len(beyond) else len(loss_S) - 1


RULES = {
    "steepest": (steepest, 1),
    "valley": (valley, 1),
    "minimum_10": (minimum_10, 10),
    "slide": (slide, 1),
    "edge": (edge, 1),
}


@dataclass(frozen=True)
class LrFindResult:
    """What range tests over several seeds say together.

    Attributes:
        suggestions: the geometric mean of each rule over the seeds.
        rule: whose suggestion the peak is.
        doubt: why there is no clear answer, or None.
    """

    recipe: str
    dataset: str
    tests: tuple[RangeTest, ...]
    rule: str = PICK

    @property
    def suggestions(self) -> dict[str, float]:
        found = [test.suggestions for test in self.tests]
        return {rule: geometric_mean(one[rule] for one in found) for rule in found[0]}

    @property
    def spread(self) -> dict[str, float]:
        """The highest over the lowest rate that the seeds suggest, by rule."""
        found = [test.suggestions for test in self.tests]
        return {rule: max(one[rule] for one in found) / min(one[rule] for one in found) for rule in found[0]}

    @property
    def lr_max(self) -> float:
        """The peak for one cycle, by the rule that came closest to the best of a grid (docs/one-cycle.md)."""
        return self.suggestions[self.rule]

    @property
    def lr_min(self) -> float:
        """Where the cycle begins: a tenth of its peak."""
        return self.lr_max / CYCLE

    @property
    def doubt(self) -> str | None:
        doubts = [test.doubt for test in self.tests]
        if any(doubts):
            return next(doubt for doubt in doubts if doubt)
        if self.spread[self.rule] > MAX_SPREAD:
            return f"seeds suggest rates {self.spread[self.rule]:.0f} times apart"
        return None

    def as_json(self) -> dict[str, Any]:
        """What `lr-find --json` prints; the curve is that of the first seed."""
        first = self.tests[0]
        return {
            "recipe": self.recipe,
            "dataset": self.dataset,
            "seeds": len(self.tests),
            "lr": first.lr_S.tolist(),
            "loss": first.loss_S.tolist(),
            "raw": first.raw_S.tolist(),
            "diverged": first.diverged,
            "suggestions": self.suggestions,
            "spread": self.spread,
            "rule": self.rule,
            "lr_min": self.lr_min,
            "lr_max": self.lr_max,
            "clear": self.doubt is None,
            "reason": self.doubt,
        }
