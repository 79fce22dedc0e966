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
from daybreak.data import Dataset
from daybreak.evaluation.evaluate import evaluate
from daybreak.evaluation.evaluation import Evaluation
from daybreak.explain.cam import check_layers
from daybreak.explain.features import observe, principal_plane
from daybreak.explain.overlay import HEAT
from daybreak.report import figures, run_charts, sections, stages, verdict
from daybreak.report.cards import cards
from daybreak.report.chart import Chart
from daybreak.report.embedding import scatter
from daybreak.report.html import render
from daybreak.report.items import page_data, pick_items
from daybreak.report.matrix import matrix
from daybreak.report.next_step import next_step
from daybreak.runs.classifier import Classifier
from daybreak.runs.curves import PART_NAMES, curve_part
from daybreak.runs.datasets import run_dataset
from daybreak.runs.directory import RunDirectory

SECTIONS = (
    ("verdict", "Verdict"), ("curves", "Accuracy and loss"), ("confusion", "Confusion matrix"),
    ("mistakes", "Mistakes"), ("maps", "Maps"), ("calibration", "Calibration"), ("labels", "Wrong labels"),
    ("duplicates", "Duplicates"), ("features", "Learned features"), ("embeddings", "Embeddings"), ("data", "Data"),
    ("reproduce", "Reproduce"),
)  # fmt: skip
STYLES = ("report.css", "matrix.css", "pictures.css")
SCRIPTS = ("charts.js", "pictures.js", "gallery.js", "scatter.js")
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
    test_NHWC, last = dataset.test.images_NHWC, check_layers(classifier.net, None)[-1]
    seen = observe(classifier, test_NHWC, last)
    plane_N2 = principal_plane(seen.embeddings_ND)
    suspects, duplicates = sections.suspects(run, dataset, evaluation), sections.duplicates(dataset, evaluation)
    calibration, epochs, charts = sections.calibration(evaluation), run.metrics("epoch"), training_charts(run)
    items, left_out = pick_items(evaluation, [s["index"] for s in suspects["test_rows"]], dataset.decode.size)
    draw_figures(run, charts, evaluation, plane_N2)
    methods = stages.methods_of_strips(classifier, seen.peaks_NK.shape[1])
    page = render(
        "report.html",
        STYLES,
        SCRIPTS,
        title=f"{run.summary['recipe']} on {run.summary['dataset']}",
        subtitle=_subtitle(run),
        sections=[row for row in SECTIONS if epochs or row[0] != "curves"],
        verdict=verdict_of(run, evaluation, dataset, suspects, duplicates, calibration["temperature"]),
        cards=cards(evaluation, run.summary),
        summary=run.summary,
        config=run.config,
        command=one_line(shlex.join(run.config["command"])),
        evaluation=evaluation,
        classes=evaluation.classes,
        epochs=epochs,
        part=curve_part(epochs),
        part_name=PART_NAMES[curve_part(epochs)],
        test_curves=run_charts.TEST_CURVES,
        charts=charts,
        matrix=matrix(evaluation),
        left_out=left_out,
        strips=stages.strips(classifier, evaluation, test_NHWC, methods),
        masks="score-cam" in methods.values(),
        chart_of_calibration=run_charts.calibration(metrics.reliability(evaluation.logits_NK, evaluation.labels_N)),
        calibration=calibration,
        coverage=run_charts.coverage(metrics.answered(evaluation.logits_NK, evaluation.labels_N)),
        suspects=suspects,
        duplicates=duplicates,
        views=sections.views(classifier, dataset, evaluation, seen, last),
        embedding=scatter(plane_N2, evaluation, test_NHWC),
        data=sections.described(dataset),
        images=page_data(items, evaluation, classifier, test_NHWC) | _for_maps(classifier),
    )
    return write_text(run.path / "report.html", page)


def verdict_of(
    run: RunDirectory,
    evaluation: Evaluation,
    dataset: Dataset,
    suspects: Mapping[str, Any],
    duplicates: Mapping[str, Any],
    temperature: float,
) -> dict[str, Any]:
    """The findings about a run, those that can be had, and the next step."""
    epochs, confusion_KK, classes = run.metrics("epoch"), evaluation.confusion, evaluation.classes
    part, images, size = curve_part(epochs), len(evaluation.labels_N), dataset.decode.size
    train_K = np.bincount(dataset.train.labels_N, minlength=len(classes))
    held_out = images if part == "test" else len(dataset.validation.labels_N) if dataset.validation else 0
    accuracies = evaluation.accuracy, duplicates["without"]
    leak = bool(duplicates["total"]) and verdict.do_flatter(*accuracies)
    fit = verdict.fit(epochs, part, PART_NAMES[part], held_out)
    found = [
        verdict.accuracy(int(np.trace(confusion_KK)), confusion_KK.sum(1), evaluation.macro_f1),
        fit,
        verdict.weakest(confusion_KK, classes),
        verdict.pair(confusion_KK, classes),
        verdict.calibration(evaluation.logits_NK, evaluation.labels_N, temperature),
        verdict.balance(train_K, classes, evaluation.balanced_accuracy),
        verdict.leaks(duplicates["total"], duplicates["other_label"], images, size, accuracies),
        verdict.labels(len(suspects["test_rows"]), images, suspects["hidden"]),
    ]
    step = next_step(run, fit, leaks=leak, suspects=len(suspects["test_rows"]))
    return {"findings": [finding for finding in found if finding], "next": step}


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


def draw_figures(
    run: RunDirectory, charts: Mapping[str, list[Chart]], evaluation: Evaluation, plane_N2: np.ndarray
) -> None:
    """All figures at paper quality below `figures/`."""
    predicted_N = evaluation.logits_NK.argmax(1)
    made = {
        "confusion": figures.confusion(evaluation.confusion, evaluation.classes),
        "reliability": figures.reliability(metrics.reliability(evaluation.logits_NK, evaluation.labels_N)),
        "embeddings": figures.embeddings(plane_N2, evaluation.labels_N, predicted_N, evaluation.classes),
    }
    made |= {name: figures.draw(some) for name, some in charts.items()}
    for name, figure in made.items():
        write_text(run.path / "figures" / f"{name}.svg", figures.svg(figure))
        figure.set_layout_engine("none")  # found for the first file, it serves for the second
        write_picture(run.path / "figures" / f"{name}.png", figures.png(figure, dpi=200))


def _subtitle(run: RunDirectory) -> str:
    s = run.summary
    ended = f"interrupted after {s['steps']} steps" if s["interrupted"] else s["error"]
    return one_line(run.path.resolve().name) + (f" · {ended}" if ended else "")


def _for_maps(classifier: Classifier) -> dict[str, Any]:
    """What the script needs to draw maps: their colours, and the px in which boxes are given."""
    colours = [[round(255 * c) for c in HEAT(n / (HEAT_STEPS - 1))[:3]] for n in range(HEAT_STEPS)]
    return {"heat": colours, "net_size": classifier.size}
