"""Trackers: the real TensorBoard and the real MLflow with its SQLite store hold what the run directory holds."""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import daybreak as db
from daybreak.core.errors import UsageError
from daybreak.core.extras import install_command
from daybreak.runs.directory import RunDirectory
from daybreak.training import tracking

TINY = {"recipe": "small", "device": "cpu", "report": False, "settings": {"model.width": 0.1}}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """An MLflow store of its own in a SQLite file."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)  # where MLflow would put its artifacts
    return MlflowClient(uri)


def test_tensorboard_shows_every_epoch_and_row(tmp_path: Path) -> None:
    run = db.train("digits", epochs=2, track=["tensorboard"], out=tmp_path / "run", **TINY)
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    shown = [(e.step, pytest.approx(e.value)) for e in events.Scalars("test_acc")]
    assert shown == [(row["step"], row["test_acc"]) for row in run.history]
    last = run.directory.metrics("step")[-1]
    assert events.Scalars("batch_loss")[-1].step == last["step"]
    assert events.Scalars("batch_loss")[-1].value == pytest.approx(last["batch_loss"])
    assert events.Scalars("final.test_acc")[0].value == pytest.approx(run.summary.test_acc)


def test_mlflow_holds_parameters_and_epochs_and_a_resumed_run_goes_on(tmp_path: Path, store: MlflowClient) -> None:
    run = db.train("digits", epochs=1, track=["mlflow"], out=tmp_path / "run", **TINY)
    (kept,) = store.search_runs([store.get_experiment_by_name("daybreak").experiment_id])
    assert (kept.info.run_name, kept.info.status) == ("run", "FINISHED")
    assert kept.data.params["model.name"] == "sprint"
    assert float(kept.data.params["schedule.max_lr"]) == run.directory.recipe.schedule.max_lr
    assert kept.data.params["seed"] == "0"
    db.resume(run, epochs=2, track=["mlflow"], device="cpu", report=False)
    (again,) = store.search_runs([kept.info.experiment_id])
    assert again.info.run_id == kept.info.run_id
    logged = store.get_metric_history(kept.info.run_id, "test_acc")
    assert [(m.step, m.value) for m in logged] == [(row["step"], row["test_acc"]) for row in run.history]
    assert again.data.metrics["final.test_acc"] == run.summary.test_acc


def test_a_tracker_that_fails_is_dropped_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: MlflowClient
) -> None:
    def refuse(*_: Any) -> None:
        raise ConnectionError("no\nserver")

    monkeypatch.setattr(tracking.MLflow, "log", refuse)
    events: list[dict[str, Any]] = []
    run = db.train("digits", epochs=1, track=["mlflow"], out=tmp_path / "run", on_event=events.append, **TINY)
    (note,) = [event["why"] for event in events if event["event"] == "note"]
    assert note == "mlflow is not followed any more: no\\nserver"
    assert run.summary.test_acc > 0.3
    assert store.get_experiment_by_name("daybreak") is not None


@pytest.mark.parametrize(("kind", "why"), [("mlfow", "no such tracker; try: 'mlflow'"), ("wandb", "no such tracker")])
def test_a_tracker_that_is_not_known_is_refused_before_training(kind: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        db.train("digits", track=[kind], out=tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()


def test_one_that_is_not_installed_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ImportError("mlflow")

    monkeypatch.setitem(tracking.TRACKERS, "mlflow", missing)
    with pytest.raises(UsageError, match=re.escape(install_command("mlflow"))):
        db.train("digits", track=["mlflow"], out=tmp_path / "run", **TINY)


def test_metrics_are_also_a_table(tmp_path: Path) -> None:
    """metrics.csv has the epochs of metrics.jsonl, also after a run was made longer."""
    run = db.train("digits", epochs=1, out=tmp_path / "run", **TINY)
    db.resume(run, epochs=2, device="cpu", report=False)
    with (run.path / "metrics.csv").open(newline="") as file:
        table = [{key: json.loads(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert table == [{k: v for k, v in row.items() if k != "event"} for row in run.history]
    assert len(table) == 2


def test_nested_keys_are_joined_by_dots() -> None:
    assert tracking.flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}


@pytest.mark.parametrize("part", ["val", "test"])
def test_the_figures_that_a_row_has_are_logged(part: str) -> None:
    """A validation part takes the place of the test part in epoch rows; old results have no `val_acc`."""
    logged: list[tuple[dict[str, float], int]] = []

    class Log:
        keeps_steps = False

        def open(self, run: RunDirectory, step: int) -> None: ...

        def log(self, values: Mapping[str, float], step: int) -> None:
            logged.append((dict(values), step))

        def close(self, is_whole: bool) -> None: ...

    follower = tracking._Following("log", Log(), print)
    figures = {"train_loss": 0.5, "train_acc": 0.75, f"{part}_loss": 1.25, f"{part}_acc": 0.625}
    follower.take({"event": "epoch", "step": 8, "lr": 0.1, "size": 32} | figures)
    final = {"test_acc": 0.6, "test_acc_tta": 0.61, "test_loss": 1.3, "train_seconds": 4.5, "images_per_second": 9.0}
    final |= {"val_acc": 0.625} if part == "val" else {}
    follower.take({"event": "end", "steps": 8, "interrupted": None} | final)
    assert logged == [({"lr": 0.1} | figures, 8), ({f"final.{key}": value for key, value in final.items()}, 8)]
