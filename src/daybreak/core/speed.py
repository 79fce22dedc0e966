"""How fast a device multiplies matrices and convolves: a rough figure within a second or so."""

import time
from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F

from daybreak.core.device import synchronizer

Work = tuple[Callable[[], object], float]  # and its floating-point operations
SIDES = (256, 512, 1024, 2048, 4096)  # of square matrices
BATCHES = (1, 4, 16, 64, 256, 1024)  # of images of 32 px with 64 channels, convolved 3 × 3 to 64
QUICK_SECONDS = 0.03  # only after a size that took less is the next one tried, so that no run takes long
PATIENCE_SECONDS = 0.15  # for the repetitions of one size
REPEATS = 10


def measure_speed(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Floating-point operations per second in this number format, in units of 10⁹: GFLOP/s.

    Returns:
        "matmul" and "conv", each at the best size. Rough: other processes and the clock rate of the moment are in it.
    """
    wait = synchronizer(device)
    with torch.inference_mode():
        return {
            "matmul": best_rate((_matmul(side, device, dtype) for side in SIDES), wait) / 1e9,
            "conv": best_rate((_conv(batch, device, dtype) for batch in BATCHES), wait) / 1e9,
        }


def best_rate(works: Iterable[Work], wait: Callable[[], None], clock: Callable[[], float] = time.perf_counter) -> float:
    """Operations per second of the best repetition of any work.

    Args:
        works: from small to large; the first that is not quick ends the series.
        wait: waits until the device has done all that was queued.
        clock: seconds.
    """
    best = 0.0
    for run, operations in works:
        seconds = _timed(run, wait, clock)
        best = max(best, operations / min(seconds))
        if min(seconds) >= QUICK_SECONDS:
            break
    return best


def _timed(run: Callable[[], object], wait: Callable[[], None], clock: Callable[[], float]) -> list[float]:
    """Seconds of each repetition, after a first one in which a library may still choose or compile its kernel."""
    run()
    wait()
    moments = [clock()]
    while len(moments) <= REPEATS and moments[-1] - moments[0] < PATIENCE_SECONDS:
        run()
        wait()
        moments.append(clock())
    return [max(end - start, 1e-9) for start, end in pairwise(moments)]


def _matmul(side: int, device: torch.device, dtype: torch.dtype) -> Work:
    a_NN, b_NN = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    return lambda: a_NN @ b_NN, 2.0 * side**3


def _conv(batch: int, device: torch.device, dtype: torch.dtype) -> Work:
    images_BCHW = torch.ones(batch, 64, 32, 32, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.ones(64, 64, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    return lambda: F.conv2d(images_BCHW, kernel, padding=1), 2.0 * batch * 32 * 32 * 64 * 64 * 9
