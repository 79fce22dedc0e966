"""The report: one self-contained HTML file about a run, and its figures as SVG and PNG. Loads nothing from anywhere."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.core import metrics
from daybreak.core.config import Device
from daybreak.core.errors import one_line
from daybreak.core.files import write_picture, write_text
from daybreak.evaluation.evaluate import evaluate
from daybreak.evaluation.evaluation import Evaluation
from daybreak.explain.cam import check_layers
from daybreak.explain.features import Observed, observe, principal_plane
from daybreak.explain.overlay import HEAT
from daybreak.models.registry import stages_of
from daybreak.report import figures, run_charts, sections
from daybreak.report.chart import Chart
from daybreak.report.html import data_uri, render
from daybreak.report.items import page_data, pick_items
from daybreak.runs.classifier import Classifier
from daybreak.runs.curves import PART_NAMES, curve_part
from daybreak.runs.datasets import run_dataset
from daybreak.runs.directory import RunDirectory

SECTIONS = (
    ("curves", "curves"), ("confusion", "confusion"), ("mistakes", "mistakes"), ("maps", "maps"),
    ("calibration", "calibration"), ("labels", "labels"), ("duplicates", "duplicates"), ("features", "features"),
    ("data", "data"), ("reproduce", "reproduce"),
)  # fmt: skip
LARGEST_MATRIX = 20  # classes
HEAT_STEPS = 32


def write_report(run: RunDirectory, *, data: str | Path | None = None, device: Device = "auto") -> Path:
    """Write `report.html` and `figures/*.svg` and `*.png` into the run directory.

    Args:
        data: where the run's data is now, if it has moved.

    Raises:
        DataError: the run's data is gone or has changed, so its images cannot be shown.
        RunError: the run cannot be used.
    """
    evaluation = evaluate(run, tta="none", device=device, moved_to=data)
    dataset, classifier = run_dataset(run, data), run.classifier(device)
    last = check_layers(classifier.net, None)[-1]
    seen = observe(classifier, dataset.test.images_NHWC, last)
    suspects = sections.suspects(run, dataset, evaluation)
    items, left_out = pick_items(evaluation, [s["index"] for s in suspects["test_rows"]], dataset.decode.size)
    epochs, charts = run.metrics("epoch"), training_charts(run)
    bins = metrics.reliability(evaluation.logits_NK, evaluation.labels_N)
    page = render(
        "report.html",
        title=f"{run.summary['recipe']} on {run.summary['dataset']}",
        subtitle=_subtitle(run),
        sections=SECTIONS if epochs else SECTIONS[1:],
        summary=run.summary,
        config=run.config,
        command=one_line(shlex.join(run.config["command"])),
        evaluation=evaluation,
        classes=evaluation.classes,
        top_5=metrics.top_k_accuracy(evaluation.logits_NK, evaluation.labels_N, 5)
        if len(evaluation.classes) > 5
        else None,
        epochs=epochs,
        part=curve_part(epochs),
        part_name=PART_NAMES[curve_part(epochs)],
        test_curves=run_charts.TEST_CURVES,
        charts=charts,
        matrix=matrix(evaluation),
        left_out=left_out,
        strips=sections.strips(classifier, evaluation, dataset.test.images_NHWC),
        stages=list(stages_of(classifier.net)),
        charts_of_calibration=run_charts.calibration(bins),
        calibration=sections.calibration(evaluation),
        coverage=run_charts.coverage(metrics.answered(evaluation.logits_NK, evaluation.labels_N)),
        suspects=suspects,
        duplicates=sections.duplicates(dataset),
        views=sections.views(classifier, dataset, evaluation, seen, last),
        figures=draw_figures(run, charts, evaluation, seen),
        data=sections.described(dataset),
        images=page_data(items, evaluation, classifier, dataset.test.images_NHWC) | _for_maps(classifier),
    )
    return write_text(run.path / "report.html", page)


def training_charts(run: RunDirectory) -> dict[str, list[Chart]]:
    """The charts over training by figure name; none where the run has no epochs."""
    epochs = run.metrics("epoch")
    if not epochs:
        return {}
    steps_per_epoch = run.summary["steps"] / run.summary["epochs"]
    return {
        "curves": run_charts.accuracy_and_loss(epochs),
        "schedule": run_charts.schedule(run.metrics("step"), steps_per_epoch),
    }


def matrix(evaluation: Evaluation) -> dict[str, Any]:
    """The confusion matrix for the page: of the classes with the most mistakes, where there are many."""
    counts_KK = evaluation.confusion
    k = len(counts_KK)
    wrong_K = counts_KK.sum(0) + counts_KK.sum(1) - 2 * np.diag(counts_KK)
    rows = sorted(np.argsort(-wrong_K, kind="stable")[:LARGEST_MATRIX].tolist())
    share_KK = counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
    shade_KK = np.ceil(10 * share_KK).astype(int)
    cells = [[{"count": int(counts_KK[t, p]), "shade": int(shade_KK[t, p])} for p in range(k)] for t in range(k)]
    return {"rows": rows, "cells": cells, "left_out": k - len(rows)}


def draw_figures(
    run: RunDirectory, charts: Mapping[str, list[Chart]], evaluation: Evaluation, seen: Observed
) -> dict[str, str]:
    """All figures at paper quality below `figures/`; returns those that the page shows, as data URIs."""
    predicted_N = evaluation.logits_NK.argmax(1)
    plane_N2 = principal_plane(seen.embeddings_ND)
    made = {
        "confusion": figures.confusion(evaluation.confusion, evaluation.classes),
        "reliability": figures.reliability(metrics.reliability(evaluation.logits_NK, evaluation.labels_N)),
        "embeddings": figures.embeddings(plane_N2, evaluation.labels_N, predicted_N, evaluation.classes),
    }
    made |= {name: figures.draw(some) for name, some in charts.items()}
    for name, figure in made.items():
        write_text(run.path / "figures" / f"{name}.svg", figures.svg(figure))
        write_picture(run.path / "figures" / f"{name}.png", figures.png(figure, dpi=200))
    return {"embeddings": data_uri(figures.png(made["embeddings"], dpi=110))}


def _subtitle(run: RunDirectory) -> str:
    s = run.summary
    ended = f"interrupted after {s['steps']} steps" if s["interrupted"] else s["error"]
    return one_line(run.path.resolve().name) + (f" · {ended}" if ended else "")


def _for_maps(classifier: Classifier) -> dict[str, Any]:
    """What the script needs to draw maps: their colours, and the px in which boxes are given."""
    colours = [[round(255 * c) for c in HEAT(n / (HEAT_STEPS - 1))[:3]] for n in range(HEAT_STEPS)]
    return {"heat": colours, "net_size": classifier.size}
