"""The contents of the report's sections: plain values and pictures for the template."""

from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from daybreak.core import metrics
from daybreak.data import Dataset
from daybreak.data.dataset import Split
from daybreak.data.duplicates import MIN_CORRELATION, near_duplicates
from daybreak.data.picture import enlarged
from daybreak.data.statistics import mean_and_std
from daybreak.evaluation.evaluation import Evaluation
from daybreak.evaluation.label_errors import suspects as find_suspects
from daybreak.explain.features import Observed, activation_sheets, filter_sheet, grid, top_images
from daybreak.explain.gallery import mistake_maps
from daybreak.explain.maps import ClassMap
from daybreak.explain.overlay import draw_box, field_box, overlay
from daybreak.report.html import data_uri
from daybreak.report.items import drawn_uri, thumbnail
from daybreak.runs.classifier import Classifier
from daybreak.runs.directory import RunDirectory

STRIPS = 8  # mistakes whose maps are in the page itself, to be read without a script
MAP_SIZE = 84  # px
MAX_SHOWN = 24  # suspect labels of each part, and duplicates
REJECTED_BELOW = (0.5, 0.7, 0.8, 0.9, 0.95)  # confidences for which the page says what `predict --reject` would do
EXAMPLES, EXAMPLE_CLASSES = 10, 20  # training images per class, and classes at most
TOP_IMAGE_SIZE = 64  # px


def strips(classifier: Classifier, evaluation: Evaluation, images_NHWC: np.ndarray) -> list[dict[str, Any]]:
    """The most confident mistakes: at every stage the maps for the predicted and the true class, and the receptive
    field of the maximum for the predicted class."""
    wrong = evaluation.mistakes(STRIPS)
    images = np.asarray(images_NHWC[[m.index for m in wrong]])
    maps = mistake_maps(classifier, wrong, images)
    shown = []
    for n, (mistake, image_HWC) in enumerate(zip(wrong, images, strict=True)):
        mine = [m for m in maps if m.image == n]
        predicted, true = mine[: len(mine) // 2], mine[len(mine) // 2 :]
        rows = [
            _row(
                f"predicted: {mistake.predicted}",
                "wrong",
                [_map_cell(m, image_HWC, mistake.predicted) for m in predicted],
            ),
            _row(f"true: {mistake.true}", "right", [_map_cell(m, image_HWC, mistake.true) for m in true]),
            _row(
                "receptive field of the maximum (predicted)",
                "head",
                [_field_cell(m, image_HWC, classifier.size) for m in predicted],
            ),
        ]
        shown.append({"mistake": mistake, "image": data_uri(thumbnail(image_HWC)), "rows": rows})
    return shown


def calibration(evaluation: Evaluation) -> dict[str, Any]:
    logits, labels = evaluation.logits_NK, evaluation.labels_N
    temperature = metrics.fit_temperature(logits, labels)
    error = "overconfident" if temperature > 1 else "underconfident"
    return {
        "temperature": temperature,
        "ece_after": metrics.expected_calibration_error(metrics.cross_fitted(logits, labels), labels),
        "verdict": f"The net is {error}: divide its logits by the temperature."
        if abs(temperature - 1) > 0.05
        else "The net is well calibrated.",
        "rejecting": [_rejecting(metrics.answered(logits, labels), reject) for reject in REJECTED_BELOW],
    }


def _rejecting(found: list[metrics.Answered], reject: float) -> dict[str, float | None]:
    """Coverage and accuracy with `predict --reject`; no accuracy where nothing is answered."""
    kept = [row for row in found if row.confidence >= reject]
    last = kept[-1] if kept else None
    return {"below": reject, "coverage": last.coverage if last else 0.0, "accuracy": last.accuracy if last else None}


def suspects(run: RunDirectory, dataset: Dataset, evaluation: Evaluation) -> dict[str, Any]:
    """Labels that are probably wrong: those that `daybreak suspects` found, or else the test part is searched now."""
    found = run.suspects() or {}
    if "test" not in found:
        found |= {"test": [asdict(s) for s in find_suspects(evaluation.logits_NK, dataset.test, dataset.classes)]}
    splits = {"test": dataset.test, "train": dataset.train}
    parts = [
        (
            part,
            [row | {"picture": _picture_of(splits[part], row["index"])} for row in found[part][:MAX_SHOWN]],
            len(found[part]),
        )
        for part in ("test", "train")
        if part in found
    ]
    return {
        "parts": parts,
        "counts": {part: len(split.labels_N) for part, split in splits.items()},
        "test_rows": found["test"],
        "searched_train": "train" in found,
    }


def duplicates(dataset: Dataset) -> dict[str, Any]:
    found, (train, test), classes = near_duplicates(dataset), (dataset.train, dataset.test), dataset.classes
    rows = [
        asdict(d)
        | {"test": _picture_of(test, d.test), "train": _picture_of(train, d.train)}
        | {"test_file": test.names[d.test], "train_file": train.names[d.train]}
        | {"test_label": classes[test.labels_N[d.test]], "train_label": classes[train.labels_N[d.train]]}
        for d in found[:MAX_SHOWN]
    ]
    other = sum(not d.same_label for d in found)
    return {"rows": rows, "total": len(found), "other_label": other, "min_correlation": MIN_CORRELATION}


def views(
    classifier: Classifier, dataset: Dataset, evaluation: Evaluation, seen: Observed, layer: str
) -> dict[str, Any]:
    """Filters of the first convolution, activations of one image, and the images that activate `layer` most."""
    images_NHWC, filters = dataset.test.images_NHWC, filter_sheet(classifier.net)
    wrong = evaluation.mistakes(1)
    activated = wrong[0].index if wrong else 0
    sheets = activation_sheets(classifier, np.asarray(images_NHWC[activated])) if len(images_NHWC) else {}
    top = [
        {
            "channel": found.channel,
            "classes": ", ".join(dataset.classes[evaluation.labels_N[i]] for i in found.images),
            "picture": data_uri(grid([
                _boxed(np.asarray(images_NHWC[i]), box, classifier.size)
                for i, box in zip(found.images, found.boxes, strict=True)
            ], len(found.images))),
        }
        for found in top_images(classifier, seen, layer)
    ]  # fmt: skip
    return {
        "filters": data_uri(filters) if filters else None,
        "activated": activated,
        "activations": [(name, data_uri(picture)) for name, picture in sheets.items()],
        "layer": layer,
        "top_images": top,
    }


def described(dataset: Dataset) -> dict[str, Any]:
    """Counts, mean and standard deviation, and a few training images of each class."""
    train, test, k = dataset.train, dataset.test, len(dataset.classes)
    mean, std = mean_and_std(train.images_NHWC)
    chosen = [np.flatnonzero(train.labels_N == c)[:EXAMPLES] for c in range(min(k, EXAMPLE_CLASSES))]
    blank = Image.new("RGBA", (40, 40))
    rows = [[enlarged(np.asarray(train.images_NHWC[i]), 40) for i in row] for row in chosen]
    pictures = [picture for row in rows for picture in row + [blank] * (EXAMPLES - len(row))]
    counts = (np.bincount(split.labels_N, minlength=k).tolist() for split in (train, test))
    return {
        "per_class": list(zip(dataset.classes, *counts, strict=True)),
        "train": len(train.labels_N),
        "test": len(test.labels_N),
        "size": dataset.decode.size,
        "mean": ", ".join(f"{v:.3f}" for v in mean),
        "std": ", ".join(f"{v:.3f}" for v in std),
        "examples": drawn_uri(grid(pictures, EXAMPLES)),
    }


def _row(name: str, style: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "style": style, "cells": cells}


def _map_cell(m: ClassMap, image_HWC: np.ndarray, target: str) -> dict[str, Any]:
    if m.is_single_cell:
        return {"picture": None, "words": "1×1: no spatial resolution"}
    if m.is_empty:
        return {"picture": None, "words": "no evidence"}
    picture = drawn_uri(overlay(image_HWC, m.values_HW, MAP_SIZE))
    return {"picture": picture, "words": f"map for {target} at {m.layer}"}


def _field_cell(m: ClassMap, image_HWC: np.ndarray, size: int) -> dict[str, Any]:
    if m.is_empty:
        return {"picture": None, "words": "–"}
    picture = drawn_uri(field_box(m, image_HWC, size, MAP_SIZE))
    side = "size unknown" if m.field is None else f"{m.field.size} px"
    return {"picture": picture, "words": f"receptive field of a cell of {m.layer}, {side}"}


def _picture_of(split: Split, index: int) -> str:
    return data_uri(thumbnail(np.asarray(split.images_NHWC[index])))


def _boxed(image_HWC: np.ndarray, box: tuple[int, int, int, int], net_size: int) -> Image.Image:
    picture, scale = enlarged(image_HWC, TOP_IMAGE_SIZE), TOP_IMAGE_SIZE / net_size
    draw_box(picture, [round(v * scale) for v in box])
    return picture
