"""The page about two runs or more."""

from pathlib import Path
from typing import Any

import numpy as np

from daybreak.core.errors import DataError, RunError
from daybreak.core.files import write_text
from daybreak.data import Dataset
from daybreak.evaluation.compare import Comparison, Pair
from daybreak.report.chart import Chart, Line
from daybreak.report.html import render
from daybreak.report.items import data_uri, thumbnail
from daybreak.runs.datasets import run_dataset

SHOWN = 32  # images of each kind
CHANCE = 0.05


def write_comparison(found: Comparison, path: str | Path) -> Path:
    """Write the comparison as one HTML file.

    Raises:
        StorageError: it cannot be written.
    """
    dataset = _images_of(found)
    page = render(
        "compare.html",
        title="Runs compared",
        subtitle=", ".join(found.labels),
        rows=[_row(found, n) for n in range(len(found.runs))],
        pairs=[_pair(found, pair, dataset) for pair in found.pairs],
        charts=_charts(found),
        differences=found.differences,
    )
    return write_text(path, page)


def _images_of(found: Comparison) -> Dataset | None:
    """The first run's data; a comparison is worth having without pictures too."""
    try:
        return run_dataset(found.runs[0]) if found.pairs else None
    except (DataError, RunError):
        return None


def _row(found: Comparison, n: int) -> dict[str, Any]:
    summary, judged = found.runs[n].summary, found.judged[n]
    return {
        "label": found.labels[n],
        "recipe": summary["recipe"],
        "seed": summary["seed"],
        "accuracy": judged.accuracy,
        "tta": summary["test_acc_tta"],
        "seconds": summary["train_seconds"],
        "epochs": summary["epochs"],
        "ece": judged.ece,
    }


def _pair(found: Comparison, pair: Pair, dataset: Dataset | None) -> dict[str, Any]:
    first, other = found.labels[0], found.labels[pair.other]
    better = first if pair.test.only_first > pair.test.only_second else other
    says = f"{better} is better." if pair.test.p_value < CHANCE else "That is well within chance."
    galleries = [
        (first, len(pair.only_first), _gallery(found, pair.only_first, pair.other, dataset)),
        (other, len(pair.only_other), _gallery(found, pair.only_other, 0, dataset)),
    ]
    return {"first": first, "other": other, "test": pair.test, "says": says, "galleries": galleries}


def _gallery(found: Comparison, indices: tuple[int, ...], wrong: int, dataset: Dataset | None) -> list[dict[str, Any]]:
    """Images that one run gets right, with what the wrong one says of them."""
    if dataset is None:
        return []
    judged = found.judged[wrong]
    return [
        {
            "index": i,
            "picture": data_uri(thumbnail(np.asarray(dataset.test.images_NHWC[i]))),
            "true": judged.classes[judged.labels_N[i]],
            "said": judged.classes[int(judged.logits_NK[i].argmax())],
            "file": str(judged.predictions.names[i]),
        }
        for i in indices[:SHOWN]
    ]


def _charts(found: Comparison) -> list[Chart]:
    """Test accuracy over seconds of training, which is what runs of other lengths can be compared by, and the loss."""
    histories = [run.metrics("epoch") for run in found.runs]
    if not any(histories):
        return []

    def over_time(title: str, key: str, unit: str, factor: float) -> Chart:
        lines = [
            Line(label, f"r{n % 10}", [(row["train_seconds"], factor * row[key]) for row in rows])
            for n, (label, rows) in enumerate(zip(found.labels, histories, strict=True))
        ]
        return Chart(title, "seconds of training", unit, lines)

    return [
        over_time("test accuracy", "test_acc", "test accuracy, %", 100),
        over_time("test loss", "test_loss", "test loss, nats", 1),
    ]
