"""metrics.jsonl and metrics.csv: what is written is what is read, and a long run does not read its own rows again."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from resuming import begin

from daybreak.core.errors import RunError
from daybreak.runs import metrics_log
from daybreak.runs.directory import RunDirectory
from daybreak.runs.metrics_rows import Kept, fault_in, kept_until

POSITION = {"progress": 0.5, "lr": 0.1, "momentum": 0.9, "size": 32, "train_seconds": 1.5}


def step(n: int) -> dict[str, Any]:
    return {"event": "step", "step": n, **POSITION, "batch_loss": 1 / n}


def epoch(n: int, **more: Any) -> dict[str, Any]:
    measured = {"train_loss": 0.5, "train_acc": 0.25, "test_loss": 2.5, "test_acc": n / 3}
    return {"event": "epoch", "epoch": n, "step": n, **POSITION, "batch_loss": None, **measured, **more}


def cut(run: RunDirectory, step: int, size: int) -> None:
    run.keep_metrics(run.metrics_until(step, size))


def table(run: RunDirectory) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were parsed, as the list grows."""
    found: list[Path] = []
    original = metrics_log._parse
    monkeypatch.setattr(metrics_log, "_parse", lambda path: (found.append(path), original(path))[1])
    return found


def test_epochs_are_appended_and_nothing_is_parsed(
    tmp_path: Path, parses: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: list[str] = []
    original = metrics_log.write_text
    monkeypatch.setattr(metrics_log, "write_text", lambda path, text: (tables.append(text), original(path, text))[1])
    run = RunDirectory(tmp_path)
    for n in range(1, 51):
        run.append_metrics(step(n))
        run.append_metrics(epoch(n))
        assert run.metrics("epoch")[-1] == epoch(n)
    assert (parses, len(tables)) == ([], 1)
    assert [row["test_acc"] for row in table(run)] == [str(n / 3) for n in range(1, 51)]
    assert run.metrics("step") == RunDirectory(tmp_path).metrics("step") == [step(n) for n in range(1, 51)]
    assert len(parses) == 1  # the other object's


def test_a_training_parses_no_row_of_its_own(tmp_path: Path, parses: list[Path]) -> None:
    begin(str(tmp_path / "run"))
    assert parses == []
    run = RunDirectory.open(tmp_path / "run")
    assert [int(row["step"]) for row in table(run)] == [row["step"] for row in run.metrics("epoch")] == [20, 40]


def test_the_table_is_made_anew_once_when_a_run_is_resumed(tmp_path: Path, parses: list[Path]) -> None:
    run = RunDirectory(tmp_path)
    run.append_metrics(epoch(1))
    kept = run.flush_metrics()
    run.append_metrics(epoch(2))
    again = RunDirectory(tmp_path)
    cut(again, 1, kept)
    assert again.metrics("epoch") == [epoch(1)]
    again.append_metrics(epoch(2, f1=0.5))
    again.append_metrics(epoch(3, f1=0.25))
    assert len(parses) == 1
    assert again.metrics("epoch") == [epoch(1), epoch(2, f1=0.5), epoch(3, f1=0.25)]
    assert [(row["epoch"], row["test_acc"], row["f1"]) for row in table(again)] == [
        ("1", str(1 / 3), ""),
        ("2", str(2 / 3), "0.5"),
        ("3", "1.0", "0.25"),
    ]


def test_a_new_key_makes_the_table_anew_once_and_a_missing_one_is_empty(tmp_path: Path, parses: list[Path]) -> None:
    run, sizes = RunDirectory(tmp_path), []
    for row in (epoch(1), epoch(2, f1=0.5), epoch(3), epoch(4, f1=0.75)):
        run.append_metrics(row)
        sizes.append((tmp_path / "metrics.csv").stat().st_ino)
    assert sizes[0] != sizes[1] == sizes[2] == sizes[3]  # a table made anew is another file
    assert [row["f1"] for row in table(run)] == ["", "0.5", "", "0.75"]
    assert parses == []


def test_who_reads_a_run_sees_what_another_adds(tmp_path: Path) -> None:
    writer, reader = RunDirectory(tmp_path), RunDirectory(tmp_path)
    writer.append_metrics(epoch(1))
    assert reader.metrics("epoch") == [epoch(1)]
    writer.append_metrics(epoch(2))
    assert reader.metrics("epoch") == [epoch(1), epoch(2)]
    cut(writer, 0, 0)
    assert reader.metrics("epoch") == writer.metrics("epoch") == []


def test_rows_that_were_handed_out_can_be_changed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.append_metrics(epoch(1))
    run.metrics("epoch")[0]["test_acc"] = 1.0
    assert run.metrics("epoch") == [epoch(1)]


def test_half_a_row_of_a_killed_run_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(epoch(1)) + '\n{"event": "ep')
    run = RunDirectory(tmp_path)
    assert run.metrics("epoch") == [epoch(1)]
    cut(run, 1, len(json.dumps(epoch(1))) + 1)
    run.append_metrics(epoch(2))
    assert run.metrics("epoch") == RunDirectory(tmp_path).metrics("epoch") == [epoch(1), epoch(2)]


def without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (without(epoch(2), "size"), "line 2: size: Field required"),
        (without(epoch(2), "train_acc"), "line 2: train_acc: Field required"),
        (without(epoch(2), "test_acc"), "line 2: test_acc or val_acc: neither is there"),
        (epoch(2) | {"lr": "high"}, "line 2: lr: "),
        (step(2) | {"step": 0}, "line 2: step: "),
        (step(2) | {"step": True}, "line 2: step: "),
        (without(step(2), "event"), "line 2: event"),
        (step(2) | {"event": "trust"}, "line 2: event"),
    ],
)
def test_a_row_that_lacks_something_is_named(tmp_path: Path, row: dict[str, Any], why: str) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (epoch(1), row)))
    with pytest.raises(RunError, match=why):
        RunDirectory(tmp_path).metrics("epoch")


def test_of_a_damaged_log_what_is_sound_is_kept(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for n in (1, 2, 3, 4):
        run.append_metrics(step(n))
        run.append_metrics(epoch(n))
    size = run.flush_metrics()
    path, content = tmp_path / "metrics.jsonl", (tmp_path / "metrics.jsonl").read_bytes()
    lines = content.splitlines(keepends=True)
    lines[3] = bytes(len(lines[3]))  # the second epoch: zeros, as a file system leaves them after a power cut
    lines[4] = lines[4][:20] + b"\xff" + lines[4][21:]  # the third step
    path.write_bytes(b"".join(lines))
    kept = run.metrics_until(3, size)
    assert path.read_bytes() == b"".join(lines)  # nothing is written yet
    run.keep_metrics(kept)
    assert run.metrics("epoch") == [epoch(1), epoch(2), epoch(3)]  # the second from the table
    assert run.metrics("step") == [step(1), step(2)]
    assert kept.damage == "metrics.jsonl was damaged: 4 rows of it and 1 of metrics.csv are kept"
    assert [row["epoch"] for row in table(run)] == ["1", "2", "3"]
    assert (tmp_path / "damaged-metrics.jsonl").read_bytes() == b"".join(lines)
    assert (tmp_path / "damaged-metrics.csv").exists()


def test_a_log_that_is_missing_comes_from_the_table(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.append_metrics(epoch(1))
    run.append_metrics(epoch(2))
    size = run.flush_metrics()
    (tmp_path / "metrics.jsonl").unlink()
    kept = run.metrics_until(2, size)
    run.keep_metrics(kept)
    assert run.metrics("epoch") == [epoch(1), epoch(2)]
    assert kept.damage == "metrics.jsonl was missing: 0 rows of it and 2 of metrics.csv are kept"


def test_a_sound_log_is_only_cut(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.append_metrics(epoch(1))
    size = run.flush_metrics()
    run.append_metrics(epoch(2))
    inode = (tmp_path / "metrics.jsonl").stat().st_ino
    kept = run.metrics_until(1, size)
    run.keep_metrics(kept)
    assert (kept.damage, (tmp_path / "metrics.jsonl").stat().st_ino) == (None, inode)
    assert run.metrics("epoch") == [epoch(1)]


# -- single rows -------------------------------------------------------------------------------------------------------


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_log_that_ends_at_its_checkpoint_is_whole() -> None:
    text = lines(step(1), epoch(1))
    assert kept_until(1, len(text), text.encode(), "") == Kept(text)
    assert kept_until(0, 0, None, "") == Kept("")


def test_restored_epochs_stand_behind_their_steps(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for row in (epoch(1), epoch(2)):
        run.append_metrics(row)
    table = (tmp_path / "metrics.csv").read_text()
    kept = kept_until(2, 10**6, lines(step(1), step(2), epoch(2)).encode(), table)
    order = [(row["step"], row["event"]) for row in map(json.loads, kept.text.splitlines())]
    assert order == [(1, "step"), (1, "epoch"), (2, "step"), (2, "epoch")]
    assert kept.damage == "metrics.jsonl was damaged: 3 rows of it and 1 of metrics.csv are kept"


@pytest.mark.parametrize("table", ["epoch,step\n1,1,7\n", "epoch,step\n" + "[" * 100_000 + ",1\n"])
def test_nonsense_restores_nothing(table: str) -> None:
    kept = kept_until(1, 9, b"[" * 100_000 + b"\n", table)
    assert kept == Kept("", "metrics.jsonl was damaged: 0 rows of it are kept")


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [("size", 1, 0), ("step", 1, 0), ("lr", 0.0, math.nan), ("batch_loss", None, math.inf), ("size", 8, True)],
)
def test_the_limits_of_a_row(key: str, good: object, bad: object) -> None:
    assert fault_in(step(1) | {key: good}) is None
    assert str(fault_in(step(1) | {key: bad})).startswith(f"{key}: ")


def test_a_row_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.append_metrics(step(1))
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.append_metrics(step(2) | {"lr": math.nan})
    assert run.metrics("step") == RunDirectory(tmp_path).metrics("step") == [step(1)]
    assert run.flush_metrics() == (tmp_path / "metrics.jsonl").stat().st_size
    assert not (tmp_path / "metrics.csv").exists()  # there is no epoch yet


def test_a_log_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"metrics\.jsonl: missing"):
        RunDirectory(tmp_path).metrics("epoch")
