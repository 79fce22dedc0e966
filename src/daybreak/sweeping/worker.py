"""A worker: takes trials from the queue until all have results. Any number of them, anywhere, work on one study."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from daybreak.core.errors import DaybreakError, StoppedError
from daybreak.core.events import OnEvent
from daybreak.core.signals import noted_signal
from daybreak.sweeping.alive import Heartbeat
from daybreak.sweeping.queue import Place, Queue, is_done
from daybreak.sweeping.setting import Setting
from daybreak.sweeping.storage import open_storage, open_study, storage_calls
from daybreak.sweeping.trial import FACTS, make_pruner, run_trial

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

POLL_SECONDS = 0.5  # while other workers run the last trials
GO_ON = "the trial went back to the queue; the same command goes on"


def open_queue(setting: Setting, storage: str) -> Queue:
    """The queue of a sweep in a storage, with all its places.

    Raises:
        StorageError: the storage cannot be reached.
    """
    opened = open_storage(storage)
    with storage_calls(storage):
        study = open_study(opened, setting.study)
        study.pruner = make_pruner(setting.base.epochs if setting.asked.budget is None else None)
        points = setting.space.grid() if setting.asked.sampler == "grid" else []
        queue = Queue(study, opened, setting.size, points)
        queue.refill()
    return queue


def work(setting: Setting, queue: Queue, storage: str, on_event: OnEvent = lambda event: None) -> None:
    """Run trials until there is a result for each, whoever has run it.

    Raises:
        StoppedError: a signal came; the trial in hand is queued again.
        StorageError: the storage cannot be reached.
    """
    tell = Teller(queue, on_event)
    with storage_calls(storage), _quiet():
        while not is_done(places := queue.refill()):
            tell(places)
            if not _work_once(setting, queue, on_event):
                time.sleep(POLL_SECONDS)
        tell(places)


class Teller:
    """Tells of results as they come, from whichever worker."""

    def __init__(self, queue: Queue, on_event: OnEvent) -> None:
        self._told = {place.number for place in queue.places() if place.is_done}
        self._size, self._on_event = queue.size, on_event

    def __call__(self, places: list[Place]) -> None:
        """Take the places as they are now."""
        for place in places:
            if place.is_done and place.number not in self._told and place.last is not None:
                self._told.add(place.number)
                event: dict[str, Any] = {
                    "event": "trial",
                    "trial": place.number,
                    "state": place.last.state.name.lower(),
                }
                event |= {"val_acc": place.last.value, "why": place.reason, "settings": place.last.params}
                self._on_event(event | {"done": len(self._told), "trials": self._size})


def _work_once(setting: Setting, queue: Queue, on_event: OnEvent) -> bool:
    """Run one trial; returns whether there was any to run."""
    trial = queue.take(make_sampler(setting))
    if trial is None:
        return False
    with _given_back_unless_finished(queue, trial.number) as finished:
        with Heartbeat(trial) as heartbeat:
            outcome = run_trial(setting, trial, heartbeat, on_event)
        if outcome.stopped:
            raise StoppedError(outcome.stopped, GO_ON)
        if not outcome.lost:
            facts = {FACTS: outcome.facts}
            queue.finish(trial.number, outcome.value, pruned=outcome.pruned, reason=outcome.reason, attrs=facts)
        finished()
    return True


@contextmanager
def _given_back_unless_finished(queue: Queue, number: int) -> Iterator[Callable[[], None]]:
    """A trial goes back to the queue where a signal ends the block, or an error that is not its own, such as a full
    disk. So it does after an error of ours, but that counts as a death: what makes every worker fail is not to be run
    for ever."""
    done: list[bool] = []
    try:
        yield lambda: done.append(True)
    except BaseException as error:
        is_innocent = isinstance(error, DaybreakError | StoppedError | KeyboardInterrupt | SystemExit)
        if is_innocent or noted_signal() is not None:
            queue.give_back(number)
        elif not done:
            queue.lose(number)
        raise


def make_sampler(setting: Setting) -> "Callable[[int], BaseSampler]":
    """The sampler of a place. Its random numbers depend on the sweep's seed and the place alone, so that no two workers
    draw the same, and one worker alone draws the same again."""
    from optuna import samplers

    kinds: dict[str, Callable[[int], BaseSampler]] = {
        "tpe": lambda seed: samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
        "cmaes": lambda seed: samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
        "random": lambda seed: samplers.RandomSampler(seed=seed),
        "grid": lambda seed: samplers.RandomSampler(seed=seed),  # every place has its values already
    }
    make = kinds[setting.asked.sampler]
    return lambda place: make(int(np.random.SeedSequence([setting.asked.seed, place]).generate_state(1)[0]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's warnings about what is experimental."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
