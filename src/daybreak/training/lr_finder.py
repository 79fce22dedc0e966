"""The learning-rate range test (Smith 2017, section 3.3): the rate climbs from far too low to far too high in one short
run. Where the loss falls fastest a rate learns; where it rises again it has become too high.

What a curve suggests is computed on a smoothed loss and its slope over the logarithm of the rate. Smoothing is centred,
so it shifts nothing towards higher rates, as a running mean would.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from daybreak.core.config import Adam, Muon, Recipe, Sgd, override
from daybreak.core.device import kept_memory, pick_device
from daybreak.core.errors import BadStepError, UsageError
from daybreak.core.events import OnEvent
from daybreak.core.lr_curve import LrFindResult, RangeTest
from daybreak.core.process_state import left_as_found, plain_torch
from daybreak.data.dataset import Dataset
from daybreak.training import state
from daybreak.training.extensions import Extensions
from daybreak.training.optim import set_rate
from daybreak.training.session import Session, prepare
from daybreak.training.step import train_step

STEPS = 100
DIVERGED = 4.0  # times the lowest loss so far: the test ends
TIMED = 3  # steps from which the length of all is estimated, after one that is slower than the rest
RANGES = {Adam: (1e-6, 1.0), Sgd: (1e-5, 10.0), Muon: (1e-4, 10.0)}


def lr_find(
    recipe: Recipe,
    dataset: Dataset,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = STEPS,
    lowest: float | None = None,
    highest: float | None = None,
    device: str = "auto",
    memory: int | None = None,
    extensions: Extensions = Extensions(),
    on_event: OnEvent = lambda event: None,
) -> LrFindResult:
    """Range tests of a recipe on a data set, with nets of their own; nothing is left behind.

    Args:
        seeds: one test each.
        steps: of a test, at most.
        on_event: called after every step with `{"event": "range", "test", "tests", "steps", "work"}` and, once a few
            steps have been timed, `"seconds"`: how long all tests take at most.
        memory: bytes that the training images may take, see `training.images`.
        lowest, highest: rates of the first parameter group; the others climb in proportion. By default four to six
            powers of ten, after the kind of optimizer.

    Raises:
        UsageError: the range is empty, there are too few steps to smooth, or the loss diverges within ten steps.
    """
    low, high = RANGES[type(recipe.optimizer)]
    low, high = low if lowest is None else lowest, high if highest is None else highest
    if not 0 < low < high:
        raise UsageError(f"rates {low:g} to {high:g}", "no range", "a lowest rate above zero and below the highest")
    if steps < 10:
        raise UsageError(f"--steps {steps}", "too few to smooth", "10 or more; 100 is usual")
    where = pick_device(device)  # type: ignore[arg-type]
    with left_as_found(), plain_torch(), kept_memory():
        tests = [
            range_test(
                prepare(recipe, dataset, seed, where, extensions=extensions, memory=memory), low, high, steps,
                _told(on_event, number, len(seeds), steps),
            )
            for number, seed in enumerate(seeds, 1)
        ]  # fmt: skip
    return LrFindResult(recipe.name, dataset.title, tuple(tests))


def _told(on_event: OnEvent, test: int, tests: int, steps: int) -> Callable[[int], None]:
    """What to call after each step of a test, for a display."""
    begun = time.perf_counter()

    def after(done: int) -> None:
        nonlocal begun
        told = {"event": "range", "test": test, "tests": tests, "steps": steps}
        told |= {"work": (test - 1 + done / steps) / tests}
        if test == 1 and done == 1:
            begun = time.perf_counter()
        if test == 1 and done == 1 + TIMED:
            told |= {"seconds": (time.perf_counter() - begun) / TIMED * steps * tests}
        on_event(told)

    return after


def with_rate(recipe: Recipe, rate: float) -> Recipe:
    """The recipe with another peak; its cycle keeps its shape."""
    cycle = recipe.schedule
    corners = {name: getattr(cycle, name) / cycle.max_lr for name in ("max_lr", "initial_lr", "final_lr")}
    return override(recipe, {f"schedule.{name}": rate * share for name, share in corners.items()})


def range_test(
    session: Session, low: float, high: float, steps: int, after_step: Callable[[int], None] = lambda done: None
) -> RangeTest:
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
                loss = train_step(session, *session.batch(0.0, session.step + step)).item()
            except BadStepError:
                break
            if not np.isfinite(loss) or loss > DIVERGED * min([loss, *losses]):
                break
            losses.append(loss)
            after_step(len(losses))
    if len(losses) < 10:
        raise UsageError(f"rates {low:g} to {high:g}", "the loss diverges within ten steps", "a lower range")
    return RangeTest(rates[: len(losses)], np.array(losses), diverged=len(losses) < steps)


@contextmanager
def _as_it_was(session: Session) -> Iterator[None]:
    """Whatever the block does to the session is undone."""
    saved = state.capture(session)
    groups = [group for optimizer in session.optimizer.optimizers for group in optimizer.param_groups]
    before = [dict(group) for group in groups]
    try:
        yield
    finally:
        state.restore(session, saved)
        session.optimizer.zero_grad()
        for group, values in zip(groups, before, strict=True):
            group.update(values)
            set_rate(group, values["rate"])  # where it is a tensor, `values` has the very same
