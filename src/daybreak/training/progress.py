"""What progress means: a share of a fixed number of steps, or of a span of time.

The schedules are functions of progress in [0, 1]; a horizon says where a run stands and when it ends.
"""

from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Protocol

from daybreak.core.clock import Stopwatch
from daybreak.core.config import Recipe
from daybreak.core.device import synchronizer
from daybreak.training.loader import Batches
from daybreak.training.team import Team

FAR, GAP_SECONDS = 10.0, 5.0  # times the usual step, and seconds: what no slow step is
RECENT, STEPS_TO_KNOW = 20, 3
LEAST_FOR_STEPS = 0.05  # of a budget; where features alone took it, the run takes longer


class Horizon(Protocol):
    """`epochs` and `steps` are None where they are not known beforehand."""

    epochs: int | None
    steps: int | None

    def progress(self, step: int) -> float: ...

    def is_done(self, step: int) -> bool: ...

    def work(self, step: int) -> float:
        """The share of the run's time that has passed, as far as it can be predicted."""
        ...


class StepHorizon:
    """One cycle over the recipe's epochs: the same steps on every machine, in whatever time they take."""

    def __init__(self, loader: Batches) -> None:
        self._loader = loader
        self.epochs: int | None = loader.epochs
        self.steps: int | None = loader.steps

    def progress(self, step: int) -> float:
        return step / self._loader.steps

    def is_done(self, step: int) -> bool:
        return step >= self._loader.steps

    def work(self, step: int) -> float:
        return self._loader.work_done(step)


class TimeHorizon:
    """One cycle over wall-clock time: progress is elapsed training time over the budget.

    A machine that slows down takes fewer steps and still closes its cycle. The run ends where one more step would
    end further from the budget than stopping does. Where the process stood still (stopped, a frozen container, a closed
    lid) one step seems far longer than those before it: the excess is left off, or the cycle would jump to its end.
    Two in succession are a machine that has slowed down, and count.

    Args:
        budget: seconds of training.
        elapsed: seconds of training so far.
        leave_off: takes seconds out of them.
    """

    epochs: int | None = None
    steps: int | None = None

    def __init__(
        self, budget: float, elapsed: Callable[[], float], leave_off: Callable[[float], None] = lambda seconds: None
    ) -> None:
        self.budget, self._elapsed, self._leave_off = budget, elapsed, leave_off
        self._step, self._since = 0, elapsed()
        self._recent: deque[float] = deque(maxlen=RECENT)  # seconds of steps, with what was left off
        self._last_step = self._gap = 0.0

    def progress(self, step: int) -> float:  # noqa: ARG002 (time knows nothing of steps)
        return min(1.0, self._now() / self.budget)

    def is_done(self, step: int) -> bool:
        now = self._now()
        if step != self._step:
            self._last_step = now - self._since
            self._recent.append(self._last_step + self._gap)
            self._step, self._since, self._gap = step, now, 0.0
        return now + self._last_step / 2 >= self.budget

    def work(self, step: int) -> float:
        return self.progress(step)

    def _now(self) -> float:
        """Seconds of training so far. Where the step under way has become far longer than those before it, its excess
        is left off at once, so that no schedule sees it."""
        now = self._elapsed()
        if len(self._recent) < STEPS_TO_KNOW:
            return now
        took, usual = now - self._since, median(self._recent)
        far = max(FAR * usual, GAP_SECONDS)
        if took <= far or self._recent[-1] > far:
            return now
        self._leave_off(took - usual)
        self._gap += took - usual
        return self._since + usual


class BoundedHorizon:
    """One cycle over steps that are expected to fit a budget, and no longer than the budget: whichever is further
    decides."""

    def __init__(self, steps: StepHorizon, time: TimeHorizon) -> None:
        self._steps, self._time = steps, time
        self.epochs, self.steps = steps.epochs, steps.steps

    def progress(self, step: int) -> float:
        return max(self._steps.progress(step), self._time.progress(step))

    def is_done(self, step: int) -> bool:
        is_over = self._time.is_done(step)  # asked at every step, as it notes how long they take
        return is_over or self._steps.is_done(step)

    def work(self, step: int) -> float:
        return self.progress(step)


def horizon_of(
    recipe: Recipe, loader: Batches, budget: float | None, for_features: float, clock: Stopwatch, team: Team
) -> Horizon:
    """The cycle over the recipe's epochs, or over what features have left of a budget. What is left off its clock is
    counted as paused. A step is over when the device says so: the host would queue seconds of steps ahead, and then
    find one very long."""
    steps = StepHorizon(loader)
    if not budget or recipe.is_head_only:
        return steps
    left = max(budget - for_features, LEAST_FOR_STEPS * budget)
    wait = synchronizer(loader.labels_N.device)

    def elapsed() -> float:
        wait()
        return clock.seconds("train") - clock.seconds("features")

    def leave_off(gap: float) -> None:
        clock.move(gap, "train", "paused")
        team.turn_back(gap)

    time = TimeHorizon(left, team.clock(elapsed), leave_off)
    return time if recipe.stretch else BoundedHorizon(steps, time)
