"""The contents of the report's sections: plain values and pictures for the template."""

from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from daybreak.core import metrics
from daybreak.data import Dataset
from daybreak.data.advice import SMALLEST_FOR_NEAR_COPIES
from daybreak.data.dataset import Split
from daybreak.data.duplicates import MIN_CORRELATION, Duplicate, near_duplicates
from daybreak.data.picture import enlarged
from daybreak.data.statistics import mean_and_std
from daybreak.evaluation.evaluation import Evaluation
from daybreak.evaluation.label_errors import suspects as find_suspects
from daybreak.explain.features import Observed, activation_sheets, filter_sheet, grid, top_images
from daybreak.explain.overlay import draw_box
from daybreak.report import verdict
from daybreak.report.html import data_uri
from daybreak.report.items import drawn_uri, thumbnail
from daybreak.runs.classifier import Classifier
from daybreak.runs.directory import RunDirectory

NOT_SAID = "suspects.json does not say how often the nets were right that were asked: run daybreak suspects again"
MAX_SHOWN = 24  # suspect labels of each part, and duplicates
REJECTED_BELOW = (0.5, 0.7, 0.8, 0.9, 0.95)  # confidences for which the page says what `predict --reject` would do
EXAMPLES, EXAMPLE_CLASSES = 8, 20  # training images per class, and classes at most
TOP_IMAGE_SIZE = 96  # px
EXAMPLE_SIZE = 48  # px


def calibration(evaluation: Evaluation) -> dict[str, Any]:
    logits, labels = evaluation.logits_NK, evaluation.labels_N
    answered = metrics.answered(logits, labels)
    return {
        "temperature": metrics.fit_temperature(logits, labels),
        "ece_after": metrics.expected_calibration_error(metrics.cross_fitted(logits, labels), labels),
        "rejecting": [_rejecting(answered, reject) for reject in REJECTED_BELOW],
    }


def _rejecting(found: list[metrics.Answered], reject: float) -> dict[str, float | None]:
    """Coverage and accuracy with `predict --reject`; no accuracy where nothing is answered."""
    kept = [row for row in found if row.confidence >= reject]
    last = kept[-1] if kept else None
    return {"below": reject, "coverage": last.coverage if last else 0.0, "accuracy": last.accuracy if last else None}


def suspects(run: RunDirectory, dataset: Dataset, evaluation: Evaluation) -> dict[str, Any]:
    """Labels that are probably wrong: those that `daybreak suspects` found, or else the test part is searched now. None
    of a part are shown where the nets that were asked are too often wrong; `hidden` says so."""
    found = run.suspects() or {}
    parts = [_suspects_of("test", dataset.test, found.get("test"), verdict.mistrust(evaluation.balanced_accuracy))]
    if parts[0]["hidden"] is None and "test" not in found:
        rows = [asdict(s) for s in find_suspects(evaluation.logits_NK, dataset.test, dataset.classes)]
        parts = [_suspects_of("test", dataset.test, rows, None)]
    for key, name, split in (("validation", "validation", dataset.validation), ("train", "training", dataset.train)):
        if key in found and split is not None:
            known = found.get(f"{key}_balanced_acc")
            hidden = NOT_SAID if known is None else verdict.mistrust(known)
            parts.append(_suspects_of(name, split, found[key], hidden))
    test_rows = parts[0]["all"]
    return {"parts": parts, "test_rows": test_rows, "searched_train": "train" in found, "hidden": parts[0]["hidden"]}


def _suspects_of(name: str, split: Split, rows: list[dict[str, Any]] | None, hidden: str | None) -> dict[str, Any]:
    kept = [] if hidden or rows is None else rows
    shown = [row | {"picture": _picture_of(split, row["index"])} for row in kept[:MAX_SHOWN]]
    return {"name": name, "images": len(split.labels_N), "all": kept, "rows": shown, "hidden": hidden}


def duplicates(dataset: Dataset, evaluation: Evaluation) -> dict[str, Any]:
    """Test images that are in the training part, too, and the accuracy without them. Images of a few pixels are alike
    without being of one thing: of these only exact copies count."""
    train, test, classes = dataset.train, dataset.test, dataset.classes
    is_exact = dataset.decode.size < SMALLEST_FOR_NEAR_COPIES
    found = [d for d in near_duplicates(dataset.train, dataset.test) if not is_exact or _is_copy(dataset, d)]
    rows = [
        asdict(d)
        | {"test": _picture_of(test, d.test), "train": _picture_of(train, d.train)}
        | {"test_file": test.names[d.test], "train_file": train.names[d.train]}
        | {"test_label": classes[test.labels_N[d.test]], "train_label": classes[train.labels_N[d.train]]}
        for d in found[:MAX_SHOWN]
    ]
    others_N = np.ones(len(test.labels_N), bool)
    others_N[[d.test for d in found]] = False
    right_N = metrics.correct(evaluation.logits_NK, evaluation.labels_N)
    return {
        "rows": rows,
        "total": len(found),
        "other_label": sum(not d.same_label for d in found),
        "is_exact": is_exact,
        "without": float(right_N[others_N].mean()) if others_N.any() else None,
        "min_correlation": MIN_CORRELATION,
    }


def _is_copy(dataset: Dataset, d: Duplicate) -> bool:
    image_HWC = dataset.test.images_NHWC[d.test]
    image_HWC = image_HWC[:, ::-1] if d.mirrored else image_HWC
    return np.array_equal(image_HWC, dataset.train.images_NHWC[d.train])


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
    """Counts, mean and standard deviation, and a few training images of the first classes."""
    train, test, k = dataset.train, dataset.test, len(dataset.classes)
    mean, std = mean_and_std(train.images_NHWC)
    counts = [np.bincount(split.labels_N, minlength=k).tolist() for split in (train, test)]
    examples = [_examples(train, c) if c < EXAMPLE_CLASSES else None for c in range(k)]
    return {
        "per_class": list(zip(dataset.classes, *counts, examples, strict=True)),
        "train": len(train.labels_N),
        "test": len(test.labels_N),
        "validation": len(dataset.validation.labels_N) if dataset.validation else 0,
        "size": dataset.decode.size,
        "mean": ", ".join(f"{v:.3f}" for v in mean),
        "std": ", ".join(f"{v:.3f}" for v in std),
    }


def _examples(split: Split, label: int) -> str | None:
    index = np.flatnonzero(split.labels_N == label)[:EXAMPLES]
    pictures = [enlarged(np.asarray(split.images_NHWC[i]), EXAMPLE_SIZE) for i in index]
    return drawn_uri(grid(pictures, EXAMPLES)) if pictures else None


def _picture_of(split: Split, index: int) -> str:
    return data_uri(thumbnail(np.asarray(split.images_NHWC[index])))


def _boxed(image_HWC: np.ndarray, box: tuple[int, int, int, int], net_size: int) -> Image.Image:
    picture, scale = enlarged(image_HWC, TOP_IMAGE_SIZE), TOP_IMAGE_SIZE / net_size
    draw_box(picture, [round(v * scale) for v in box])
    return picture
