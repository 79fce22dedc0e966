"""Training: one visible loop from a recipe and a data set to a run directory.

`train` is the only entrance. What it leaves out: reports and galleries (they work on the finished directory).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from daybreak import metrics
from daybreak.augment import Normalizer, resize
from daybreak.clock import Stopwatch
from daybreak.config import Device, Recipe
from daybreak.data.dataset import Dataset
from daybreak.data.loader import Loader
from daybreak.device import compute_dtype, describe_hardware, peak_memory_bytes, pick_device, synchronizer, versions
from daybreak.errors import NonFiniteError
from daybreak.inference import Classifier, autocast
from daybreak.models import SMALLEST_SIZE, build_net, place
from daybreak.models.sprint import WHITEN_PATCHES, SprintNet
from daybreak.models.trace import count_macs, count_params
from daybreak.optim import ScheduledOptimizer, build_optimizer
from daybreak.run import ModelCard, Predictions, RunDirectory, predict_test
from daybreak.signals import StopRequest

Event = Mapping[str, Any]
OnEvent = Callable[[Event], None]

TRAIN_SAMPLE = 5000  # training images on which accuracy and loss are measured at the end of an epoch
STEP_ROWS = 200  # how many steps of a run leave a row behind
SECONDS_BETWEEN_EVENTS = 1.0  # at most, for a progress display


@dataclass
class Session:
    """What is alive while a net trains."""

    recipe: Recipe
    dataset: Dataset
    seed: int
    device: torch.device
    dtype: torch.dtype
    watch: Stopwatch
    net: nn.Module
    ema: AveragedModel | None
    optimizer: ScheduledOptimizer
    loader: Loader
    classifier: Classifier
    step: int = 0


def train(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    *,
    seed: int = 0,
    device: Device = "auto",
    target: float | None = None,
    command: Sequence[str] = (),
    on_event: OnEvent = lambda event: None,
) -> RunDirectory:
    """Train a net and leave a run directory behind.

    Args:
        out: the run directory to make; it must not exist or be empty.
        target: the accuracy (with the recipe's test-time augmentation) to compare the result with.
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
    begun = time.perf_counter()
    where = pick_device(device)
    with StopRequest() as stop:
        session = prepare(recipe, dataset, seed, where)
        run = RunDirectory.create(out)  # only now: a recipe that cannot be built leaves no run behind
        run.write_config(_config(recipe, dataset, seed, target, where, command))
        loader = session.loader
        notes = list(dataset.notes)
        on_event(
            {"event": "start", "run": str(run.path), "epochs": loader.epochs, "steps": loader.steps, "notes": notes}
        )
        fit(session, run, stop, on_event)
        run.write_model(session.classifier.net, _card(session))
        predictions = None if stop.signal else judge(session, run)
        summary = _summary(session, predictions, target, begun, stop.signal)
        run.write_summary(summary)
    on_event({"event": "end"} | summary)
    return run


def prepare(recipe: Recipe, dataset: Dataset, seed: int, device: torch.device) -> Session:
    """Everything before the first step; on the clock from the moment the training images are read."""
    dtype = compute_dtype(recipe.precision, device)
    net = place(initial_net(recipe, dataset, seed), device)
    size = max(SMALLEST_SIZE, dataset.decode.size)  # smaller images are enlarged
    watch = Stopwatch(synchronizer(device))
    with watch.timed("train"):
        images_NHWC = resize(torch.from_numpy(np.array(dataset.train.images_NHWC)).to(device), size)
        labels_N = torch.from_numpy(np.array(dataset.train.labels_N)).to(device)
        normalize = Normalizer.of(images_NHWC)
        if isinstance(net, SprintNet):
            net.fit_whitening(normalize(images_NHWC[_spread(len(images_NHWC), WHITEN_PATCHES // size**2)]))
        loader = Loader(recipe, images_NHWC, labels_N, normalize, seed, dtype)
        optimizer = build_optimizer(net, recipe, loader.batch_size, dtype)
        ema = _moving_average(net, recipe.ema)
    judged = ema.module if ema else net
    classifier = Classifier(judged, dataset.classes, size, normalize, device, dtype)
    return Session(recipe, dataset, seed, device, dtype, watch, net, ema, optimizer, loader, classifier)


def initial_net(recipe: Recipe, dataset: Dataset, seed: int) -> nn.Module:
    """The net before training; depends on the seed alone and leaves the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_net(recipe.model, len(dataset.classes), dataset.decode.channels)


def fit(session: Session, run: RunDirectory, stop: StopRequest, on_event: OnEvent) -> None:
    """All epochs, or as many steps as there are until a signal asks to stop."""
    for epoch in range(session.loader.epochs):
        with session.watch.timed("train"):
            last = train_epoch(session, run, stop, on_event)
        if stop.signal:
            return
        with session.watch.timed("evaluate"):
            row = {"event": "epoch", "epoch": epoch + 1} | last | evaluate_epoch(session)
        run.append_metrics(row)
        on_event(row)


def train_epoch(session: Session, run: RunDirectory, stop: StopRequest, on_event: OnEvent) -> dict[str, Any]:
    """The steps of one epoch; returns where the last one stood."""
    loader = session.loader
    every, shown = max(1, loader.steps // STEP_ROWS), time.perf_counter()
    row: dict[str, Any] = {}
    for _ in range(loader.steps_per_epoch):
        lr, momentum = session.optimizer.set_progress(session.step / loader.steps)
        loss = train_step(session, *loader.batch(session.step))
        session.step += 1
        is_last = bool(stop.signal) or session.step % loader.steps_per_epoch == 0
        is_row = is_last or session.step % every == 0
        if is_row or time.perf_counter() - shown > SECONDS_BETWEEN_EVENTS:
            shown = time.perf_counter()
            row = _position(session, lr, momentum) | {"batch_loss": _finite(loss, session.step, lr)}
            on_event({"event": "step"} | row | _pace(session))
        if is_row:
            run.append_metrics({"event": "step"} | row)
        if is_last:
            break
    return row


def train_step(session: Session, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
    """Forward, backward, update; returns the mean loss over the batch."""
    with autocast(session.device, session.dtype):
        logits = session.net(images_BCHW)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # bfloat16 is too coarse for a loss
    loss = F.cross_entropy(logits, labels_B, label_smoothing=session.recipe.label_smoothing)
    session.optimizer.zero_grad()
    loss.backward()
    session.optimizer.step()
    if session.ema:
        session.ema.update_parameters(session.net)
    return loss.detach()


def evaluate_epoch(session: Session) -> dict[str, float]:
    """Loss and accuracy of the net as it now is, without augmentation: on a fixed sample of the training images and
    on all test images, at the resolution it is being trained at. (A mean over the epoch's batches would average over
    nets that no longer exist.)"""
    train, test = session.dataset.train, session.dataset.test
    sample = _spread(len(train.labels_N), TRAIN_SAMPLE)
    classifier = replace(session.classifier, size=session.loader.size_at(session.step - 1))
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


def _moving_average(net: nn.Module, decay: float | None) -> AveragedModel | None:
    return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True) if decay else None


def _spread(n: int, at_most: int) -> np.ndarray:
    """Indices evenly spread over n samples; the order of a data set by class then does no harm."""
    return np.linspace(0, n - 1, min(n, at_most)).astype(np.int64)


def _finite(loss: Tensor, step: int, lr: float) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise NonFiniteError(f"step {step}", f"the loss is {value} at learning rate {lr:g}", "a lower schedule.max_lr")
    return value


def _check_logits(logits_NK: np.ndarray, step: int) -> None:
    if not np.isfinite(logits_NK).all():
        raise NonFiniteError(f"step {step}", "the net's logits are not finite any more", "a lower schedule.max_lr")


def _position(session: Session, lr: float, momentum: float) -> dict[str, Any]:
    progress = session.step / session.loader.steps
    return {"step": session.step, "progress": progress, "lr": lr, "momentum": momentum} | {
        "size": session.loader.size_at(session.step - 1),
        "train_seconds": session.watch.seconds("train"),
    }


def _pace(session: Session) -> dict[str, float]:
    """For a progress display: how fast, and the share of the run's work that is done."""
    return {"images_per_second": _images_per_second(session), "work": session.loader.work_done(session.step)}


def _images_per_second(session: Session) -> float:
    return session.step * session.loader.batch_size / max(session.watch.seconds("train"), 1e-9)


def _config(
    recipe: Recipe,
    dataset: Dataset,
    seed: int,
    target: float | None,
    device: torch.device,
    command: Sequence[str],
) -> dict[str, Any]:
    return {
        "recipe": recipe.model_dump(mode="json"),
        "data": _data_config(dataset),
        "seed": seed,
        "target": target,
        "command": list(command),
        "versions": versions(),
        "hardware": describe_hardware(device),
        "compute_dtype": str(compute_dtype(recipe.precision, device)).removeprefix("torch."),
    }


def _data_config(dataset: Dataset) -> dict[str, Any]:
    """What it takes to open the same data again, and to know that it is the same."""
    keys = ("name", "title", "fingerprint", "notes")
    return {"request": asdict(dataset.request)} | {key: getattr(dataset, key) for key in keys}


def _card(session: Session) -> ModelCard:
    classifier, recipe = session.classifier, session.recipe
    mean, std = classifier.normalize.mean, classifier.normalize.std
    decode = session.dataset.decode
    return ModelCard(recipe.model, classifier.classes, classifier.size, decode, mean, std, recipe.precision)


def _summary(
    session: Session, predictions: Predictions | None, target: float | None, begun: float, interrupted: int | None
) -> dict[str, Any]:
    scores: dict[str, Any] = {"test_acc": None, "test_acc_tta": None, "test_loss": None}
    if predictions:
        scores = {
            "test_acc": metrics.accuracy(predictions.logits, predictions.labels),
            "test_acc_tta": metrics.accuracy(predictions.logits_tta, predictions.labels),
            "test_loss": metrics.cross_entropy(predictions.logits, predictions.labels),
        }
    reached = scores["test_acc_tta"]
    target_met = None if target is None or reached is None else bool(reached >= target)
    return scores | {
        "tta": session.recipe.tta,
        "train_seconds": session.watch.seconds("train"),
        "evaluate_seconds": session.watch.seconds("evaluate"),
        "data_seconds": dict(session.dataset.seconds),
        "wall_seconds": time.perf_counter() - begun,
        "epochs": session.step / session.loader.steps_per_epoch,
        "steps": session.step,
        "images_per_second": _images_per_second(session),
        "params": count_params(session.net),
        "train_flops": train_flops(session),
        "peak_rss_bytes": peak_memory_bytes(),
        "device": session.device.type,
        "dataset": session.dataset.title,
        "notes": list(session.dataset.notes),
        "recipe": session.recipe.name,
        "seed": session.seed,
        "target": target,
        "target_met": target_met,
        "interrupted": interrupted,
    }


def train_flops(session: Session) -> int:
    """Floating-point operations of all steps so far: two a multiply-add, the backward pass counted as two forwards."""
    loader, channels = session.loader, session.dataset.decode.channels
    sizes = [loader.size_at(step) for step in range(session.step)]
    net = initial_net(session.recipe, session.dataset, session.seed)  # a copy on the CPU: tracing runs the net
    macs = {size: count_macs(net, size, channels) for size in set(sizes)}
    return 3 * 2 * loader.batch_size * sum(macs[size] for size in sizes)
