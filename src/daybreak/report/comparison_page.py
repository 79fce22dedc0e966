"""The page that compares two or more runs."""

from pathlib import Path
from typing import Any

import numpy as np

from daybreak.core.errors import DataError, RunError
from daybreak.core.files import write_text
from daybreak.data import Dataset
from daybreak.evaluation.compare import Comparison, Pair
from daybreak.report import run_charts
from daybreak.report.html import data_uri, render
from daybreak.report.items import thumbnail
from daybreak.runs.curves import curve_part
from daybreak.runs.datasets import run_dataset

SHOWN = 32  # images of each kind


def write_comparison(found: Comparison, path: str | Path) -> Path:
    """Write the comparison as one HTML file.

    Raises:
        StorageError: it cannot be written.
    """
    dataset, histories = _images_of(found), [run.metrics("epoch") for run in found.runs]
    page = render(
        "compare.html",
        ("pictures.css",),
        ("charts.js",),
        title="Runs compared",
        subtitle=", ".join(found.labels),
        rows=[_row(found, n) for n in range(len(found.runs))],
        pairs=[_pair(found, pair, dataset) for pair in found.pairs],
        charts=run_charts.compared(found.labels, histories),
        without_validation=[
            label for label, rows in zip(found.labels, histories, strict=True) if rows and curve_part(rows) == "test"
        ],
        test_curves=run_charts.TEST_CURVES,
        differences=found.differences,
    )
    return write_text(path, page)


def _images_of(found: Comparison) -> Dataset | None:
    """The first run's data; None if it cannot be read: the page then has no pictures."""
    try:
        return run_dataset(found.runs[0]) if found.pairs else None
    except (DataError, RunError):
        return None


def _row(found: Comparison, n: int) -> dict[str, Any]:
    summary, evaluation = found.runs[n].summary, found.evaluations[n]
    return {
        "label": found.labels[n],
        "recipe": summary["recipe"],
        "seed": summary["seed"],
        "accuracy": evaluation.accuracy,
        "tta": summary["test_acc_tta"],
        "seconds": summary["train_seconds"],
        "epochs": summary["epochs"],
        "ece": evaluation.ece,
    }


def _pair(found: Comparison, pair: Pair, dataset: Dataset | None) -> dict[str, Any]:
    first, other = found.labels[0], found.labels[pair.other]
    galleries = [
        (first, len(pair.only_first), _gallery(found, pair.only_first, pair.other, dataset)),
        (other, len(pair.only_other), _gallery(found, pair.only_other, 0, dataset)),
    ]
    return {"first": first, "other": other, "test": pair.test, "verdict": found.verdict(pair), "galleries": galleries}


def _gallery(found: Comparison, indices: tuple[int, ...], wrong: int, dataset: Dataset | None) -> list[dict[str, Any]]:
    """Images that one run gets right, with the wrong prediction of the other."""
    if dataset is None:
        return []
    evaluation = found.evaluations[wrong]
    return [
        {
            "index": i,
            "picture": data_uri(thumbnail(np.asarray(dataset.test.images_NHWC[i]))),
            "true": evaluation.classes[evaluation.labels_N[i]],
            "predicted": evaluation.classes[int(evaluation.logits_NK[i].argmax())],
            "file": str(evaluation.predictions.names[i]),
        }
        for i in indices[:SHOWN]
    ]
