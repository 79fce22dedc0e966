"""The learning-rate range test (Smith 2017, section 3.3): the rate climbs from far too low to far too high in one short
run. Where the loss falls fastest a rate learns; where it rises again it has become too high.

What a curve suggests is computed on a smoothed loss and its slope over the logarithm of the rate. Smoothing is centred,
so it shifts nothing towards higher rates, as a running mean would.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d

from daybreak import state
from daybreak.config import Adam, Muon, Recipe, Sgd, override
from daybreak.data.dataset import Dataset
from daybreak.device import kept_memory, pick_device
from daybreak.errors import BadStepError, UsageError
from daybreak.loop import train_step
from daybreak.session import Session, prepare

STEPS = 100
SMOOTHING = 3.0  # deviation of the centred Gaussian, in steps
DIVERGED = 4.0  # times the lowest loss so far: the test ends
LEAST_FALL, LEAST_SIGNAL = 0.05, 3.0  # of the first loss; of the noise: below, there is no clear answer
MOST_SPREAD = 30.0  # factor between the lowest and the highest rate that seeds suggest
RANGES = {Adam: (1e-6, 1.0), Sgd: (1e-5, 10.0), Muon: (1e-4, 10.0)}
GIVEN_BACK = 0.05  # of the fall of the loss
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
        if self.lowest == 0 and loss_S.max() > (1 + LEAST_FALL) * loss_S[0]:
            return "the loss rises from the lowest rate on: test lower ones"
        if fall < LEAST_FALL * loss_S[0]:
            return "the loss hardly falls at any rate"
        if fall < LEAST_SIGNAL * noise:
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
    """The highest rate before the loss has given back a twentieth of its fall: beyond, it diverges (Smith 2017, section
    3.3: the greatest rate is where the curve begins to rise)."""
    loss_S, low = test.loss_S, test.lowest
    limit = loss_S[low] + GIVEN_BACK * (loss_S[0] - loss_S[low])
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
class FoundRate:
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
        if self.spread[self.rule] > MOST_SPREAD:
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


def find_rate(
    recipe: Recipe,
    dataset: Dataset,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = STEPS,
    lowest: float | None = None,
    highest: float | None = None,
    device: str = "auto",
) -> FoundRate:
    """Range tests of a recipe on a data set, with nets of their own; nothing is left behind.

    Args:
        seeds: one test each.
        steps: of a test, at most.
        lowest, highest: rates of the first parameter group; the others climb in proportion. By default four to six
            powers of ten, after the kind of optimizer.

    Raises:
        UsageError: the range is empty, or there are too few steps to smooth.
    """
    low, high = RANGES[type(recipe.optimizer)]
    low, high = low if lowest is None else lowest, high if highest is None else highest
    if not 0 < low < high:
        raise UsageError(f"rates {low:g} to {high:g}", "no range", "a lowest rate above zero and below the highest")
    if steps < 10:
        raise UsageError(f"--steps {steps}", "too few to smooth", "10 or more; 100 is usual")
    where = pick_device(device)  # type: ignore[arg-type]
    with kept_memory():
        tests = [range_test(prepare(recipe, dataset, seed, where), low, high, steps) for seed in seeds]
    return FoundRate(recipe.name, dataset.title, tuple(tests))


def with_rate(recipe: Recipe, rate: float) -> Recipe:
    """The recipe with another peak; its cycle keeps its shape."""
    cycle = recipe.schedule
    corners = {name: getattr(cycle, name) / cycle.max_lr for name in ("max_lr", "initial_lr", "final_lr")}
    return override(recipe, {f"schedule.{name}": rate * share for name, share in corners.items()})


def range_test(session: Session, low: float, high: float, steps: int) -> RangeTest:
    """One test with a session's own net, at the image size with which its cycle begins and the momentum with which it
    passes its peak: a rate that holds there need not hold with the higher momentum of the beginning.

    Weights, buffers, moving average, optimizer, rates, random state and step are afterwards what they were before.
    """
    rates = np.geomspace(low, high, steps)
    losses: list[float] = []
    with _as_it_was(session):
        for step, rate in enumerate(rates):
            session.optimizer.set_rate(float(rate))
            try:
                loss = train_step(session, *session.loader.batch(session.step + step, 0.0)).item()
            except BadStepError:
                break
            if not np.isfinite(loss) or loss > DIVERGED * min([loss, *losses]):
                break
            losses.append(loss)
    if len(losses) < 10:
        raise UsageError(f"rates {low:g} to {high:g}", "the loss diverges at the first of them", "a lower range")
    return RangeTest(rates[: len(losses)], np.array(losses), diverged=len(losses) < steps)


@contextmanager
def _as_it_was(session: Session) -> Iterator[None]:
    """Whatever the block does to the session is undone."""
    saved = state.capture(session, 0, None)
    groups = [group for optimizer in session.optimizer.optimizers for group in optimizer.param_groups]
    before = [dict(group) for group in groups]
    try:
        yield
    finally:
        state.restore(session, saved)
        session.optimizer.zero_grad()
        for group, values in zip(groups, before, strict=True):
            group.update(values)
