"""Which workers are alive: what a worker says about itself while it runs a trial, and what others make of it.

A worker counts up a number in its trial. Whoever sees the number stand still for long by its own clock takes the
worker for dead, so clocks of different machines need not agree. On the worker's own machine the process list says so at
once. (Optuna's own heartbeat is for databases only.)
"""

import os
import platform
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from optuna import Trial

BEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 60.0
WORKER, BEAT = "worker", "beat"  # of a trial


def machine() -> str:
    """This machine since it was started, and the space of its process numbers: two containers are two machines."""
    found = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            found.append(os.readlink(path) if "/ns/" in path else Path(path).read_text(encoding="utf-8").strip())
    return " ".join(found)


def myself() -> dict[str, Any]:
    """This process, so that others on its machine can tell whether it still runs."""
    return {"machine": machine(), "process": os.getpid(), "started": psutil.Process().create_time()}


class Watcher:
    """Tells dead workers from living ones, by what it has seen of them so far."""

    def __init__(self) -> None:
        self._machine = machine()
        self._seen: dict[int, tuple[Any, float]] = {}

    def is_dead(self, number: int, attrs: Mapping[str, Any]) -> bool:
        """Whether the worker that runs a trial is gone.

        Args:
            number: of the trial.
            attrs: what the worker has said in it.
        """
        worker = attrs.get(WORKER)
        if worker and worker["machine"] == self._machine and not _runs(worker["process"], worker["started"]):
            return True
        beat, now = attrs.get(BEAT), time.monotonic()
        if number not in self._seen or self._seen[number][0] != beat:
            self._seen[number] = (beat, now)
        return now - self._seen[number][1] > DEAD_AFTER_SECONDS


class Heartbeat:
    """While entered, a thread counts up the trial's number. `taken` is set where the trial is no longer this worker's:
    others took it for dead."""

    def __init__(self, trial: "Trial") -> None:
        self._trial, self._over = trial, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self.taken = False

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        count = 0
        while not self._over.wait(BEAT_SECONDS):
            count += 1
            try:
                self._trial.set_user_attr(BEAT, count)
            except UpdateFinishedTrialError:
                self.taken = True
                return
            except Exception:  # a server that is away for a moment: the next beat may reach it
                continue


def _runs(process: int, started: float) -> bool:
    """Whether this very process still runs; its number may have gone to another one since."""
    try:
        found = psutil.Process(process)
        return bool(found.create_time() == started and found.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
