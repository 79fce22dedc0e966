"""The training loop, in one place: steps, epochs, and the checkpoints between them."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from daybreak.core import metrics
from daybreak.core.config import OnNonfinite
from daybreak.core.errors import BadStepError, LostProcessError, NonFiniteError, StorageError
from daybreak.core.events import OnEvent
from daybreak.core.options import TrainOptions
from daybreak.core.signals import StopRequest
from daybreak.data.dataset import Split
from daybreak.runs.directory import RunDirectory
from daybreak.training.callbacks import Epoch, Step
from daybreak.training.session import Session, curve_split, spread
from daybreak.training.state import Saver
from daybreak.training.step import train_step
from daybreak.training.step_log import StepLog

TRAIN_SAMPLE = 5000  # training images on which accuracy and loss are measured at the end of an epoch
OF_FEW = 500  # of them, where an image takes long and there are few epochs: on maps (training/features.py)
MAX_SKIPPED = 3  # steps that are not finite: at this many the run stops

Row = dict[str, Any]
Ending = Literal["dawn-rule", "validation"]  # what ended a run at its target, before its cycle did


@dataclass(frozen=True)
class Loop:
    """A training under way: the session and those who look on."""

    session: Session
    run: RunDirectory
    stop: StopRequest
    options: TrainOptions
    log: StepLog
    saver: Saver


def fit(
    session: Session,
    run: RunDirectory,
    stop: StopRequest,
    options: TrainOptions = TrainOptions(checkpoint_every="never"),
    on_event: OnEvent = lambda event: None,
) -> Ending | None:
    """All epochs, or as many steps as there are until a signal asks to stop; then a checkpoint.

    Returns:
        What ended training at its target, if anything did.

    Raises:
        BadStepError: a step was not finite. There is a checkpoint of the state before it.
        NonFiniteError: so is the net by now.
        Exception: of a callback or of `on_event`. There is a checkpoint of the last whole step.
    """
    log = StepLog(session, run, on_event)
    evaluated = run.metrics("epoch") if session.step else []
    saver = Saver(session, run, log, options, evaluated)
    for callback in session.extensions.callbacks:
        callback.on_start(session)
    try:
        reached = _epochs(Loop(session, run, stop, options, log, saver), on_event)
    except LostProcessError:  # in the middle of a step: the newest checkpoint is what is left
        raise
    except NonFiniteError as error:
        if isinstance(error, BadStepError):
            with suppress(StorageError):  # the bad step is what the user has to know
                saver.save()
        raise
    except Exception:  # of a callback, or of whoever is told of events: what has been trained is not lost
        with suppress(Exception):
            saver.save()
        raise
    with session.watch.timed("save"):
        saver.save()
    return reached


def _epochs(loop: Loop, on_event: OnEvent) -> Ending | None:
    session, run = loop.session, loop.run
    row, position = evaluated_row(session, run), unevaluated(session, run)
    while True:
        if position:
            row = evaluate_epoch_at(session, loop.stop, position)
            if row is None:
                return None
            wants_stop = session.team.is_true_for_any(_tell_of_epoch(session, row))
            session.team.align([*session.net.parameters(), *session.net.buffers()])  # should processors round otherwise
            run.append_metrics(row)
            on_event(row)
            loop.saver.note(row)
            if wants_stop:
                return None
        if row and (ending := ended_by(row, session, loop.options)):
            return ending
        if session.horizon.is_done(session.step):
            return None
        with session.watch.timed("train"):
            loop.saver.save_if_due()  # with the epoch's row in it
            position = train_epoch(loop)
        if loop.stop.signal:
            return None


def reaches(row: Mapping[str, Any], size: int, target: float) -> bool:
    """Whether an epoch counts by DAWNBench's rule: good enough, at the size in px at which the finished net sees."""
    return bool(row["size"] == size and row["test_acc"] >= target)


def ended_by(row: Mapping[str, Any], session: Session, options: TrainOptions) -> Ending | None:
    """What ends a run at its target with this epoch, which counts if it was trained at the size in px at which the
    finished net sees: DAWNBench's rule, or a lower bound (one-sided, 95 %) of the validation accuracy that is at the
    target. The test part is not asked."""
    size = session.classifier.size
    if options.target is None or row["size"] != size:
        return None
    if options.dawn_rule:
        return "dawn-rule" if reaches(row, size, options.target) else None
    part = session.dataset.validation
    is_shown = part is not None and metrics.lower_bound(row["val_acc"], len(part.labels_N)) >= options.target
    return "validation" if is_shown and not session.horizon.is_done(session.step) else None


def evaluated_row(session: Session, run: RunDirectory) -> Row | None:
    """The row of the epoch that ends with the session's last step, if there is one."""
    rows = run.metrics("epoch") if session.step else []
    return rows[-1] if rows and rows[-1]["step"] == session.step else None


def unevaluated(session: Session, run: RunDirectory) -> Row | None:
    """Where the last step of an epoch stood, if the run was stopped after it and before the epoch was evaluated."""
    is_end = session.step % session.loader.steps_per_epoch == 0 or session.horizon.is_done(session.step)
    if not session.step or not is_end or evaluated_row(session, run):
        return None
    for row in run.metrics("step")[-1:]:
        if row["step"] == session.step:
            return {key: value for key, value in row.items() if key != "event"}
    lr, momentum = session.optimizer.set_progress(session.progress)  # time ran out while the run was being resumed
    position = {"step": session.step, "progress": session.progress, "lr": lr, "momentum": momentum}
    return position | {"size": session.loader.size_at(session.progress), "batch_loss": None}


def evaluate_epoch_at(session: Session, stop: StopRequest, position: Mapping[str, Any]) -> Row | None:
    """The row of an epoch that has just ended, or None where a signal came: the run evaluates it when it goes on."""
    with session.watch.timed("evaluate"):
        found = stop.unless_stopped(lambda: evaluate_epoch(session, position["size"]))
    return found and {"event": "epoch", "epoch": epochs_done(session)} | dict(position) | found


def _tell_of_epoch(session: Session, row: Row) -> bool:
    """Show callbacks an epoch's row, which they may extend; returns whether one of them ends training."""
    epoch = Epoch(row)
    for callback in session.extensions.callbacks:
        callback.on_epoch(epoch)
    return epoch.stop


def train_epoch(loop: Loop) -> Row:
    """The steps up to the end of an epoch or of the run; returns where the last one stood."""
    session, stop = loop.session, loop.stop
    steps_per_epoch = session.loader.steps_per_epoch
    while True:
        progress = session.progress
        size = session.loader.size_at(progress)
        step, remark = _step_or_skip(session, progress, loop.options.on_nonfinite)
        session.step += 1
        session.sizes[size] += 1
        is_over = session.horizon.is_done(session.step)  # first, as it leaves off what was no training
        position = {"step": session.step, "progress": session.progress, "lr": step.lr, "momentum": step.momentum}
        position |= {"size": size, "train_seconds": session.watch.seconds("train")} | remark
        is_end = is_over or session.step % steps_per_epoch == 0
        loop.log.add(position, step.loss, progress, is_end)
        if is_end or stop.signal:
            return loop.log.last
        loop.saver.save_if_due()


def _step_or_skip(session: Session, progress: float, on_nonfinite: OnNonfinite) -> tuple[Step, Row]:
    """A step, and why it was skipped if it was."""
    lr, momentum = session.optimizer.set_progress(progress)
    step = Step(session.step, progress, lr, momentum, *session.batch(progress))
    for callback in session.extensions.callbacks:
        callback.before_step(step)
    if step.lr != lr and lr:
        session.optimizer.scale_rates(step.lr / lr)
    try:
        step.loss = train_step(session, step.images_BCHW, step.labels_B)
    except BadStepError as error:
        if on_nonfinite == "stop" or session.skipped + 1 == MAX_SKIPPED:
            raise
        session.skipped += 1
        return step, {"skipped": error.why}
    for callback in session.extensions.callbacks:
        callback.after_step(step)
    return step, {}


def evaluate_epoch(session: Session, size: int) -> dict[str, float]:
    """Loss and accuracy of the net as it now is, without augmentation, at the size it is being trained at: on a fixed
    sample of the training images, and on all of the validation part or, where there is none, of the test part; of that
    one also the mean accuracy over classes. (A mean over the epoch's batches would average over nets that no longer
    exist.)"""
    train = session.dataset.train
    on_maps = session.features is not None and not session.recipe.is_head_only
    sample = spread(len(train.labels_N), OF_FEW if on_maps else TRAIN_SAMPLE)
    name, part = curve_split(session.dataset)
    parts: dict[str, tuple[Split, np.ndarray | slice]] = {"train": (train, sample), name: (part, slice(None))}
    found: dict[str, float] = {}
    for part_name, (split, index_M) in parts.items():
        logits_NK, labels_N = session.logits(part_name, split, index_M, size), split.labels_N[index_M]
        _check_logits(logits_NK, session.step)
        found[f"{part_name}_loss"] = metrics.cross_entropy(logits_NK, labels_N)
        found[f"{part_name}_acc"] = metrics.accuracy(logits_NK, labels_N)
    found[f"{name}_balanced_acc"] = metrics.balanced_accuracy(metrics.confusion_matrix(logits_NK, labels_N))
    return found | {"train_seconds": session.watch.seconds("train")}


def epochs_done(session: Session) -> int | float:
    """Whole epochs; a run over wall-clock time ends within one."""
    epochs, rest = divmod(session.step, session.loader.steps_per_epoch)
    return epochs if rest == 0 else round(session.step / session.loader.steps_per_epoch, 2)


def _check_logits(logits_NK: np.ndarray, step: int) -> None:
    if not np.isfinite(logits_NK).all():
        raise NonFiniteError(f"step {step}", "the net's logits are not finite any more", "a lower schedule.max_lr")
