"""The cards at the top of the report: six or eight numbers, so that they fill their rows at every width."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from daybreak.core import metrics
from daybreak.evaluation.evaluation import Evaluation
from daybreak.report.verdict import percent


@dataclass(frozen=True)
class Card:
    value: str
    label: str
    level: str = ""  # "good" or "warning"


def cards(evaluation: Evaluation, summary: Mapping[str, Any]) -> list[Card]:
    """Quality first. Where optional ones leave a gap, the number of epochs fills it; where they are too many, the last
    ones go."""
    images = len(evaluation.labels_N)
    quality = [
        Card(percent(evaluation.accuracy, 2), f"test accuracy, {images:,} image{'' if images == 1 else 's'}"),
        *_optional(evaluation, summary),
        Card(percent(evaluation.macro_f1, 2), "macro-F1"),
        Card(percent(evaluation.ece, 2), "calibration error (ECE)"),
    ]
    found = [
        *quality,
        Card(f"{summary['train_seconds']:,.1f} s", "training time"),
        Card(_params(summary["params"]), "parameters"),
        Card(f"{summary['images_per_second']:,.0f}", "training images per second"),
    ]
    if len(found) == 7:
        found.append(Card(f"{summary['epochs']:g}", "epochs"))
    return found[:8]


def _optional(evaluation: Evaluation, summary: Mapping[str, Any]) -> list[Card]:
    found = []
    if summary["test_acc_tta"] is not None and summary["tta"] != "none":
        views = replace(evaluation, tta=summary["tta"]).views
        found.append(Card(percent(summary["test_acc_tta"], 2), f"averaged over {views} views"))
    if not evaluation.is_even:
        found.append(Card(percent(evaluation.balanced_accuracy, 2), "balanced accuracy"))
    if len(evaluation.classes) > 5:
        top_5 = metrics.top_k_accuracy(evaluation.logits_NK, evaluation.labels_N, 5)
        found.append(Card(percent(top_5, 2), "among the first five"))
    if summary["target_met"] is not None:
        met = bool(summary["target_met"])
        label = f"target of {percent(summary['target'], 2)}"
        found.insert(0, Card("reached" if met else "missed", label, "good" if met else "warning"))
    return found


def _params(count: int) -> str:
    return f"{count:,}" if count < 1e5 else f"{count / 1e6:.2f} M"
