"""Two machines that train together, and the cable between them, which is pulled: two namespaces of this machine.

Needs root and iproute2, as in a container of one's own.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_team import DIGITS, final_state, rows_of, wait_for_rows

pytestmark = pytest.mark.slow

MACHINES = {"daybreak-a": "10.87.3.1", "daybreak-b": "10.87.3.2"}
CUT_SECONDS = 30


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def network() -> Iterator[None]:
    """Two namespaces that reach each other and nothing else."""
    names = list(MACHINES)
    for name in names:
        ip("netns", "add", name)
    try:
        ip("link", "add", "cable-a", "netns", names[0], "type", "veth", "peer", "name", "cable-b", "netns", names[1])
        for name, cable in zip(names, ("cable-a", "cable-b"), strict=True):
            ip("-n", name, "address", "add", f"{MACHINES[name]}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in names:
            ip("netns", "delete", name)


@contextmanager
def pulled() -> Iterator[None]:
    """The cable between the machines, out while the block runs."""
    ip("-n", "daybreak-a", "link", "set", "cable-a", "down")
    yield
    ip("-n", "daybreak-a", "link", "set", "cable-a", "up")


def start(machine: str, out: Path, log: Path) -> subprocess.Popen[bytes]:
    cable = f"cable-{machine[-1]}"
    how = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-id=test"]
    how += [f"--rdzv-endpoint={MACHINES['daybreak-a']}:29400", f"--local-addr={MACHINES[machine]}"]
    how += [f"--rdzv-conf=is_host={machine == 'daybreak-a'}"]
    command = [sys.executable, "-m", "torch.distributed.run", *how, "-m", "daybreak", *DIGITS]
    command += ["--epochs", "8", "--checkpoint-every", "20steps", "--out", str(out)]
    env = os.environ | {"GLOO_SOCKET_IFNAME": cable, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        return subprocess.Popen(["ip", "netns", "exec", machine, *command], env=env, stdout=file, stderr=file)


def together(out: Path, cut_after: int | None) -> list[int]:
    """The exit codes of both machines. The cable is pulled once there are so many rows of the log."""
    logs = [out.parent / f"{machine}.log" for machine in MACHINES]
    processes = [start(machine, out, log) for machine, log in zip(MACHINES, logs, strict=True)]
    if cut_after is not None:
        wait_for_rows(out, processes[0], cut_after)  # type: ignore[arg-type]
        with pulled():
            time.sleep(CUT_SECONDS)
    return [process.wait(timeout=400) for process in processes]


@pytest.mark.usefixtures("network")
def test_a_cut_cable_costs_nothing(tmp_path: Path) -> None:
    """Thirty seconds without a network: the run ends in the state of one that was never disturbed."""
    undisturbed, cut = tmp_path / "undisturbed", tmp_path / "cut"
    assert together(undisturbed, None) == [0, 0], (tmp_path / "daybreak-a.log").read_text()[-2000:]
    assert together(cut, 30) == [0, 0], (tmp_path / "daybreak-a.log").read_text()[-2000:]
    assert final_state(cut) == final_state(undisturbed)
    assert rows_of(cut) == rows_of(undisturbed)
    assert json.loads((cut / "summary.json").read_text())["processes"] == 2
