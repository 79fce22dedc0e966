"""Faults below the program: a disk that is full or broken at any call, and the power cut at any moment.

The calls are those that a real process makes of the C library, noted and refused by faults/shim.c; what a disk may hold
after a cut is the model of faults/disk.py.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.disk import Operation, Snapshot, cuts, lay_out, read_log

from daybreak.core.errors import RunError
from daybreak.core.files import remove_leftovers
from daybreak.training.checkpoint import newest

HERE = Path(__file__).parent / "faults"
SOAK = bool(os.environ.get("DAYBREAK_SOAK"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD and glibc")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "shim.c"], check=True)
    return library


def write(what: str, folder: Path, shim: Path, log: Path | None = None) -> str:
    environment = os.environ | {"LD_PRELOAD": str(shim), "FAULTS_ROOT": str(folder)}
    environment |= {"FAULTS_LOG": str(log)} if log else {}
    words = [sys.executable, str(HERE / "writing.py"), what, str(folder)]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


@pytest.fixture(scope="module")
def operations(shim: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Operation]]:
    """What three saves ask of the disk, in a folder of this name; with `acknowledge` where a save has returned."""
    folder = tmp_path_factory.mktemp("calm")
    log = folder.parent / "calls.log"
    write("calm", folder, shim, log)
    return folder, read_log(log)


def test_the_model_knows_what_the_disk_holds(operations: tuple[Path, list[Operation]], tmp_path: Path) -> None:
    """With everything flushed: the very files. So no call has gone unseen."""
    folder, made = operations
    *_, (_, last) = cuts(without_acknowledgements(made), folder, seeds=0)
    lay_out(last, tmp_path / "all")
    there = {p.relative_to(folder): p.is_dir() or p.read_bytes() for p in folder.rglob("*") if p.name != ".lock"}
    found = {p.relative_to(tmp_path / "all"): p.is_dir() or p.read_bytes() for p in (tmp_path / "all").rglob("*")}
    assert found == there
    assert len(there) > 10
    assert sum(what == "sync" for what, _, _ in made) > 10


def test_after_a_power_cut_at_any_moment_what_was_acknowledged_is_there(
    operations: tuple[Path, list[Operation]], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """And its log, as far as the checkpoint knows it. Every other file is whole, too: old or new."""
    trials = 0
    for acknowledged, found in states(*operations, seeds=200 if SOAK else 3):
        folder = tmp_path / "found"
        lay_out(found, folder)
        trials += 1
        remove_leftovers(folder)
        latest, damaged = newest(folder / "checkpoints")
        assert not damaged
        assert (latest.facts["step"] if latest else 0) >= acknowledged
        if latest:
            step = latest.facts["step"]
            assert all(bool((value == step).all()) for value in latest.tensors.values())
            rows = (folder / "metrics.jsonl").read_bytes()[: latest.facts["metrics_bytes"]].splitlines()
            assert [json.loads(row)["step"] for row in rows] == [s for s in range(1, step + 1) for _ in range(3)]
        if (folder / "config.json").exists():
            assert json.loads((folder / "config.json").read_text())["text"] in ("first", "second")
        assert acknowledged == 0 or (folder / "config.json").exists()
        shutil.rmtree(folder)
    record_property("trials", trials)
    assert trials > 100


def test_on_a_disk_that_flushes_nothing_no_lie_is_loaded(
    operations: tuple[Path, list[Operation]], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """It says that it has, and has not. Checkpoints can be lost then, but what is loaded is what was written."""
    folder, made = operations
    lost = whole = trials = 0
    for acknowledged, found in states(folder, [op for op in made if op[0] != "sync"], seeds=200 if SOAK else 3):
        lay_out(found, tmp_path / "found")
        trials += 1
        try:
            latest, _ = newest(tmp_path / "found" / "checkpoints")
        except RunError:
            latest = None
        if latest:
            whole += 1
            assert all(bool((value == latest.facts["step"]).all()) for value in latest.tensors.values())
        lost += (latest.facts["step"] if latest else 0) < acknowledged
        shutil.rmtree(tmp_path / "found")
    record_property("trials", trials)
    assert lost > 10  # so the flushes are what saves them in the test above
    assert whole > 10


def test_a_disk_that_refuses_any_call_costs_nothing_that_was_saved(
    shim: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Full (ENOSPC) or broken (EIO) at every open, write, flush, rename and removal that a save makes, in turn."""
    rows = [json.loads(line) for line in write("faults", tmp_path, shim).splitlines()]
    record_property("trials", len(rows))
    assert {row["error"] for row in rows} == {errno.ENOSPC, errno.EIO}
    assert len(rows) > 30
    for row in rows:
        assert row["whole"], row
        assert row["damaged"] == [], row
        assert all(name.startswith(".step-00000001.") for name in row["left"]), (
            row
        )  # half removed, for the next process
        assert row["step"] in (2, 3), row
        assert row["said"] or row["step"] == 3, row  # it is told, unless the save went through all the same
        if row["said"]:
            words = {errno.ENOSPC: "No space left on device", errno.EIO: "Input/output error"}
            assert words[row["error"]] in row["said"], row
    assert sum(row["said"] is not None for row in rows) > 20
    assert sum(row["step"] == 3 for row in rows) > 5  # the removal of an old one failed


def without_acknowledgements(made: list[Operation]) -> list[Operation]:
    return [operation for operation in made if operation[0] != "acknowledge"]


def states(folder: Path, made: list[Operation], seeds: int) -> Iterator[tuple[int, Snapshot]]:
    """Every state that a cut may leave, with the last step that had been acknowledged by then."""
    acknowledged, step = [], 0
    for what, words, _ in made:
        if what == "acknowledge":
            step = int(words[0])
            acknowledged[-1] = step
        else:
            acknowledged.append(step)
    for number, found in cuts(without_acknowledgements(made), folder, seeds):
        yield acknowledged[number - 1], found
