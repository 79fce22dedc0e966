"""Workers on one machine: how cores are shared out, and that none outlives what started it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from daybreak.core import fanout
from daybreak.core.errors import DataError, StoppedError
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
