"""Training: one visible loop from a recipe and a data set to a run directory.

`train` is the only entrance. What it leaves out: reports and galleries (they work on the finished directory).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from daybreak import metrics
from daybreak.clock import Stopwatch
from daybreak.compilation import compile_net, is_worth_compiling
from daybreak.config import Device, Recipe
from daybreak.data.dataset import Dataset
from daybreak.device import kept_memory, pick_device
from daybreak.errors import NonFiniteError, UsageError
from daybreak.inference import autocast
from daybreak.outcome import config_of, model_card, summary_of
from daybreak.run import Predictions, RunDirectory, predict_test
from daybreak.session import OnEvent, Session, prepare, spread
from daybreak.signals import StopRequest
from daybreak.steplog import StepLog

TRAIN_SAMPLE = 5000  # training images on which accuracy and loss are measured at the end of an epoch


def train(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    *,
    seed: int = 0,
    device: Device = "auto",
    budget: float | None = None,
    target: float | None = None,
    dawn_rule: bool = False,
    watch: Stopwatch | None = None,
    command: Sequence[str] = (),
    on_event: OnEvent = lambda event: None,
) -> RunDirectory:
    """Train a net and leave a run directory behind.

    Args:
        out: the run directory to make; it must not exist or be empty.
        budget: seconds of training, in place of the recipe's epochs: one cycle over wall-clock time.
        target: the accuracy (with the recipe's test-time augmentation) to compare the result with.
        dawn_rule: stop at the first epoch whose test accuracy reaches the target, as DAWNBench counted. The test
            images then choose when to stop; the summary says so.
        watch: a clock that runs already, where choosing the recipe has spent part of the budget.
        command: the command line, for the record.
        on_event: called with every row of metrics as it comes, and with what a progress display needs.

    Returns:
        The finished run. SIGINT or SIGTERM end training after the step in hand; the run is then usable, its
        summary says `"interrupted"`.

    Raises:
        UsageError: the device is missing, or `out` is not empty.
        NonFiniteError: the loss stopped being finite.
        StorageError: the run cannot be written.
    """
    where = pick_device(device)
    with StopRequest() as stop, kept_memory() if where.type == "cpu" else nullcontext():
        session = prepare(recipe, dataset, seed, where, budget=budget, watch=watch)
        if session.pace.is_done(0):
            raise UsageError(f"--budget {budget:g}s", "over before the first step", "a longer budget")
        run = RunDirectory.create(out)  # only now: a recipe that cannot be built leaves no run behind
        run.write_config(config_of(session, budget, target, command))
        on_event({"event": "start", "run": str(run.path), "notes": list(dataset.notes)} | _plan(session))
        if is_worth_compiling(session):
            on_event({"event": "compile"} | compile_net(session))
        by_the_rule = fit(session, run, stop, target if dawn_rule else None, on_event)
        interrupted = stop.signal  # what comes later does not undo a finished training
        run.write_model(session.classifier.net, model_card(session))
        predictions = None if interrupted else judge(session, run)
        summary = summary_of(session, predictions, budget, target, interrupted) | {"dawn_rule": dawn_rule}
        summary |= {"target_met": True} if by_the_rule else {}
        run.write_summary(summary)
    on_event({"event": "end"} | summary)
    return run


def fit(
    session: Session,
    run: RunDirectory,
    stop: StopRequest,
    stop_at: float | None = None,
    on_event: OnEvent = lambda event: None,
) -> bool:
    """All epochs, or as many steps as there are until a signal asks to stop.

    Args:
        stop_at: the test accuracy that ends training early, under DAWNBench's rule. It counts only at the size at
            which the finished net will see images.

    Returns:
        Whether it was `stop_at` that ended training.
    """
    log = StepLog(session, run, on_event)
    while not session.pace.is_done(session.step):
        with session.watch.timed("train"):
            position = train_epoch(session, log, stop)
        if stop.signal:
            return False
        with session.watch.timed("evaluate"):
            judged = evaluate_epoch(session, position["size"])
        row = {"event": "epoch", "epoch": epochs_done(session)} | position | judged
        run.append_metrics(row)
        on_event(row)
        is_full_size = row["size"] == session.classifier.size
        if stop_at is not None and is_full_size and row["test_acc"] >= stop_at:
            return True
    return False


def train_epoch(session: Session, log: StepLog, stop: StopRequest) -> dict[str, Any]:
    """The steps up to the end of an epoch or of the run; returns where the last one stood."""
    steps_per_epoch = session.loader.steps_per_epoch
    while True:
        progress = session.progress
        size = session.loader.size_at(progress)
        lr, momentum = session.optimizer.set_progress(progress)
        loss = train_step(session, *session.loader.batch(session.step, progress))
        session.step += 1
        session.sizes[size] += 1
        position = {"step": session.step, "progress": session.progress, "lr": lr, "momentum": momentum, "size": size}
        position["train_seconds"] = session.watch.seconds("train")
        is_last = session.step % steps_per_epoch == 0 or session.pace.is_done(session.step) or bool(stop.signal)
        log.add(position, loss, progress, is_last)
        if is_last:
            return log.last


def train_step(session: Session, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
    """Forward, backward, update; returns the mean loss over the batch."""
    with autocast(session.device, session.dtype):
        logits = session.forward(images_BCHW)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # bfloat16 is too coarse for a loss
    loss = F.cross_entropy(logits, labels_B, label_smoothing=session.recipe.label_smoothing)
    session.optimizer.zero_grad()
    loss.backward()
    session.optimizer.step()
    if session.ema:
        session.ema.update_parameters(session.net)
    return loss.detach()


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


def judge(session: Session, run: RunDirectory) -> Predictions:
    """Store what the finished net says about the test images."""
    with session.watch.timed("evaluate"):
        predictions = predict_test(session.classifier, session.dataset.test, session.recipe.tta)
    run.write_predictions(predictions)
    return predictions


def epochs_done(session: Session) -> int | float:
    """Whole epochs; a run over wall-clock time ends within one."""
    epochs, rest = divmod(session.step, session.loader.steps_per_epoch)
    return epochs if rest == 0 else round(session.step / session.loader.steps_per_epoch, 2)


def _plan(session: Session) -> dict[str, int | None]:
    return {"epochs": session.pace.epochs, "steps": session.pace.steps}


def _check_logits(logits_NK: np.ndarray, step: int) -> None:
    if not np.isfinite(logits_NK).all():
        raise NonFiniteError(f"step {step}", "the net's logits are not finite any more", "a lower schedule.max_lr")
