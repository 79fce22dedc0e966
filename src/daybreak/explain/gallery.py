"""Images with the maps that explain them, as PNG files in the run directory."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.core.config import Device
from daybreak.core.files import write_picture
from daybreak.evaluation.evaluate import Mistake, evaluate
from daybreak.evaluation.predict import find_images, read_images
from daybreak.explain.maps import ClassMap, Question, class_numbers, explain
from daybreak.explain.overlay import overlay
from daybreak.runs.classifier import Classifier
from daybreak.runs.datasets import run_dataset
from daybreak.runs.directory import RunDirectory

FOLDER = "figures/maps"
MAP_SIZE = 256  # px
LONGEST_NAME = 60

# "file", "layer", "method", "class", "path" (None where there is nothing to draw), "index" where the image is one of
# the test part, and "note" where the map needs one.
Row = dict[str, Any]


def draw_mistakes(
    run: RunDirectory,
    n: int,
    question: Question = Question(),
    data: str | Path | None = None,
    device: Device = "auto",
) -> list[Row]:
    """Maps of the `n` most confident mistakes, for the predicted and for the true class unless one is asked for."""
    wrong = evaluate(run, tta="none", device=device, moved_to=data).mistakes(n)
    images_NHWC = np.asarray(run_dataset(run, data).test.images_NHWC[[m.index for m in wrong]])
    maps = maps_of_mistakes(run.classifier(device), wrong, images_NHWC, question)
    facts = [{"index": m.index, "file": m.file} for m in wrong]
    return draw(run, maps, images_NHWC, facts, [f"test-{m.index}" for m in wrong], question)


def maps_of_mistakes(
    classifier: Classifier, wrong: Sequence[Mistake], images_NHWC: np.ndarray, question: Question = Question()
) -> list[ClassMap]:
    """Maps of misclassified images, the predicted class first; `images_NHWC` has one each."""
    classes = classifier.classes
    predicted_N, true_N = (np.array([classes.index(name) for name in names], dtype=np.int64) for names in (
        [m.predicted for m in wrong], [m.true for m in wrong]
    ))  # fmt: skip
    asked = ["predicted", "true"] if question.target is None else [question.target]
    return answers(classifier, images_NHWC, question, asked, true_N, predicted_N)


def draw_files(
    run: RunDirectory, images: Sequence[str | Path], question: Question = Question(), device: Device = "auto"
) -> list[Row]:
    """Maps of image files, for the predicted class unless another is asked for."""
    files = find_images(images)
    pixels_NHWC = read_images(files, run.card.decode)
    classifier = run.classifier(device)
    maps = answers(classifier, pixels_NHWC, question, [question.target or "predicted"])
    names = [f"{i}-{Path(file).stem}" for i, file in enumerate(files)]
    return draw(run, maps, pixels_NHWC, [{"file": file} for file in files], names, question)


def answers(
    classifier: Classifier,
    images_NHWC: np.ndarray,
    question: Question,
    asked: Sequence[str],
    true_N: np.ndarray | None = None,
    predicted_N: np.ndarray | None = None,
) -> list[ClassMap]:
    """Maps for each of the asked classes, which are names, "predicted" or "true"."""
    if predicted_N is None:
        predicted_N = classifier.logits(images_NHWC).argmax(1)
    numbers = partial(class_numbers, classes=classifier.classes, predicted_N=predicted_N, true_N=true_N)
    against_N = None if question.against is None else numbers(question.against)
    return explain(classifier, images_NHWC, np.stack([numbers(name) for name in asked], 1), question, against_N)


def draw(
    run: RunDirectory,
    maps: Sequence[ClassMap],
    images_NHWC: np.ndarray,
    facts: Sequence[Row],
    names: Sequence[str],
    question: Question = Question(),
) -> list[Row]:
    """Write each map over its image: `NAME-LAYER-METHOD-NUMBER_CLASS.png`, in characters that every file system takes.

    Args:
        facts: what to say of each image in its rows.
        names: of the images, for their files.
    """
    rows = []
    against = "" if question.against is None else f"-against-{_numbered(question.against, run.card.classes)}"
    for m in maps:
        target = run.card.classes[m.target]
        row = facts[m.image] | {"layer": m.layer, "method": question.method, "class": target, "path": None}
        note = remark(m)
        row |= {"note": note} if note else {}
        if not m.shows_a_place:
            rows.append(row)
            continue
        name = f"{_safe(names[m.image])}-{m.layer}-{question.method}-{_numbered(target, run.card.classes)}{against}.png"
        path = write_picture(run.path / FOLDER / name, overlay(images_NHWC[m.image], m.values_HW, MAP_SIZE))
        rows.append(row | {"path": str(path)})
    return rows


def remark(m: ClassMap) -> str | None:
    """What is to be said of a map that does not speak for itself."""
    if not m.shows_a_place:
        return f"{m.layer} has shrunk to 1×1: a map of one cell shows no place"
    return "nothing here speaks for this class" if m.is_empty else None


def _numbered(name: str, classes: Sequence[str]) -> str:
    """A class for a file's name; its number tells apart what is left of "C+" and "C#"."""
    return f"{classes.index(name)}_{_safe(name)}" if name in classes else _safe(name)


def _safe(name: str) -> str:
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name)
    return plain.strip(".")[:LONGEST_NAME] or "_"
