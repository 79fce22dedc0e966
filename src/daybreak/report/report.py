"""One self-contained HTML file about a run: no script, nothing loaded from anywhere."""

import base64
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from daybreak.config import Device
from daybreak.data import Dataset
from daybreak.evaluate import Evaluation, run_dataset, stored_predictions
from daybreak.explain import ClassMap, check_layers, explain, overlay, to_picture
from daybreak.metrics import softmax
from daybreak.models import stages_of
from daybreak.report import figures
from daybreak.run import RunDirectory

GALLERY = 40  # mistakes shown
STRIPS = 12  # mistakes shown with their maps
MAP_SIZE = 96  # px


@dataclass(frozen=True)
class Mistake:
    """A wrongly classified test image, ready for the page."""

    index: int
    name: str
    true: str
    predicted: str
    confidence: float  # probability given to the predicted class
    true_probability: float
    image: str  # data URI
    strips: tuple["Strip", ...] = ()


@dataclass(frozen=True)
class Strip:
    """The maps of one class at every stage."""

    target: str
    kind: str  # "predicted" or "true"
    maps: tuple[tuple[str, str | None], ...]  # (stage, data URI); None where a map of one cell could show no place


def write_report(run: RunDirectory, *, device: Device = "auto") -> Path:
    """Write `report.html` and `figures/*.svg` into the run directory.

    Raises:
        DataError: the run's data is gone or has changed, so its images cannot be shown.
        RunError: the run cannot be used.
    """
    predictions = stored_predictions(run, device)
    evaluation = Evaluation(predictions.logits, predictions.labels, run.card.classes)
    dataset = run_dataset(run)
    page = _template().render(
        run=run.path.name,
        summary=run.summary,
        config=run.config,
        command=shlex.join(run.config["command"]),
        evaluation=evaluation,
        gallery=gallery(evaluation, dataset, GALLERY),
        strips=with_maps(run, evaluation, dataset, STRIPS, device),
        stages=list(stages_of(run.classifier("cpu").net)),
        **_figures(run, evaluation),
    )
    return run.write_text("report.html", page)


def gallery(evaluation: Evaluation, dataset: Dataset, n: int) -> list[Mistake]:
    """The most confident mistakes in their own colours."""
    probability_NK = softmax(evaluation.logits_NK)
    return [_mistake(int(i), probability_NK[i], evaluation, dataset) for i in evaluation.mistakes(n)]


def with_maps(run: RunDirectory, evaluation: Evaluation, dataset: Dataset, n: int, device: Device) -> list[Mistake]:
    """The most confident mistakes, each with the maps of its predicted and of its true class at every stage."""
    wrong = evaluation.mistakes(n)
    predicted, true = evaluation.logits_NK[wrong].argmax(1), evaluation.labels_N[wrong]
    classifier = run.classifier(device)
    images = np.asarray(dataset.test.images_NHWC[wrong])
    maps = explain(classifier, images, np.stack([predicted, true], 1))
    per_image = 2 * len(check_layers(classifier.net, None))
    shown = []
    for row, mistake in enumerate(gallery(evaluation, dataset, n)):
        mine = maps[row * per_image : (row + 1) * per_image]
        halves = (mine[: per_image // 2], mine[per_image // 2 :])
        strips = tuple(
            _strip(half, images[row], evaluation.classes, kind)
            for half, kind in zip(halves, ("predicted", "true"), strict=True)
        )
        shown.append(Mistake(**{**mistake.__dict__, "strips": strips}))
    return shown


def _mistake(index: int, probability_K: np.ndarray, evaluation: Evaluation, dataset: Dataset) -> Mistake:
    true, predicted = int(evaluation.labels_N[index]), int(probability_K.argmax())
    return Mistake(
        index=index,
        name=dataset.test.names[index],
        true=evaluation.classes[true],
        predicted=evaluation.classes[predicted],
        confidence=float(probability_K[predicted]),
        true_probability=float(probability_K[true]),
        image=data_uri(to_picture(np.asarray(dataset.test.images_NHWC[index]))),
    )


def _strip(maps: Sequence[ClassMap], image_HWC: np.ndarray, classes: Sequence[str], kind: str) -> Strip:
    pictures = [data_uri(overlay(image_HWC, m.values_HW, MAP_SIZE)) if m.values_HW.size > 1 else None for m in maps]
    layers = [m.layer for m in maps]
    return Strip(classes[maps[0].target], kind, tuple(zip(layers, pictures, strict=True)))


def _figures(run: RunDirectory, evaluation: Evaluation) -> dict[str, Any]:
    """The figures as Markup of <img> sources; each is also a file below `figures/`."""
    folder = run.folder("figures")
    epochs, steps = run.metrics("epoch"), run.metrics("step")
    made = {"confusion_figure": figures.confusion(evaluation.confusion, evaluation.classes)}
    if epochs:
        made["curves_figure"] = figures.curves(epochs)
        made["schedule_figure"] = figures.schedule(steps, epochs[0]["step"])
    return {name: _svg_uri(figures.save(f, folder / f"{name.removesuffix('_figure')}.svg")) for name, f in made.items()}


def data_uri(picture: Image.Image) -> str:
    """The picture as PNG inside a URI; the pixels are kept exactly."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _svg_uri(svg: str) -> Markup:
    return Markup("data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii"))


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("daybreak", "report/templates"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html")
