"""What progress means: a share of a fixed number of steps, or of a span of time.

The schedules are functions of progress in [0, 1]; a horizon says where a run stands and when it ends.
"""

from collections.abc import Callable
from typing import Protocol

from daybreak.training.loader import Loader


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

    def __init__(self, loader: Loader) -> None:
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
    end further from the budget than stopping does.

    Args:
        budget: seconds of training.
        elapsed: seconds of training so far.
    """

    epochs: int | None = None
    steps: int | None = None

    def __init__(self, budget: float, elapsed: Callable[[], float]) -> None:
        self.budget, self._elapsed = budget, elapsed
        self._step, self._since, self._last_step = 0, elapsed(), 0.0

    def progress(self, step: int) -> float:  # noqa: ARG002 (time knows nothing of steps)
        return min(1.0, self._elapsed() / self.budget)

    def is_done(self, step: int) -> bool:
        now = self._elapsed()
        if step != self._step:
            self._last_step, self._step, self._since = now - self._since, step, now
        return now + self._last_step / 2 >= self.budget

    def work(self, step: int) -> float:
        return self.progress(step)
