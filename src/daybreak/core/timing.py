"""How long calls take: many timings of each, in turns, so that a machine whose speed drifts treats all alike."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BATCHES = (1, 64)  # images a call that latencies are told for
FEWEST = 5  # timings of each call, however long they take
REST_SECONDS = 0.05  # before a turn: threads of the library that had the last one wait awake for more work, for a while


@dataclass(frozen=True)
class Effort:
    """How many timings of a call are enough.

    Attributes:
        timings: at least so many, and
        seconds: for at least so long;
        longest: but no more after so many seconds, if there are FEWEST.
        turn: seconds of one turn; it has at least one timing.
    """

    timings: int
    seconds: float
    longest: float
    turn: float

    def is_enough(self, seconds: Sequence[float]) -> bool:
        spent = sum(seconds)
        wanted = len(seconds) >= self.timings and spent >= self.seconds
        return len(seconds) >= FEWEST and (wanted or spent >= self.longest)


def time_in_turns(
    calls: Mapping[str, Callable[[], object]], effort: Effort, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every timing of each call. A call returns when its work is done, on whatever device that is.

    Turns go round (A B C A B C …); the first round is not counted, and a turn begins with a call that is not, which
    brings back to the caches what the others displaced. What has enough timings is left out of later rounds.

    Args:
        clock: seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        _turn(call, effort.turn, clock)
    while waiting := [name for name in calls if not effort.is_enough(seconds[name])]:
        for name in waiting:
            if len(calls) > 1:
                time.sleep(REST_SECONDS)
            seconds[name] += _turn(calls[name], effort.turn, clock)
    return seconds


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """The median and the 95th and 99th percentile in milliseconds, linear between timings (numpy's default)."""
    p50, p95, p99 = np.percentile(1e3 * np.asarray(seconds), (50, 95, 99)).tolist()
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def _turn(call: Callable[[], object], limit: float, clock: Callable[[], float]) -> list[float]:
    """Seconds of each call until they add up to the limit."""
    call()
    seconds = list[float]()
    while not seconds or sum(seconds) < limit:
        begun = clock()
        call()
        seconds.append(clock() - begun)
    return seconds
