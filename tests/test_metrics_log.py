"""metrics.jsonl and metrics.csv: what is written is what is read, and a long run does not read its own rows again."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from resuming import begin

from daybreak.runs import metrics_log
from daybreak.runs.directory import RunDirectory


def step(n: int) -> dict[str, Any]:
    return {"event": "step", "step": n, "batch_loss": 1 / n}


def epoch(n: int, **more: Any) -> dict[str, Any]:
    return {"event": "epoch", "epoch": n, "test_acc": n / 3, **more}


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
    again.truncate_metrics(kept)
    assert again.metrics("epoch") == [epoch(1)]
    again.append_metrics(epoch(2, test_loss=0.5))
    again.append_metrics(epoch(3, test_loss=0.25))
    assert len(parses) == 1
    assert again.metrics("epoch") == [epoch(1), epoch(2, test_loss=0.5), epoch(3, test_loss=0.25)]
    assert table(again) == [
        {"epoch": "1", "test_acc": str(1 / 3), "test_loss": ""},
        {"epoch": "2", "test_acc": str(2 / 3), "test_loss": "0.5"},
        {"epoch": "3", "test_acc": "1.0", "test_loss": "0.25"},
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
    writer.truncate_metrics(0)
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
    run.truncate_metrics(len(json.dumps(epoch(1))) + 1)
    run.append_metrics(epoch(2))
    assert run.metrics("epoch") == RunDirectory(tmp_path).metrics("epoch") == [epoch(1), epoch(2)]
