"""What a run says about itself: its configuration before training, its card and summary after."""

from dataclasses import asdict
from typing import Any

from daybreak.core import metrics
from daybreak.core.device import describe_hardware, peak_memory_bytes, versions
from daybreak.core.fanout import workers_here
from daybreak.core.options import TrainOptions
from daybreak.data.dataset import Dataset
from daybreak.models.anatomy.trace import count_params
from daybreak.runs.card import ModelCard
from daybreak.runs.predictions import Predictions
from daybreak.training.flops import train_flops
from daybreak.training.loop import Ending, epochs_done
from daybreak.training.session import Session
from daybreak.training.step_log import images_per_second

FORMAT = 2  # of config.json; 1 was written by 0.1.0, which had no "options"
ASKED = ("budget", "target", "dawn_rule", "on_nonfinite", "deterministic", "keep")  # options that a result depends on


def config_of(session: Session, options: TrainOptions) -> dict[str, Any]:
    """config.json: what it takes to train the same net again."""
    return {
        "format": FORMAT,
        "recipe": session.recipe.model_dump(mode="json", exclude={"expected"}),
        "options": options.as_json(),
        "data": _data_config(session.dataset),
        "seed": session.seed,
        "command": options.command(),
        "versions": versions(),
        "hardware": describe_hardware(session.device),
        "compute_dtype": str(session.dtype).removeprefix("torch."),
        "convolutions": session.convolutions.as_json(),
    }


def model_card(session: Session) -> ModelCard:
    """model.json of the net as it now is."""
    classifier, recipe = session.classifier, session.recipe
    mean, std = classifier.normalize.mean, classifier.normalize.std
    decode = session.dataset.decode
    return ModelCard(recipe.model, classifier.classes, classifier.size, decode, mean, std, recipe.precision)


def summary_of(
    session: Session,
    options: TrainOptions,
    predictions: Predictions | None = None,
    *,
    val_acc: float | None = None,
    interrupted: int | None = None,
    ending: Ending | None = None,
    error: str | None = None,
    weights_of_step: int | None = None,
) -> dict[str, Any]:
    """summary.json.

    Args:
        val_acc: one view, of the weights that the run ends with; None without a validation part.
        interrupted: the signal that ended the run.
        ending: what ended it at the target, before its cycle did.
        error: what ended it, where something was not finite.
        weights_of_step: whose weights the run ended with, where they are not those of the last step.
    """
    scores = _scores(predictions, session.dataset.classes, val_acc)
    reached = scores["test_acc_tta"]
    seconds = session.watch.seconds("train")
    if error is None:  # (after one the others may be gone)
        seconds = session.team.longest(seconds)
    met = None if options.target is None or reached is None else bool(reached >= options.target)
    return (
        scores
        | {name: getattr(options, name) for name in ASKED}
        | {
            "tta": session.recipe.tta,
            "balance": session.recipe.balance,
            "features": session.features and session.features.as_json(),
            "train_seconds": seconds,
            "features_seconds": session.watch.seconds("features"),
            "compile_seconds": session.watch.seconds("compile"),
            "evaluate_seconds": session.watch.seconds("evaluate"),
            "final_evaluate_seconds": session.watch.seconds("final"),
            "paused_seconds": session.watch.seconds("paused"),
            "data_seconds": dict(session.dataset.seconds),
            "wall_seconds": session.watch.wall(),
            "epochs": session.step / session.loader.steps_per_epoch,
            "steps": session.step,
            "weights_of_step": session.step if weights_of_step is None else weights_of_step,
            "curves_show": "test" if session.dataset.validation is None else "validation",
            "skipped_steps": session.skipped,
            "images_per_second": images_per_second(session),
            "params": count_params(session.net),
            "train_flops": train_flops(session),
            "peak_rss_bytes": peak_memory_bytes(),
            "device": session.device.type,
            "processes": session.team.size,
            "shared_machine": workers_here() > 1,
            "dataset": session.dataset.title,
            "notes": [
                *session.dataset.notes,
                *_pause(session),
                *_found(session),
                *over_budget(session, options),
                *_ended(session, options, ending),
            ],
            "ended_by": ending,
            "recipe": session.recipe.name,
            "seed": session.seed,
            "target_met": ending == "dawn-rule" or met,
            "interrupted": interrupted,
            "error": error,
        }
    )


def _found(session: Session) -> list[str]:
    found = session.features.found if session.features else 0
    return ["features that were there were used: computing them is not in train_seconds"] if found else []


def over_budget(session: Session, options: TrainOptions) -> list[str]:
    """That the features alone took longer than the budget, as a note. One view is always computed whole."""
    seconds = session.watch.seconds("features")
    if session.features is None or options.budget is None or seconds <= options.budget:
        return []
    why = f"computing features took {seconds:.0f} s, longer than the budget of {options.budget:g} s"
    return [f"{why}; they are kept, so another run on these photos does not need to"]


def ended_at_target(session: Session, options: TrainOptions) -> str:
    """That a run has ended because the validation part says that it has reached its target."""
    return (
        f"training ended after {epochs_done(session):g} epochs, at its target: the lower bound of the validation "
        f"accuracy (one-sided, 95 %) is {options.target:.2%} or more"
    )


def _ended(session: Session, options: TrainOptions, ending: Ending | None) -> list[str]:
    return [ended_at_target(session, options)] if ending == "validation" else []


def _pause(session: Session) -> list[str]:
    seconds = session.watch.seconds("paused")
    return [f"training stood still for {seconds:.0f} s, which the budget leaves off"] if seconds else []


SCORES = ("val_acc", "test_acc", "test_acc_tta", "test_loss", "balanced_acc", "macro_f1", "recall")


def _scores(predictions: Predictions | None, classes: tuple[str, ...], val_acc: float | None) -> dict[str, Any]:
    """The figures of the finished net; those over classes are with its test-time augmentation."""
    if predictions is None:
        return dict.fromkeys(SCORES)
    confusion_KK = metrics.confusion_matrix(predictions.logits_tta, predictions.labels)
    found = (
        val_acc,
        metrics.accuracy(predictions.logits, predictions.labels),
        metrics.accuracy(predictions.logits_tta, predictions.labels),
        metrics.cross_entropy(predictions.logits, predictions.labels),
        metrics.balanced_accuracy(confusion_KK),
        metrics.macro_f1(confusion_KK),
        {score.name: score.recall for score in metrics.per_class(confusion_KK, classes)},
    )
    return dict(zip(SCORES, found, strict=True))


def _data_config(dataset: Dataset) -> dict[str, Any]:
    """What it takes to open the same data again, and to know that it is the same."""
    keys = ("name", "title", "fingerprint", "notes")
    return {"request": asdict(dataset.request)} | {key: getattr(dataset, key) for key in keys}
