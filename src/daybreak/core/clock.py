"""What is timed and what is not: the DAWNBench clock.

`train` starts before the first byte of training data is touched by the recipe (resizing, whitening,
normalisation and augmentation are inside) and stops for evaluation. Download, decoding, one-off compilation and
evaluation run on clocks of their own. All clocks are monotonic: setting the machine's time does not change a duration.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from types import MappingProxyType

from daybreak.core.errors import UsageError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_seconds(text: str, option: str) -> float:
    """Seconds in a duration such as `300`, `90s`, `5m`, `1.5h` or `1h30m`.

    Raises:
        UsageError: it is none; it names the option that it was given for.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f"{option} {text}", "not a duration", "a duration such as 90s, 5m or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def check_budget(seconds: float) -> None:
    """
    Raises:
        UsageError: it is not a duration to train for.
    """
    if not 0 < seconds < inf:
        raise UsageError(f"--budget {seconds}", "not a duration", "a duration such as 90s, 5m or 1h")


def in_words(seconds: float) -> str:
    """A duration as a person says it, to two figures at least: 8 s, 3 min 20 s, 2 h 5 min."""
    whole = max(1, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, left = divmod(minutes, 60)
    parts = [(hours, "h"), (left, "min")] if hours else [(minutes, "min"), (rest, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


class Stopwatch:
    """Seconds spent in named phases; a phase can be entered many times.

    Args:
        synchronize: waits for the device, so that queued work counts in the phase that queued it.
        spent: seconds of each phase of an earlier part of the run, `wall` among them, to go on from.
    """

    def __init__(
        self, synchronize: Callable[[], None] = lambda: None, spent: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        self._synchronize = synchronize
        self._begun = time.perf_counter() - spent.get("wall", 0.0)
        self._seconds: dict[str, float] = {phase: s for phase, s in spent.items() if phase != "wall"}
        self._running: dict[str, float] = {}

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count the time of the block as `phase`."""
        self._synchronize()
        self._running[phase] = time.perf_counter()
        try:
            yield
        finally:
            self._synchronize()
            begun = self._running.pop(phase)
            self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - begun

    def move(self, seconds: float, phase: str, other: str) -> None:
        """Count seconds that were counted as one phase as another."""
        self._seconds[phase] = self._seconds.get(phase, 0.0) - seconds
        self._seconds[other] = self._seconds.get(other, 0.0) + seconds

    def spent(self) -> dict[str, float]:
        """Seconds of every phase so far, and of the wall clock: what a later part of the run goes on from."""
        return {phase: self.seconds(phase) for phase in {**self._seconds, **self._running}} | {"wall": self.wall()}

    def wall(self) -> float:
        """Seconds since the clock was made, whatever was timed."""
        return time.perf_counter() - self._begun

    def seconds(self, phase: str) -> float:
        """Seconds spent in `phase` so far, the block that is running included."""
        running = time.perf_counter() - self._running[phase] if phase in self._running else 0.0
        return self._seconds.get(phase, 0.0) + running


@dataclass(frozen=True)
class Every:
    """How often to save: after so many seconds of training, or steps."""

    seconds: float = inf
    steps: float = inf

    @classmethod
    def parse(cls, text: str) -> "Every":
        """`90s`, `1m`, `40 steps` or `never`.

        Raises:
            UsageError: it is none of them, or not above zero.
        """
        if text == "never":
            return cls()
        steps = re.fullmatch(r"(\d+) ?steps?", text)
        found = cls(steps=int(steps[1])) if steps else cls(seconds=parse_seconds(text, "--checkpoint-every"))
        if min(found.seconds, found.steps) <= 0:
            raise UsageError(f"--checkpoint-every {text}", "not above zero", "1m, 40steps or never")
        return found
