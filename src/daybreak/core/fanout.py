"""Several workers on one machine: processes of our own, with the cores shared out among them.

Threads that wait for each other's cores can turn seconds into minutes. So each worker gets cores of its own, as many
threads as cores, and is pinned to them where the system can. Times taken meanwhile say little about any one training:
`workers_here` tells, and whoever writes them down marks them.

A worker is `python -m MODULE`, whose module calls `run_worker`. It reads its job, one JSON object, from standard
input, and answers with one on standard output. It ends by itself, giving back what it was doing, when the process that
started it is gone: then standard input ends.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from daybreak.core import errors
from daybreak.core.errors import DaybreakError, StoppedError
from daybreak.core.machine import usable_cores
from daybreak.core.signals import StopRequest, noted_signal, obey_signals

SHARED = "DAYBREAK_WORKERS"  # in a worker's environment: how many share the machine
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 120.0  # for a worker to give back what it was doing
Job = Mapping[str, Any]


def workers_here() -> int:
    """How many workers share this machine, this process among them; 1 where it is nobody's worker."""
    return int(os.environ.get(SHARED, "1"))


def shares(cores: Sequence[int], workers: int) -> list[list[int]]:
    """The cores of each worker: equally many, as neighbours; one each, in turn, where there are more workers."""
    if workers > len(cores):
        return [[cores[n % len(cores)]] for n in range(workers)]
    each = len(cores) // workers
    return [list(cores[n * each : (n + 1) * each]) for n in range(workers)]


class Workers:
    """Processes that work on a job each, from `start` on."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]], said: Sequence[Any]) -> None:
        self._processes, self._said = processes, said

    def running(self) -> int:
        return sum(process.poll() is None for process in self._processes)

    def stop(self, number: int) -> None:
        """Send a signal to all, and wait until they have given back what they were doing; then end what is left."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)
        until = time.monotonic() + PATIENCE_SECONDS
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, until - time.monotonic()))
            if process.poll() is None:
                process.kill()
                process.wait()

    def error(self) -> DaybreakError | None:
        """The first error that a worker ended with. (One that was killed had no time to say any.)"""
        for process, said in zip(self._processes, self._said, strict=True):
            if process.poll():
                said.seek(0)
                answer = _last_line(said.read())
                if "error" in answer:
                    return _error_of(answer["error"])
        return None


@contextmanager
def started(module: str, jobs: Sequence[Job]) -> Iterator[Workers]:
    """A worker for each job, all of them at once; those that still run when the block ends are stopped."""
    mine = shares(_cores(), len(jobs))
    threads = max(1, min(len(mine[0]), usable_cores() // len(jobs)))
    processes: list[subprocess.Popen[bytes]] = []
    said = [tempfile.TemporaryFile() for _ in jobs]  # noqa: SIM115 - closed below
    workers = Workers(processes, said)
    try:
        for job, own, answers in zip(jobs, mine, said, strict=True):
            processes.append(_start(module, job, own, threads, len(jobs), answers))
        yield workers
    finally:
        workers.stop(signal.SIGTERM)
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        for answers in said:
            answers.close()


def wait(workers: Workers, look: Callable[[], None], remark: str) -> None:
    """Wait for the workers to end, and look at how far they are meanwhile.

    Args:
        remark: for the StoppedError, how to go on.

    Raises:
        StoppedError: a signal came; it was passed on to the workers, and they have ended.
    """
    with StopRequest() as stop:
        while workers.running() and stop.signal is None:
            time.sleep(POLL_SECONDS)
            look()
        if stop.signal is not None:
            workers.stop(signal.SIGTERM)
            raise StoppedError(stop.signal, remark)


def run_worker(work: Callable[[dict[str, Any]], object]) -> None:
    """Do the job on standard input, and exit as the command line would."""
    obey_signals()
    line = sys.stdin.buffer.readline()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(json.loads(line))
        code = 0
    except DaybreakError as error:
        print(json.dumps(error.as_json()), flush=True)
        code = error.exit_code
    except StoppedError as stopped:
        code = 128 + stopped.signal
    number = noted_signal()
    sys.exit(code if number is None else 128 + number)


def _cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _start(
    module: str, job: Job, cores: list[int], threads: int, workers: int, answers: Any
) -> subprocess.Popen[bytes]:
    """A worker in a session of its own, so that Ctrl-C reaches it once, through us."""
    env = os.environ | dict.fromkeys(THREADS, str(threads)) | {SHARED: str(workers)}
    process = subprocess.Popen(
        [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=answers, env=env, start_new_session=True
    )
    with suppress(AttributeError, OSError, psutil.Error):  # not on every system; threads inherit it
        psutil.Process(process.pid).cpu_affinity(cores)
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has died already, which is seen elsewhere
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
    return process


def _end_with_parent() -> None:
    """Nothing more comes on standard input: it ends when the process at its other end does."""
    with suppress(OSError):
        while os.read(0, 1):  # (not by sys.stdin, whose lock a daemon thread would hold at exit)
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def _last_line(said: bytes) -> dict[str, Any]:
    lines = said.decode(errors="replace").splitlines()
    with suppress(ValueError):
        found = json.loads(lines[-1]) if lines else {}
        return found if isinstance(found, dict) else {}
    return {}


def _error_of(said: Mapping[str, str]) -> DaybreakError:
    """A worker's error as this process's own, with its exit code."""
    kinds = (k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, DaybreakError))
    code = next((k.exit_code for k in kinds if k.code == said["code"]), DaybreakError.exit_code)
    found = DaybreakError(said["what"], said["why"], said["try"])
    found.exit_code, found.code = code, said["code"]
    return found
