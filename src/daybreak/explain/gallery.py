"""Class activation maps drawn over their images, as PNG files in the run directory."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.core.config import Device
from daybreak.core.files import write_picture
from daybreak.evaluation.evaluate import evaluate
from daybreak.evaluation.evaluation import Mistake
from daybreak.evaluation.files import find_images, read_images
from daybreak.explain.maps import ClassMap, MapOptions, class_numbers, explain
from daybreak.explain.overlay import overlay
from daybreak.explain.sheet import FOLDER, SHEET, contact_sheet
from daybreak.runs.classifier import Classifier
from daybreak.runs.datasets import run_dataset
from daybreak.runs.directory import RunDirectory

MAP_SIZE = 256  # px
MAX_NAME = 60  # characters

# "file", "layer", "method", "class", "path" (None for a map of one cell), "index" for test images, and "note" for a map
# that cannot be read without one.
Row = dict[str, Any]


def draw_mistakes(
    run: RunDirectory,
    n: int,
    options: MapOptions = MapOptions(),
    data: str | Path | None = None,
    device: Device = "auto",
    between: Sequence[str] = (),
) -> list[Row]:
    """Maps of the `n` most confident mistakes, for `options.target` or else the predicted and the true class.

    Args:
        between: two classes, of which one was taken for the other.
    """
    wrong = evaluate(run, tta="none", device=device, moved_to=data).mistakes(n, between)
    images_NHWC = np.asarray(run_dataset(run, data).test.images_NHWC[[m.index for m in wrong]])
    maps = mistake_maps(run.classifier(device), wrong, images_NHWC, options)
    facts = [{"index": m.index, "file": m.file} for m in wrong]
    titles = [f"test image {m.index}: {m.true}, taken for {m.predicted} ({m.confidence:.0%})" for m in wrong]
    return draw(run, maps, images_NHWC, facts, [f"test-{m.index}" for m in wrong], options, titles)


def mistake_maps(
    classifier: Classifier, wrong: Sequence[Mistake], images_NHWC: np.ndarray, options: MapOptions = MapOptions()
) -> list[ClassMap]:
    """Maps of misclassified images, the predicted class first; `images_NHWC` holds the images of `wrong`."""
    classes = classifier.classes
    predicted_N, true_N = (np.array([classes.index(name) for name in names], dtype=np.int64) for names in (
        [m.predicted for m in wrong], [m.true for m in wrong]
    ))  # fmt: skip
    targets = ["predicted", "true"] if options.target is None else [options.target]
    return maps_for(classifier, images_NHWC, options, targets, true_N, predicted_N)


def draw_files(
    run: RunDirectory, images: Sequence[str | Path], options: MapOptions = MapOptions(), device: Device = "auto"
) -> list[Row]:
    """Maps of image files, for `options.target` or else the predicted class."""
    files = find_images(images)
    pixels_NHWC = read_images(files, run.card.decode)
    classifier = run.classifier(device)
    maps = maps_for(classifier, pixels_NHWC, options, [options.target or "predicted"])
    names = [f"{i}-{Path(file).stem}" for i, file in enumerate(files)]
    return draw(run, maps, pixels_NHWC, [{"file": file} for file in files], names, options, files)


def maps_for(
    classifier: Classifier,
    images_NHWC: np.ndarray,
    options: MapOptions,
    targets: Sequence[str],
    true_N: np.ndarray | None = None,
    predicted_N: np.ndarray | None = None,
) -> list[ClassMap]:
    """Maps for each target: a class name, "predicted" or "true"."""
    if predicted_N is None:
        predicted_N = classifier.logits(images_NHWC).argmax(1)
    numbers = partial(class_numbers, classes=classifier.classes, predicted_N=predicted_N, true_N=true_N)
    against_N = None if options.against is None else numbers(options.against)
    return explain(classifier, images_NHWC, np.stack([numbers(name) for name in targets], 1), options, against_N)


def draw(
    run: RunDirectory,
    maps: Sequence[ClassMap],
    images_NHWC: np.ndarray,
    facts: Sequence[Row],
    names: Sequence[str],
    options: MapOptions = MapOptions(),
    titles: Sequence[str] | None = None,
) -> list[Row]:
    """Draw each map over its image and write `NAME-LAYER-METHOD-NUMBER_CLASS.png`, in portable characters, and all of
    them beside their images as one contact sheet.

    Args:
        facts: added to the rows of each image.
        names: of the images, for their files.
        titles: of the images, for the sheet; by default their names.
    """
    rows = []
    against = "" if options.against is None else f"-against-{_numbered(options.against, run.card.classes)}"
    for m in maps:
        target = run.card.classes[m.target]
        row = facts[m.image] | {"layer": m.layer, "method": options.method, "class": target, "path": None}
        note = note_on(m)
        row |= {"note": note} if note else {}
        if m.is_single_cell:
            rows.append(row)
            continue
        name = f"{_safe(names[m.image])}-{m.layer}-{options.method}-{_numbered(target, run.card.classes)}{against}.png"
        path = write_picture(run.path / FOLDER / name, overlay(images_NHWC[m.image], m.values_HW, MAP_SIZE))
        rows.append(row | {"path": str(path)})
    if maps:
        write_picture(run.path / SHEET, contact_sheet(maps, images_NHWC, titles or names, run.card.classes, options))
    return rows


def note_on(m: ClassMap) -> str | None:
    """Why a map shows no region of the image, or None where it does."""
    if m.is_single_cell:
        return f"{m.layer} is 1×1: its map has no spatial resolution"
    return "no evidence for this class at this stage" if m.is_empty else None


def _numbered(name: str, classes: Sequence[str]) -> str:
    """A class in a file's name; the number keeps "C+" and "C#" apart, which both become "C_"."""
    return f"{classes.index(name)}_{_safe(name)}" if name in classes else _safe(name)


def _safe(name: str) -> str:
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name)
    return plain.strip(".")[:MAX_NAME] or "_"
