"""The training loop, in one place: steps, epochs, and the checkpoints between them."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from daybreak.core import metrics
from daybreak.core.config import OnNonfinite
from daybreak.core.errors import BadStepError, NonFiniteError, StorageError
from daybreak.core.events import OnEvent
from daybreak.core.signals import StopRequest
from daybreak.runs.directory import RunDirectory
from daybreak.training.session import Session, spread
from daybreak.training.state import NEVER, Every, Saver
from daybreak.training.step import train_step
from daybreak.training.step_log import StepLog

TRAIN_SAMPLE = 5000  # training images on which accuracy and loss are measured at the end of an epoch
MOST_SKIPPED = 3  # steps that are not finite: at this many the run stops

Row = dict[str, Any]


@dataclass(frozen=True)
class Terms:
    """How a training is to go, besides its recipe.

    Attributes:
        stop_at: the test accuracy that ends training early, under DAWNBench's rule. It counts only at the size at
            which the finished net will see images.
        every: how often to save on the way.
        on_nonfinite: `stop` at a step that is not finite, or `skip` it; the third one stops in any case.
    """

    stop_at: float | None = None
    every: Every = NEVER
    on_nonfinite: OnNonfinite = "stop"


@dataclass(frozen=True)
class Loop:
    """A training under way: the session and those who look on."""

    session: Session
    run: RunDirectory
    stop: StopRequest
    terms: Terms
    log: StepLog
    saver: Saver


def fit(
    session: Session,
    run: RunDirectory,
    stop: StopRequest,
    terms: Terms = Terms(),
    on_event: OnEvent = lambda event: None,
) -> bool:
    """All epochs, or as many steps as there are until a signal asks to stop; then a checkpoint.

    Returns:
        Whether it was `terms.stop_at` that ended training.

    Raises:
        BadStepError: a step was not finite. There is a checkpoint of the state before it.
        NonFiniteError: so is the net by now.
    """
    log = StepLog(session, run, on_event)
    judged = run.metrics("epoch") if session.step else []
    saver = Saver(session, run, log, terms.every, judged[-1]["test_acc"] if judged else None)
    try:
        reached = _epochs(Loop(session, run, stop, terms, log, saver), on_event)
    except BadStepError:
        with suppress(StorageError):  # the worse news is the step
            saver.save()
        raise
    with session.watch.timed("save"):
        saver.save()
    return reached


def _epochs(loop: Loop, on_event: OnEvent) -> bool:
    session, run = loop.session, loop.run
    row, position = judged_row(session, run), unjudged(session, run)
    while True:
        if position:
            row = judge_epoch(session, loop.stop, position)
            if row is None:
                return False
            run.append_metrics(row)
            on_event(row)
            loop.saver.test_acc = row["test_acc"]
        if row and loop.terms.stop_at is not None and reaches(row, session.classifier.size, loop.terms.stop_at):
            return True
        if session.pace.is_done(session.step):
            return False
        with session.watch.timed("train"):
            loop.saver.save_if_due()  # with the epoch's row in it
            position = train_epoch(loop)
        if loop.stop.signal:
            return False


def reaches(row: Mapping[str, Any], size: int, target: float) -> bool:
    """Whether an epoch counts by DAWNBench's rule: good enough, at the size in px at which the finished net sees."""
    return bool(row["size"] == size and row["test_acc"] >= target)


def judged_row(session: Session, run: RunDirectory) -> Row | None:
    """The row of the epoch that ends with the session's last step, if there is one."""
    rows = run.metrics("epoch") if session.step else []
    return rows[-1] if rows and rows[-1]["step"] == session.step else None


def unjudged(session: Session, run: RunDirectory) -> Row | None:
    """Where the last step of an epoch stood, if the run was stopped after it and before the epoch was judged."""
    is_end = session.step % session.loader.steps_per_epoch == 0 or session.pace.is_done(session.step)
    if not session.step or not is_end or judged_row(session, run):
        return None
    for row in run.metrics("step")[-1:]:
        if row["step"] == session.step:
            return {key: value for key, value in row.items() if key != "event"}
    lr, momentum = session.optimizer.set_progress(session.progress)  # time ran out while the run was being resumed
    position = {"step": session.step, "progress": session.progress, "lr": lr, "momentum": momentum}
    return position | {"size": session.loader.size_at(session.progress), "batch_loss": None}


def judge_epoch(session: Session, stop: StopRequest, position: Mapping[str, Any]) -> Row | None:
    """The row of an epoch that has just ended, or None where a signal came: it will be judged when the run goes on."""
    with session.watch.timed("evaluate"):
        judged = stop.unless_stopped(lambda: evaluate_epoch(session, position["size"]))
    return judged and {"event": "epoch", "epoch": epochs_done(session)} | dict(position) | judged


def train_epoch(loop: Loop) -> Row:
    """The steps up to the end of an epoch or of the run; returns where the last one stood."""
    session, stop = loop.session, loop.stop
    steps_per_epoch = session.loader.steps_per_epoch
    while True:
        progress = session.progress
        size = session.loader.size_at(progress)
        lr, momentum = session.optimizer.set_progress(progress)
        loss, remark = _step_or_skip(session, progress, loop.terms.on_nonfinite)
        session.step += 1
        session.sizes[size] += 1
        position = {"step": session.step, "progress": session.progress, "lr": lr, "momentum": momentum, "size": size}
        position |= {"train_seconds": session.watch.seconds("train")} | remark
        is_end = session.step % steps_per_epoch == 0 or session.pace.is_done(session.step)
        loop.log.add(position, loss, progress, is_end)
        if is_end or stop.signal:
            return loop.log.last
        loop.saver.save_if_due()


def _step_or_skip(session: Session, progress: float, on_nonfinite: OnNonfinite) -> tuple[Tensor | None, Row]:
    """The loss of a step, or none and why it was skipped."""
    try:
        return train_step(session, *session.loader.batch(session.step, progress)), {}
    except BadStepError as error:
        if on_nonfinite == "stop" or session.skipped + 1 == MOST_SKIPPED:
            raise
        session.skipped += 1
        return None, {"skipped": error.why}


def evaluate_epoch(session: Session, size: int) -> dict[str, float]:
    """Loss and accuracy of the net as it now is, without augmentation: on a fixed sample of the training images and
    on all test images, at the size it is being trained at. (A mean over the epoch's batches would average over
    nets that no longer exist.)"""
    train, test = session.dataset.train, session.dataset.test
    sample = spread(len(train.labels_N), TRAIN_SAMPLE)
    classifier = replace(session.classifier, size=size)
    train_logits = classifier.logits(train.images_NHWC[sample])
    test_logits = classifier.logits(test.images_NHWC)
    _check_logits(train_logits, session.step)
    _check_logits(test_logits, session.step)
    return {
        "train_loss": metrics.cross_entropy(train_logits, train.labels_N[sample]),
        "train_acc": metrics.accuracy(train_logits, train.labels_N[sample]),
        "test_loss": metrics.cross_entropy(test_logits, test.labels_N),
        "test_acc": metrics.accuracy(test_logits, test.labels_N),
        "train_seconds": session.watch.seconds("train"),
    }


def epochs_done(session: Session) -> int | float:
    """Whole epochs; a run over wall-clock time ends within one."""
    epochs, rest = divmod(session.step, session.loader.steps_per_epoch)
    return epochs if rest == 0 else round(session.step / session.loader.steps_per_epoch, 2)


def _check_logits(logits_NK: np.ndarray, step: int) -> None:
    if not np.isfinite(logits_NK).all():
        raise NonFiniteError(f"step {step}", "the net's logits are not finite any more", "a lower schedule.max_lr")
