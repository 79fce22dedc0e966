"""Metrics where people look for them besides the run directory: TensorBoard and MLflow, where they are installed.

A tracker looks on and decides nothing: one that fails is dropped with a note, and the run goes on.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

from daybreak.core.errors import UsageError, nearest, one_line
from daybreak.core.events import Event, OnEvent
from daybreak.core.extras import install_command
from daybreak.core.files import write_json
from daybreak.core.sections import flatten
from daybreak.runs.directory import RunDirectory

STEP = ("lr", "momentum", "batch_loss")
EPOCH = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")  # those that the row has
RESULT = ("val_acc", "test_acc", "test_acc_tta", "test_loss", "train_seconds", "images_per_second")
MLFLOW_STORE, MLFLOW_FILE = "sqlite:///mlflow.db", "mlflow.json"


class Tracker(Protocol):
    """Takes the metrics of one run; `keeps_steps` says whether those of single steps too."""

    keeps_steps: bool

    def open(self, run: RunDirectory, step: int) -> None: ...

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self, is_whole: bool) -> None: ...


class TensorBoard:
    """Scalars of steps and epochs in RUN/tensorboard."""

    keeps_steps = True

    def __init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._make, self._writer = SummaryWriter, cast(Any, None)

    def open(self, run: RunDirectory, step: int) -> None:
        later = {"purge_step": step + 1} if step else {}  # than the checkpoint: those steps come again
        self._writer = self._make(str(run.path / "tensorboard"), **later)
        self._writer.add_text("config", f"```json\n{json.dumps(run.config, indent=2)}\n```")

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, is_whole: bool) -> None:  # noqa: ARG002 (a log file knows no ending)
        if self._writer:
            self._writer.close()


class MLflow:
    """A run of the experiment `daybreak` in the store that MLFLOW_TRACKING_URI names, or in ./mlflow.db.

    Its number is kept in RUN/mlflow.json, so that a run that is resumed goes on with it. Steps are left out: a row
    in a database takes longer than a step.
    """

    keeps_steps = False

    def __init__(self) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or MLFLOW_STORE)
        self._metric, self._param, self._id, self._last = Metric, Param, "", -1

    def open(self, run: RunDirectory, step: int) -> None:  # noqa: ARG002 (it knows itself what it has)
        known = run.path / MLFLOW_FILE
        if known.exists():
            self._id = json.loads(known.read_text(encoding="utf-8"))["run_id"]
            self._client.update_run(self._id, "RUNNING")
            logged = self._client.get_metric_history(self._id, "train_acc")
            self._last = max((metric.step for metric in logged), default=-1)
            return
        found = self._client.get_experiment_by_name("daybreak")
        experiment = found.experiment_id if found else self._client.create_experiment("daybreak")
        self._id = self._client.create_run(experiment, run_name=run.path.name).info.run_id
        write_json(run.path / MLFLOW_FILE, {"run_id": self._id})
        config = run.config
        facts = flatten(config["recipe"]) | {"seed": config["seed"], "data": config["data"]["title"]}
        params = [self._param(key, str(value)) for key, value in facts.items()]
        self._client.log_batch(self._id, params=params)

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step <= self._last and not all(key.startswith("final.") for key in values):
            return  # a resumed run comes to an epoch again that it had logged before it was killed
        now = int(1000 * time.time())
        self._client.log_batch(self._id, [self._metric(key, value, now, step) for key, value in values.items()])

    def close(self, is_whole: bool) -> None:
        if self._id:
            self._client.set_terminated(self._id, "FINISHED" if is_whole else "KILLED")


TRACKERS: dict[str, Callable[[], Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow}


@contextmanager
def tracked(kinds: Sequence[str], on_event: OnEvent) -> Iterator[OnEvent]:
    """While the block runs, trackers of these kinds see every event after `on_event`.

    Raises:
        UsageError: there is no such tracker, or it is not installed.
    """
    following = [_Following(kind, _made(kind), on_event) for kind in dict.fromkeys(kinds)]

    def send(event: Event) -> None:
        on_event(event)
        for follower in following:
            follower.take(event)

    try:
        yield send
    finally:
        for follower in following:
            follower.close()


class _Following:
    """A tracker and what has become of it."""

    def __init__(self, kind: str, tracker: Tracker, on_event: OnEvent) -> None:
        self.kind, self.tracker, self.on_event = kind, tracker, on_event
        self.is_whole, self.works = False, True

    def take(self, event: Event) -> None:
        kind = event["event"]
        if kind == "start":
            self._try(lambda: self.tracker.open(RunDirectory(Path(event["run"])), event["step"]))
        elif kind == "epoch":
            self._log(event, EPOCH if self.tracker.keeps_steps else ("lr", *EPOCH), event["step"])
        elif kind == "step" and self.tracker.keeps_steps:
            self._log(event, STEP, event["step"])
        elif kind == "end":
            result = {f"final.{key}": event.get(key) for key in RESULT}
            self._log(result, list(result), event["steps"])
            self.is_whole = event["interrupted"] is None

    def close(self) -> None:
        self._try(lambda: self.tracker.close(self.is_whole))

    def _log(self, event: Mapping[str, Any], keys: Sequence[str], step: int) -> None:
        values = {key: event[key] for key in keys if event.get(key) is not None}
        self._try(lambda: self.tracker.log(values, step))

    def _try(self, act: Callable[[], None]) -> None:
        if not self.works:
            return
        try:
            act()
        except Exception as error:  # whatever another's software does, the run goes on
            self.works = False
            self.on_event({"event": "note", "why": f"{self.kind} is not followed any more: {one_line(error)[:200]}"})


def _made(kind: str) -> Tracker:
    if kind not in TRACKERS:
        raise UsageError(f"--track {kind}", "no such tracker", nearest(kind, TRACKERS))
    try:
        return TRACKERS[kind]()
    except ImportError:
        raise UsageError(f"--track {kind}", f"{kind} is not installed", install_command(kind)) from None
    except Exception as error:  # such as a store that it does not know
        raise UsageError(f"--track {kind}", one_line(error)[:200], "check its settings") from None
