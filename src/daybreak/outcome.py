"""What a run says about itself: its configuration before training, its card and summary after."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from daybreak import metrics
from daybreak.data.dataset import Dataset
from daybreak.device import describe_hardware, peak_memory_bytes, versions
from daybreak.models.trace import count_params
from daybreak.run import ModelCard, Predictions
from daybreak.session import Session, train_flops
from daybreak.steplog import images_per_second


def config_of(session: Session, budget: float | None, target: float | None, command: Sequence[str]) -> dict[str, Any]:
    """config.json: what it takes to train the same net again."""
    return {
        "recipe": session.recipe.model_dump(mode="json", exclude={"expected"}),
        "data": _data_config(session.dataset),
        "seed": session.seed,
        "budget": budget,
        "target": target,
        "command": list(command),
        "versions": versions(),
        "hardware": describe_hardware(session.device),
        "compute_dtype": str(session.dtype).removeprefix("torch."),
    }


def model_card(session: Session) -> ModelCard:
    """model.json of the net as it now is."""
    classifier, recipe = session.classifier, session.recipe
    mean, std = classifier.normalize.mean, classifier.normalize.std
    decode = session.dataset.decode
    return ModelCard(recipe.model, classifier.classes, classifier.size, decode, mean, std, recipe.precision)


def summary_of(
    session: Session,
    predictions: Predictions | None,
    budget: float | None,
    target: float | None,
    interrupted: int | None,
) -> dict[str, Any]:
    """summary.json."""
    scores = _scores(predictions)
    reached = scores["test_acc_tta"]
    target_met = None if target is None or reached is None else bool(reached >= target)
    return scores | {
        "tta": session.recipe.tta,
        "train_seconds": session.watch.seconds("train"),
        "compile_seconds": session.watch.seconds("compile"),
        "evaluate_seconds": session.watch.seconds("evaluate"),
        "data_seconds": dict(session.dataset.seconds),
        "wall_seconds": session.watch.wall(),
        "epochs": session.step / session.loader.steps_per_epoch,
        "steps": session.step,
        "images_per_second": images_per_second(session),
        "params": count_params(session.net),
        "train_flops": train_flops(session),
        "peak_rss_bytes": peak_memory_bytes(),
        "device": session.device.type,
        "dataset": session.dataset.title,
        "notes": list(session.dataset.notes),
        "recipe": session.recipe.name,
        "seed": session.seed,
        "budget": budget,
        "target": target,
        "target_met": target_met,
        "interrupted": interrupted,
    }


def _scores(predictions: Predictions | None) -> dict[str, Any]:
    if predictions is None:
        return {"test_acc": None, "test_acc_tta": None, "test_loss": None}
    return {
        "test_acc": metrics.accuracy(predictions.logits, predictions.labels),
        "test_acc_tta": metrics.accuracy(predictions.logits_tta, predictions.labels),
        "test_loss": metrics.cross_entropy(predictions.logits, predictions.labels),
    }


def _data_config(dataset: Dataset) -> dict[str, Any]:
    """What it takes to open the same data again, and to know that it is the same."""
    keys = ("name", "title", "fingerprint", "notes")
    return {"request": asdict(dataset.request)} | {key: getattr(dataset, key) for key in keys}
