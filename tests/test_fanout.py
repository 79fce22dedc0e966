"""Workers on one machine: how cores are shared out, and that none outlives what started it."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from daybreak.core import fanout
from daybreak.core.errors import (
    TARGET_MISSED_EXIT_CODE,
    BusyError,
    DataError,
    DaybreakError,
    LostProcessError,
    NonFiniteError,
    RunError,
    StoppedError,
    StorageError,
    UsageError,
)
from daybreak.core.fanout import shares

MODULE = """
import json, os, signal, sys, time
from pathlib import Path
from daybreak.core.errors import DataError
from daybreak.core.fanout import run_worker, workers_here

def work(job):
    if job.get("fails"):
        raise DataError("photos", "not there", "another folder")
    cores = sorted(os.sched_getaffinity(0))
    facts = {"cores": cores, "threads": os.environ["OMP_NUM_THREADS"], "workers": workers_here(), "pid": os.getpid()}
    Path(job["file"]).write_text(json.dumps(facts))
    time.sleep(job["seconds"])

run_worker(work)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a_worker.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return "a_worker"


@pytest.mark.parametrize(
    ("cores", "workers", "expected"),
    [
        ([0, 1, 2, 3], 2, [[0, 1], [2, 3]]),
        ([4, 5, 6, 7, 8], 2, [[4, 5], [6, 7]]),
        ([0, 1], 2, [[0], [1]]),
        ([0, 1], 5, [[0], [1], [0], [1], [0]]),
        ([3], 1, [[3]]),
    ],
)
def test_cores_are_shared_out_equally(cores: list[int], workers: int, expected: list[list[int]]) -> None:
    assert shares(cores, workers) == expected


def read(path: Path) -> dict[str, object]:
    deadline = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_every_worker_has_its_cores_threads_and_job(module: str, tmp_path: Path) -> None:
    files, looked = [tmp_path / "0.json", tmp_path / "1.json"], []
    jobs = [{"file": str(file), "seconds": 0.5} for file in files]
    with fanout.started(module, jobs) as workers:
        fanout.wait(workers, lambda: looked.append(workers.running()), "again")
        assert workers.error() is None
    mine = sorted(os.sched_getaffinity(0))
    for file, cores in zip(files, shares(mine, 2), strict=True):
        assert read(file) | {"pid": 0} == {
            "cores": cores,
            "threads": str(max(1, len(mine) // 2)),
            "workers": 2,
            "pid": 0,
        }
    assert looked[-1] == 0
    assert fanout.workers_here() == 1


def test_an_error_comes_back_with_its_exit_code(module: str, tmp_path: Path) -> None:
    jobs = [{"file": str(tmp_path / "0.json"), "seconds": 0}, {"fails": True}]
    with fanout.started(module, jobs) as workers:
        fanout.wait(workers, lambda: None, "again")
        error = workers.error()
    assert all(process.stdin is not None and process.stdin.closed for process in workers._processes)
    assert str(error) == "photos: not there; try: another folder"
    assert error is not None
    assert error.exit_code == DataError.exit_code
    assert error.as_json()["error"]["code"] == "data"


def test_a_signal_is_passed_on(module: str, tmp_path: Path) -> None:
    file = tmp_path / "0.json"

    def interrupt() -> None:
        if file.exists():
            os.kill(os.getpid(), signal.SIGINT)

    with fanout.started(module, [{"file": str(file), "seconds": 600}]) as workers:
        with pytest.raises(StoppedError, match="interrupted; again") as stopped:
            fanout.wait(workers, interrupt, "again")
        assert workers.running() == 0
    assert stopped.value.signal == signal.SIGINT


def test_a_worker_ends_when_its_parent_is_killed(module: str, tmp_path: Path) -> None:
    file = tmp_path / "0.json"
    job = {"file": str(file), "seconds": 600}
    code = f"from daybreak.core import fanout\nwith fanout.started('{module}', [{job}]) as w: fanout.wait(w, int, '')"
    parent = subprocess.Popen([sys.executable, "-c", code])
    worker = psutil.Process(int(str(read(file)["pid"])))
    parent.kill()
    parent.wait()
    worker.wait(60)


# -- what the manager does, without processes --------------------------------------------------------------------------


class Stubborn:
    """A process that ends only when it is killed, on a clock that moves only while somebody waits for it."""

    def __init__(self, now: list[float]) -> None:
        self.now, self.told = now, list[object]()
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, number: int) -> None:
        self.told.append(number)

    def wait(self, timeout: float | None = None) -> None:
        if self.code is None:
            self.told.append(timeout)
            self.now[0] += timeout or 0.0
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)

    def kill(self) -> None:
        self.code = -9


def test_workers_have_two_minutes_together_and_are_then_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(fanout, "time", SimpleNamespace(monotonic=lambda: now[0]))
    first, second = Stubborn(now), Stubborn(now)
    workers = fanout.Workers([first, second], [])  # type: ignore[list-item]
    workers.stop(signal.SIGTERM)
    assert (first.told, second.told) == ([signal.SIGTERM, 120.0], [signal.SIGTERM, 0.1])
    assert workers.running() == 0


@pytest.mark.parametrize(("usable", "threads"), [(8, 4), (6, 3), (5, 2), (1, 1)])
def test_threads_keep_to_the_containers_quota(usable: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers on eight cores have four each, and share a quota of fewer."""
    made = []

    def start(_module: str, _job: object, cores: list[int], threads: int, workers: int, _answers: object) -> object:
        made.append((cores, threads, workers))
        return SimpleNamespace(poll=lambda: 0, wait=lambda _=None: 0, stdin=io.BytesIO())

    monkeypatch.setattr(fanout, "_cores", lambda: list(range(8)))
    monkeypatch.setattr(fanout, "usable_cores", lambda: usable)
    monkeypatch.setattr(fanout, "_start", start)
    with fanout.started("nothing", [{}, {}]):
        pass
    assert made == [([0, 1, 2, 3], threads, 2), ([4, 5, 6, 7], threads, 2)]


@pytest.mark.parametrize(
    ("ends", "noted", "code"),
    [
        (None, None, 0),
        (DataError("a", "b", "c"), None, 3),
        (StoppedError(signal.SIGTERM, "later"), None, 143),
        (None, signal.SIGINT, 130),
    ],
)
def test_a_worker_exits_as_the_command_line_would(
    ends: Exception | None, noted: int | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(job: object) -> None:
        assert job == {"place": 4}
        if ends:
            raise ends

    monkeypatch.setattr(fanout, "obey_signals", lambda: None)
    monkeypatch.setattr(fanout, "_end_with_parent", lambda: None)
    monkeypatch.setattr(fanout, "noted_signal", lambda: noted)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"place": 4}\n')))
    with pytest.raises(SystemExit) as left:
        fanout.run_worker(work)
    assert left.value.code == code


KINDS = [
    (UsageError, 2), (DataError, 3), (RunError, 4), (StorageError, 5), (NonFiniteError, 6), (BusyError, 7),
    (LostProcessError, 9),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "code"), KINDS)
def test_every_kind_of_error_keeps_its_exit_code(kind: type[DaybreakError], code: int) -> None:
    said = b"a line before\n" + json.dumps(kind("a", "b", "c").as_json()).encode() + b"\n"
    found = fanout._error_of(fanout._last_line(said)["error"])
    assert (found.exit_code, found.code, str(found)) == (code, kind.code, "a: b; try: c")


def test_a_missed_target_has_an_exit_code_of_its_own() -> None:
    assert TARGET_MISSED_EXIT_CODE == 8
    assert 8 not in dict(KINDS).values()


@pytest.mark.parametrize("said", [b"", b"no JSON\n", b"[1]\n", b"\xff\n"])
def test_what_is_no_answer_is_none(said: bytes) -> None:
    assert fanout._last_line(said) == {}


def test_a_worker_has_a_session_of_its_own(module: str, tmp_path: Path) -> None:
    file = tmp_path / "0.json"
    with fanout.started(module, [{"file": str(file), "seconds": 600}]):
        worker = int(str(read(file)["pid"]))
        assert os.getsid(worker) == worker
