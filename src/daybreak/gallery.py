"""Images with the maps that explain them, as PNG files in the run directory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.config import Device
from daybreak.evaluate import Mistake, evaluate, run_dataset
from daybreak.explain import ClassMap, explain, overlay
from daybreak.inference import Classifier
from daybreak.predict import find_images, read_images
from daybreak.run import RunDirectory

FOLDER = "figures/maps"
MAP_SIZE = 256  # px
LONGEST_NAME = 60

Row = dict[str, Any]  # "file", "layer", "class", "path", and "index" where the image is one of the test part


def draw_mistakes(
    run: RunDirectory,
    n: int,
    layers: Sequence[str] | None = None,
    data: str | Path | None = None,
    device: Device = "auto",
) -> list[Row]:
    """Maps of the `n` most confident mistakes, for the predicted and for the true class."""
    wrong = evaluate(run, tta="none", device=device).mistakes(n)
    images_NHWC = np.asarray(run_dataset(run, data).test.images_NHWC[[m.index for m in wrong]])
    maps = maps_of_mistakes(run.classifier(device), wrong, images_NHWC, layers)
    paths = draw(run, maps, images_NHWC, [f"test-{m.index}" for m in wrong])
    facts = [{"index": wrong[m.image].index, "file": wrong[m.image].file} for m in maps]
    return [_row(run, fact, m, path) for fact, m, path in zip(facts, maps, paths, strict=True)]


def maps_of_mistakes(
    classifier: Classifier, wrong: Sequence[Mistake], images_NHWC: np.ndarray, layers: Sequence[str] | None = None
) -> list[ClassMap]:
    """Maps of misclassified images for the predicted and then for the true class; `images_NHWC` has one each."""
    classes = classifier.classes
    targets_N2 = np.array([[classes.index(m.predicted), classes.index(m.true)] for m in wrong]).reshape(-1, 2)
    return explain(classifier, images_NHWC, targets_N2, layers)


def draw_files(
    run: RunDirectory, images: Sequence[str | Path], layers: Sequence[str] | None = None, device: Device = "auto"
) -> list[Row]:
    """Maps of image files for the predicted class."""
    files = find_images(images)
    pixels_NHWC = read_images(files, run.card.decode)
    classifier = run.classifier(device)
    maps = explain(classifier, pixels_NHWC, classifier.logits(pixels_NHWC).argmax(1)[:, None], layers)
    paths = draw(run, maps, pixels_NHWC, [f"{i}-{Path(file).stem}" for i, file in enumerate(files)])
    return [_row(run, {"file": files[m.image]}, m, path) for m, path in zip(maps, paths, strict=True)]


def draw(run: RunDirectory, maps: Sequence[ClassMap], images_NHWC: np.ndarray, names: Sequence[str]) -> list[Path]:
    """Write each map over its image: `NAME-LAYER-NUMBER_CLASS.png`, in characters that every file system takes."""
    return [
        run.write_picture(
            f"{FOLDER}/{_safe(names[m.image])}-{m.layer}-{m.target}_{_safe(run.card.classes[m.target])}.png",
            overlay(images_NHWC[m.image], m.values_HW, MAP_SIZE),
        )
        for m in maps
    ]


def _row(run: RunDirectory, fact: Row, m: ClassMap, path: Path) -> Row:
    return fact | {"layer": m.layer, "class": run.card.classes[m.target], "path": str(path)}


def _safe(name: str) -> str:
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name)
    return plain.strip(".")[:LONGEST_NAME] or "_"
