"""One self-contained HTML file about a run: no script, nothing loaded from anywhere."""

import base64
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from daybreak.config import Device
from daybreak.errors import one_line
from daybreak.evaluate import Evaluation, Mistake, evaluate, run_dataset
from daybreak.explain import ClassMap, overlay, to_picture
from daybreak.gallery import maps_of_mistakes
from daybreak.inference import Classifier
from daybreak.models import stages_of
from daybreak.report import figures
from daybreak.run import RunDirectory

GALLERY = 40  # mistakes shown
STRIPS = 12  # mistakes shown with their maps
MAP_SIZE = 96  # px


@dataclass(frozen=True)
class Shown:
    """A mistake with its picture, and its maps where there are any."""

    mistake: Mistake
    image: str  # data URI
    strips: tuple["Strip", ...] = ()


@dataclass(frozen=True)
class Strip:
    """The maps of one class at every stage."""

    target: str
    kind: str  # "predicted" or "true"
    maps: tuple[tuple[str, str | None], ...]  # (stage, data URI); None where a map of one cell could show no place


def write_report(run: RunDirectory, *, data: str | Path | None = None, device: Device = "auto") -> Path:
    """Write `report.html` and `figures/*.svg` into the run directory.

    Args:
        data: where the run's data is now, if it has moved.

    Raises:
        DataError: the run's data is gone or has changed, so its images cannot be shown.
        RunError: the run cannot be used.
    """
    evaluation = evaluate(run, tta="none", device=device)
    images_NHWC = run_dataset(run, data).test.images_NHWC
    classifier = run.classifier(device)
    page = _template().render(
        run=one_line(run.path.resolve().name),
        summary=run.summary,
        config=run.config,
        command=one_line(shlex.join(run.config["command"])),
        evaluation=evaluation,
        gallery=[_shown(m, images_NHWC) for m in evaluation.mistakes(GALLERY)],
        strips=with_maps(classifier, evaluation.mistakes(STRIPS), images_NHWC),
        stages=list(stages_of(classifier.net)),
        **_figures(run, evaluation),
    )
    return run.write_text("report.html", page)


def with_maps(classifier: Classifier, wrong: Sequence[Mistake], images_NHWC: np.ndarray) -> list[Shown]:
    """Mistakes, each with the maps of its predicted and of its true class at every stage."""
    classes, stages = classifier.classes, len(stages_of(classifier.net))
    images = np.asarray(images_NHWC[[m.index for m in wrong]])
    maps = iter(maps_of_mistakes(classifier, wrong, images))
    shown = []
    for mistake, image_HWC in zip(wrong, images, strict=True):
        strips = [_strip(list(islice(maps, stages)), image_HWC, classes, kind) for kind in ("predicted", "true")]
        shown.append(replace(_shown(mistake, images_NHWC), strips=tuple(strips)))
    return shown


def _shown(mistake: Mistake, images_NHWC: np.ndarray) -> Shown:
    return Shown(mistake, data_uri(to_picture(np.asarray(images_NHWC[mistake.index]))))


def _strip(maps: Sequence[ClassMap], image_HWC: np.ndarray, classes: Sequence[str], kind: str) -> Strip:
    pictures = [data_uri(overlay(image_HWC, m.values_HW, MAP_SIZE)) if m.shows_a_place else None for m in maps]
    layers = [m.layer for m in maps]
    return Strip(classes[maps[0].target], kind, tuple(zip(layers, pictures, strict=True)))


def _figures(run: RunDirectory, evaluation: Evaluation) -> dict[str, str]:
    """The figures as data URIs; each is also a file below `figures/`."""
    epochs, steps = run.metrics("epoch"), run.metrics("step")
    made = {"confusion_figure": figures.confusion(evaluation.confusion, evaluation.classes)}
    if epochs:
        made["curves_figure"] = figures.curves(epochs)
        made["schedule_figure"] = figures.schedule(steps, run.summary["steps"] / run.summary["epochs"])
    svgs = {name: figures.svg(figure) for name, figure in made.items()}
    for name, svg in svgs.items():
        run.write_text(f"figures/{name.removesuffix('_figure')}.svg", svg)
    return {name: _svg_uri(svg) for name, svg in svgs.items()}


def data_uri(picture: Image.Image) -> str:
    """The picture as PNG inside a URI; the pixels are kept exactly."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _svg_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("daybreak", "report/templates"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["plain"] = one_line  # names from files may hold line breaks and bytes that are no text
    return environment.get_template("report.html")
