"""One trial: its settings trained, evaluated on the validation part, and stopped early where it has no prospects."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from daybreak.core.config import Recipe
from daybreak.core.errors import NonFiniteError, UsageError
from daybreak.core.events import OnEvent
from daybreak.sweeping.alive import Heartbeat
from daybreak.sweeping.setting import Setting
from daybreak.sweeping.space import with_settings
from daybreak.training.callbacks import Callback, Epoch
from daybreak.training.extensions import Extensions
from daybreak.training.session import Session
from daybreak.training.train import train

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.pruners import BasePruner

WHOLE = 1000  # steps of pruning in a training, whatever its length: epochs, or wall-clock time
REDUCTION = 3  # at each rung of successive halving one trial of three goes on
FIRST_RUNG = 9  # of a training: the first rung is at a ninth, the second at a third
FACTS = "facts"  # attribute of a trial: what there is to say of it besides its value


@dataclass
class Outcome:
    """What a trial came to.

    Attributes:
        value: mean accuracy on the validation part over the seeds; of a pruned one the last that was seen.
        reason: why there is none.
        stopped: the signal that ended it; then it is no result.
        lost: others took this worker for dead, and the trial is theirs.
        facts: for the table, as plain values.
    """

    value: float | None = None
    pruned: bool = False
    reason: str | None = None
    stopped: int | None = None
    lost: bool = False
    facts: dict[str, Any] = field(default_factory=dict)


class PruningCallback(Callback):
    """Reports every epoch's validation accuracy, and ends a training that is not worth going on with."""

    def __init__(self, trial: "Trial", prunes: bool, heartbeat: Heartbeat) -> None:
        self.pruned, self.last = False, 0.0
        self._trial, self._prunes, self._heartbeat = trial, prunes, heartbeat
        self._is_over: Callable[[], bool] = lambda: False

    def on_start(self, session: Session) -> None:
        self._is_over = lambda: session.horizon.is_done(session.step)

    def on_epoch(self, epoch: Epoch) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        self.last = float(epoch.row["val_acc"])
        try:
            self._trial.report(self.last, round(WHOLE * epoch.row["progress"]))
            self.pruned = self._prunes and not self._is_over() and self._trial.should_prune()
        except UpdateFinishedTrialError:
            self._heartbeat.taken = True
        epoch.stop = epoch.stop or self.pruned or self._heartbeat.taken


def make_pruner(epochs: int | None) -> "BasePruner":
    """Asynchronous successive halving (Li et al. 2018) over the progress of a training.

    Args:
        epochs: of a trial; where they are few, the first rung is no earlier than the first of them. None under a
            budget.
    """
    from optuna.pruners import SuccessiveHalvingPruner

    return SuccessiveHalvingPruner(
        min_resource=WHOLE // min(FIRST_RUNG, max(2, epochs or FIRST_RUNG)), reduction_factor=REDUCTION
    )


def run_trial(setting: Setting, trial: "Trial", heartbeat: Heartbeat, on_event: OnEvent) -> Outcome:
    """Train a trial with each seed; the first one decides whether it is pruned.

    Raises:
        DaybreakError: something is wrong that is not of this trial alone, such as a full disk.
    """
    settings = setting.space.suggest(trial)
    try:
        recipe = with_settings(setting.base, settings)
    except UsageError as error:
        return Outcome(reason=f"{error.what}: {error.why}")
    found, values = Outcome(), list[float]()
    for seed in setting.seeds:
        pruning = PruningCallback(trial, setting.asked.prune, heartbeat)
        callbacks = () if values else (pruning,)
        summary = _train_once(setting, recipe, seed, callbacks, on_event, found)
        found.lost = heartbeat.taken
        if summary is None or found.stopped or found.lost:
            return found
        if pruning.pruned:
            found.pruned, found.value = True, pruning.last
            return found
        values.append(summary["val_acc"])
    found.value = fmean(values)
    found.facts["values"] = values
    return found


def _train_once(
    setting: Setting, recipe: Recipe, seed: int, callbacks: tuple[Callback, ...], on_event: OnEvent, found: Outcome
) -> dict[str, Any] | None:
    """The summary of a training whose directory is thrown away; None where it came to none, with the reason in
    `found`."""
    # Trials are compared on one view, so that no time goes into others; the recipe that comes out has its own again.
    seen = recipe.model_copy(update={"tta": "none"})
    try:
        with tempfile.TemporaryDirectory(prefix="daybreak-sweep-") as folder:
            run = train(
                seen, setting.dataset, Path(folder) / "run", setting.options(seed),
                extensions=Extensions(callbacks=callbacks), on_event=on_event,
            )  # fmt: skip
            summary = run.summary
            hardware = run.config["hardware"]
    except NonFiniteError as error:
        found.reason = f"{error.what}: {error.why}"
        return None
    except torch.OutOfMemoryError:
        found.reason = "out of memory on the device"
        return None
    found.stopped = summary["interrupted"]
    for name in ("train_seconds", "epochs", "steps"):
        found.facts[name] = found.facts.get(name, 0.0) + summary[name]
    found.facts |= {"threads": hardware["threads"], "device": hardware["device"]}
    found.facts["shared_machine"] = summary["shared_machine"]
    return summary
