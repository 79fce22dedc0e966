"""Schedules as pure functions of progress in [0, 1].

One cycle (Smith 2018, "A disciplined approach to neural network hyper-parameters"): the rate climbs to its peak
and comes down again, the momentum does the opposite. At step k of n the trainer asks for progress k / n, so a
peak at `warmup` = 5/24 is reached at the first step of the sixth epoch. torch's OneCycleLR counts k / (n - 1) and
ends its warm-up one step early; a test holds the two equal under that change of variable.
"""

import itertools
import math
from collections.abc import Sequence

from daybreak.core.config import OneCycle, Stage


def learning_rate(cycle: OneCycle, progress: float) -> float:
    """The learning rate at this progress."""
    return _along(_corners(cycle, cycle.initial_lr, cycle.max_lr, cycle.final_lr), progress, cycle.shape)


def momentum(cycle: OneCycle, progress: float) -> float | None:
    """The momentum at this progress, or None where the cycle leaves it alone."""
    if cycle.momentum is None:
        return None
    low, high = cycle.momentum
    return _along(_corners(cycle, high, low, high), progress, cycle.shape)


def scale_at(stages: Sequence[Stage], progress: float) -> float:
    """The fraction of the image size to train at: a stage holds while progress is below its `until`."""
    return next((stage.scale for stage in stages if progress < stage.until), stages[-1].scale)


def _corners(cycle: OneCycle, start: float, peak: float, end: float) -> list[tuple[float, float]]:
    corners = [(0.0, start), (cycle.warmup, peak)]
    if cycle.hold:
        corners.append((cycle.warmup + cycle.hold, peak))
    if cycle.phases == 3:
        corners.append((2 * cycle.warmup, start))
    return [*corners, (1.0, end)]


def _along(corners: list[tuple[float, float]], progress: float, shape: str) -> float:
    """The value at `progress` on the path through (progress, value) corners."""
    progress = min(max(progress, 0.0), 1.0)
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        if progress < x1:
            return _between(y0, y1, (progress - x0) / (x1 - x0), shape)
    return corners[-1][1]


def _between(start: float, end: float, fraction: float, shape: str) -> float:
    if shape == "cosine":
        return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2
    if shape == "steps" and end < start:
        return start * (1.0 if fraction < 0.5 else 0.1 if fraction < 0.75 else 0.01)
    return start + (end - start) * fraction
