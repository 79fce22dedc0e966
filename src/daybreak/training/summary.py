"""What a run says about itself: its configuration before training, its card and summary after."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from daybreak.core import metrics
from daybreak.core.config import OnNonfinite
from daybreak.core.device import describe_hardware, peak_memory_bytes, versions
from daybreak.data.dataset import Dataset
from daybreak.models.anatomy.trace import count_params
from daybreak.runs.directory import ModelCard
from daybreak.runs.predictions import Predictions
from daybreak.training.session import Session, train_flops
from daybreak.training.step_log import images_per_second


@dataclass(frozen=True)
class Order:
    """What was asked of a run besides its recipe.

    Attributes:
        budget: seconds of training, in place of the recipe's epochs: one cycle over wall-clock time.
        target: the accuracy (with the recipe's test-time augmentation) to compare the result with.
        dawn_rule: stop at the first epoch whose test accuracy reaches the target, as DAWNBench counted. The test
            images then choose when to stop; the summary says so.
        on_nonfinite: what a loss or gradient that is not finite does to the run.
        deterministic: only algorithms that give the same bits each time.
    """

    budget: float | None = None
    target: float | None = None
    dawn_rule: bool = False
    on_nonfinite: OnNonfinite = "stop"
    deterministic: bool = False


def config_of(session: Session, order: Order, command: Sequence[str]) -> dict[str, Any]:
    """config.json: what it takes to train the same net again."""
    return {
        "recipe": session.recipe.model_dump(mode="json", exclude={"expected"}),
        "data": _data_config(session.dataset),
        "seed": session.seed,
        "command": list(command),
        "versions": versions(),
        "hardware": describe_hardware(session.device),
        "compute_dtype": str(session.dtype).removeprefix("torch."),
    } | vars(order)


def model_card(session: Session) -> ModelCard:
    """model.json of the net as it now is."""
    classifier, recipe = session.classifier, session.recipe
    mean, std = classifier.normalize.mean, classifier.normalize.std
    decode = session.dataset.decode
    return ModelCard(recipe.model, classifier.classes, classifier.size, decode, mean, std, recipe.precision)


def summary_of(
    session: Session,
    order: Order,
    predictions: Predictions | None = None,
    *,
    interrupted: int | None = None,
    by_the_rule: bool = False,
    error: str | None = None,
) -> dict[str, Any]:
    """summary.json.

    Args:
        interrupted: the signal that ended the run.
        by_the_rule: DAWNBench's rule ended it, at the target.
        error: what ended it, where something was not finite.
    """
    scores = _scores(predictions)
    reached = scores["test_acc_tta"]
    met = None if order.target is None or reached is None else bool(reached >= order.target)
    return (
        scores
        | vars(order)
        | {
            "tta": session.recipe.tta,
            "train_seconds": session.watch.seconds("train"),
            "compile_seconds": session.watch.seconds("compile"),
            "evaluate_seconds": session.watch.seconds("evaluate"),
            "data_seconds": dict(session.dataset.seconds),
            "wall_seconds": session.watch.wall(),
            "epochs": session.step / session.loader.steps_per_epoch,
            "steps": session.step,
            "skipped_steps": session.skipped,
            "images_per_second": images_per_second(session),
            "params": count_params(session.net),
            "train_flops": train_flops(session),
            "peak_rss_bytes": peak_memory_bytes(),
            "device": session.device.type,
            "dataset": session.dataset.title,
            "notes": list(session.dataset.notes),
            "recipe": session.recipe.name,
            "seed": session.seed,
            "target_met": by_the_rule or met,
            "interrupted": interrupted,
            "error": error,
        }
    )


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
