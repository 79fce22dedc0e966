"""The processes that train one net together: each takes its rows of every batch, and all have the same net after every
step.

A batch is a pure function of seed and step, so that nobody hands out samples: a process computes which rows are its
own. Sums over the batch (gradients, the moments of batch norm, the loss) are added up over all; what a process finds by
itself (a signal, the time) is agreed on once a step, before anyone acts on it. The first process writes the run.

`Team` is a process that trains alone, for which all of this costs nothing; `Processes` are those of a launcher.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from daybreak.core.config import Device
from daybreak.core.device import pick_device
from daybreak.core.errors import LostProcessError, UsageError
from daybreak.core.launcher import Launch, launch
from daybreak.core.machine import usable_cores
from daybreak.core.signals import SIGNALS, StopRequest
from daybreak.training.meeting import meet

T = TypeVar("T")

# Longer than anything that one process does while the others wait, and than a cut in the network that mends itself.
TIMEOUT = timedelta(minutes=5)


class Team:
    """One process that trains alone."""

    rank, size = 0, 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run and speaks to the user."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """Which of so many samples are this process's."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def stop_request(self) -> StopRequest:
        """Signals, noted while entered; all processes see the same."""
        return StopRequest()

    def say(self, make: Callable[[], T]) -> T:
        """What the first process makes, plain JSON values, in all of them; the others do not make it."""
        return make()

    def total(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""

    def add_up(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:  # noqa: ARG002
        """Add up gradients in place; returns the sum of the losses. This is also where signals and time are agreed."""
        return loss

    def gathered(self, mine: np.ndarray, count: int) -> np.ndarray:  # noqa: ARG002
        """Float rows (`count`, …) of all samples, from those of each process's `rows`."""
        return mine

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the first one's values, in place."""

    def is_true_for_any(self, flag: bool) -> bool:
        return flag

    def longest(self, seconds: float) -> float:
        """The longest of all processes' times."""
        return seconds

    def clock(self, elapsed: Callable[[], float]) -> Callable[[], float]:
        """A clock that says the same in all processes between two steps: the time of the slowest."""
        return elapsed

    def turn_back(self, seconds: float) -> None:
        """Take seconds out of what that clock says, where it does not read the one they were taken out of."""


class Processes(Team):
    """Those that a launcher started, in this process's view."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._stop: _AgreedStop | None = None
        self._elapsed: Callable[[], float] | None = None
        self._agreed_seconds = 0.0

    def stop_request(self) -> StopRequest:
        self._stop = _AgreedStop(self)
        return self._stop

    def say(self, make: Callable[[], T]) -> T:
        content = json.dumps(make()).encode() if self.is_first else b""
        length = torch.tensor([len(content)])
        _checked(lambda: dist.broadcast(length, 0))
        message = torch.zeros(int(length), dtype=torch.uint8)
        if self.is_first:
            message.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        _checked(lambda: dist.broadcast(message, 0))
        found: T = json.loads(bytes(message.tolist()))
        return found

    def total(self, tensor: Tensor) -> None:
        _checked(lambda: dist.all_reduce(tensor))

    def add_up(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
        gradients = [p.grad for p in parameters if p.grad is not None]
        parts = [*(gradient.reshape(-1) for gradient in gradients), loss.reshape(1).to(gradients[0].dtype)]
        message = torch.cat(parts)
        self.total(message)
        *sums, whole_loss = message.split([part.numel() for part in parts])
        for gradient, summed in zip(gradients, sums, strict=True):
            gradient.copy_(summed.view(gradient.shape))
        self.agree()
        return whole_loss[0].to(loss.dtype)

    def agree(self) -> None:
        """On signals and time: one message a step, on the host, for which no accelerator is waited for."""
        message = torch.zeros(len(SIGNALS) + self.size, dtype=torch.float64)
        if self._stop and self._stop.noted is not None:
            message[[int(n) for n in SIGNALS].index(self._stop.noted)] = 1
        if self._elapsed:
            message[len(SIGNALS) + self.rank] = self._elapsed()
        self.total(message)
        if self._stop and (numbers := [n for n, seen in zip(SIGNALS, message.tolist(), strict=False) if seen]):
            self._stop.signal = int(numbers[0])
        self._agreed_seconds = float(message[len(SIGNALS) :].max())

    def gathered(self, mine: np.ndarray, count: int) -> np.ndarray:
        whole = torch.zeros(count, *mine.shape[1:])
        whole[self.rows(count)] = torch.from_numpy(mine)
        self.total(whole)  # of numbers and zeros: exact
        return whole.numpy()

    def align(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            _checked(partial(dist.broadcast, tensor.detach(), 0))

    def is_true_for_any(self, flag: bool) -> bool:
        found = torch.tensor([int(flag)])
        self.total(found)
        return bool(found)

    def longest(self, seconds: float) -> float:
        found = torch.tensor([seconds], dtype=torch.float64)
        _checked(lambda: dist.all_reduce(found, dist.ReduceOp.MAX))
        return float(found)

    def clock(self, elapsed: Callable[[], float]) -> Callable[[], float]:
        self._elapsed = elapsed
        self._agreed_seconds = self.longest(elapsed())
        return lambda: self._agreed_seconds

    def turn_back(self, seconds: float) -> None:
        self._agreed_seconds -= seconds


class _AgreedStop(StopRequest):
    """A signal that one process got stops all of them after the same step, or none.

    Attributes:
        noted: the signal that came to this process; `signal` is the one that all have agreed on.
    """

    def __init__(self, team: Processes) -> None:
        super().__init__()
        self._team, self.noted = team, None

    noted: int | None

    def unless_stopped(self, work: Callable[[], T]) -> T | None:
        """What the work returns, which every process does to its end; None if a signal has come meanwhile."""
        result = work()
        self._team.agree()
        return None if self.signal is not None else result

    def _note(self, number: int, _frame: Any) -> None:
        if self.noted is not None:
            super()._note(number, _frame)
        self.noted = number


@contextmanager
def joined(device_name: Device) -> Iterator[Team]:
    """The team of this process, for the length of the block.

    Raises:
        LostProcessError: the others cannot be reached.
        UsageError: the device is missing, or nothing for several processes.
    """
    how = launch()
    if how.size == 1:
        yield Team()
        return
    device = pick_device(device_name)
    if dist.is_initialized():
        why = "the processes belong to somebody's group already"
        raise UsageError("torch.distributed", why, "call daybreak before init_process_group, or destroy the group")
    if device.type == "mps":
        raise UsageError("--device mps", "cannot train in several processes", "--device cpu, or one process")
    if device.type == "cuda":
        torch.cuda.set_device(how.local_rank)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    threads = torch.get_num_threads()
    torch.set_num_threads(_threads(how, threads))
    try:
        _checked(lambda: _join(backend, how))
        yield Processes(how.rank, how.size)
    finally:
        torch.set_num_threads(threads)
        with suppress(Exception):  # the others may be gone
            dist.destroy_process_group()


def _join(backend: str, how: Launch) -> None:
    store = meet(how.rank, how.size, TIMEOUT)
    dist.init_process_group(backend, store=store, rank=how.rank, world_size=how.size, timeout=TIMEOUT)


def _threads(how: Launch, now: int) -> int:
    """Of this process: its share of the cores, where not the user has decided but torchrun, which gives each one."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        return now
    return max(1, usable_cores() // how.local_size)


def _checked(call: Callable[[], object]) -> None:
    """
    Raises:
        LostProcessError: another process has died, or cannot be reached.
    """
    try:
        call()
    except (RuntimeError, ValueError, dist.DistError) as error:
        first = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise LostProcessError(
            "training in several processes",
            f"another process has died or cannot be reached ({first})",
            "torchrun --max-restarts, or daybreak train --resume RUN under a launcher",
        ) from None
