"""Sweeps that several processes share through real servers and a journal, some of them killed."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers

from daybreak.core.config import override
from daybreak.recipes import RECIPES, to_toml
from daybreak.sweeping.storage import open_storage

SMALL = override(RECIPES["small"], {"model.width": 0.1, "epochs": 2, "min_steps": 0, "precision": "float32"})
SPACE = "[schedule.max_lr]\nlow = 0.01\nhigh = 0.5\nlog = true\n[batch_size]\nchoices = [64, 128]\n"
PAUSE_SECONDS = 0.05
DEADLINE_SECONDS = 500

SOAK = bool(os.environ.get("DAYBREAK_SOAK"))


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with servers.postgresql() as url:
        yield url


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    with servers.redis() as url:
        yield url


_databases = itertools.count()


@pytest.fixture
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty storage of the kind that a test names."""
    if request.param == "journal":
        return str(tmp_path / "shared" / "journal.log")
    server = request.getfixturevalue(request.param)
    return servers.database(server) if request.param == "postgresql" else f"{server}{next(_databases)}"


def worker(tmp_path: Path, storage: str, number: int, trials: int, *more: str) -> subprocess.Popen[str]:
    """One `daybreak sweep` of several, as started by hand on a machine of its own: all it shares is the storage."""
    folder = tmp_path / f"machine-{number}"
    folder.mkdir()
    (folder / "base.toml").write_text(to_toml(SMALL))
    (folder / "space.toml").write_text(SPACE)
    line = [sys.executable, "-m", "daybreak", "sweep", "digits", "--space", "space.toml", "--recipe", "base.toml"]
    line += ["--trials", str(trials), "--device", "cpu", "--out", "out", "--no-prune", "--json", "-q", *more]
    env = os.environ | {"DAYBREAK_STORAGE": storage, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        line, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def running(storage: str) -> list[tuple[int, int]]:
    """Process and place of each trial that is being run."""
    opened = open_storage(storage)
    trials = [t for study in opened.get_all_studies() for t in opened.get_all_trials(study._study_id)]
    return [
        (t.user_attrs["worker"]["process"], t.user_attrs["place"])
        for t in trials
        if t.state.name == "RUNNING" and "worker" in t.user_attrs
    ]


def kill_while_running(process: subprocess.Popen[str], storage: str) -> int:
    """Kill a worker in the middle of a trial; returns the trial's place."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        assert time.monotonic() < deadline
        assert process.poll() is None
        places = [place for number, place in running(storage) if number == process.pid]
        if places:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            return places[0]
        time.sleep(PAUSE_SECONDS)


def results(processes: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    said = [process.communicate(timeout=DEADLINE_SECONDS) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return [json.loads(out) for out, _ in said]


def check(found: list[dict[str, Any]], trials: int, killed: list[int]) -> None:
    """Everyone has the same results, as many as were asked for, each once; those of killed workers were run again."""
    rows = found[0]["trials"]
    assert all(one["trials"] == rows for one in found)
    assert all(one["best"] == found[0]["best"] for one in found)
    assert [row["trial"] for row in rows] == list(range(trials))
    assert all(row["state"] == "complete" and row["val_acc"] is not None for row in rows)
    assert {row["trial"]: row["attempts"] for row in rows} == dict.fromkeys(range(trials), 1) | {
        place: 1 + count for place, count in Counter(killed).items()
    }
    assert len({json.dumps(row["settings"]) for row in rows}) == trials  # no two workers drew the same


@pytest.mark.parametrize("storage", ["postgresql", "redis"], indirect=True)
def test_two_processes_share_a_sweep_through_a_server(storage: str, tmp_path: Path) -> None:
    check(results([worker(tmp_path, storage, number, 4) for number in range(2)]), 4, [])


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
def test_a_killed_workers_trial_is_run_by_the_other(storage: str, tmp_path: Path) -> None:
    first = worker(tmp_path, storage, 0, 3, "--set", "epochs=12")
    killed = kill_while_running(first, storage)
    check(results([worker(tmp_path, storage, 1, 3, "--set", "epochs=12")]), 3, [killed])


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["postgresql", "redis", "journal"], indirect=True)
def test_trials_by_four_workers_two_of_them_killed(storage: str, tmp_path: Path) -> None:
    """12 results (40 with DAYBREAK_SOAK), none twice, though two of four workers are killed with -9 in mid-trial."""
    trials = 40 if SOAK else 12
    workers = [worker(tmp_path, storage, number, trials, "--set", "epochs=8") for number in range(4)]
    killed = [kill_while_running(victim, storage) for victim in workers[:2]]
    check(results(workers[2:]), trials, killed)
