"""What progress means: a share of a fixed number of steps, or of a span of time.

The schedules are functions of progress in [0, 1]; a horizon says where a run stands and when it ends.
"""

from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Protocol

from daybreak.training.loader import Batches

FAR, GAP_SECONDS = 10.0, 5.0  # times the usual step, and seconds: what no slow step is
RECENT, STEPS_TO_KNOW = 20, 3


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
    lid) a step seems far longer than those before it: the excess is left off, or the cycle would jump to its end.

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
        self._recent: deque[float] = deque(maxlen=RECENT)  # seconds of steps

    def progress(self, step: int) -> float:  # noqa: ARG002 (time knows nothing of steps)
        return min(1.0, self._elapsed() / self.budget)

    def is_done(self, step: int) -> bool:
        now = self._elapsed()
        if step != self._step:
            gap = self._gap(now - self._since)
            if gap:
                self._leave_off(gap)
                now -= gap
            self._recent.append(now - self._since)
            self._step, self._since = step, now
        last_step = self._recent[-1] if self._recent else 0.0
        return now + last_step / 2 >= self.budget

    def work(self, step: int) -> float:
        return self.progress(step)

    def _gap(self, took: float) -> float:
        """By how many seconds a step was longer than those before it, if that was far; else 0."""
        if len(self._recent) < STEPS_TO_KNOW:
            return 0.0
        usual = median(self._recent)
        return took - usual if took > FAR * usual and took > GAP_SECONDS else 0.0


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
