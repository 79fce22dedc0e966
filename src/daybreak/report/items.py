"""The images that the page's script can show: their pixels on one sheet, with predictions and maps in compact form."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from daybreak.core import metrics
from daybreak.core.errors import one_line
from daybreak.data.picture import to_picture
from daybreak.evaluation.evaluation import Evaluation
from daybreak.explain.maps import ClassMap, MapOptions, explain, stage_words
from daybreak.explain.ranking import most_faithful
from daybreak.models.registry import stages_of
from daybreak.report.html import data_uri
from daybreak.runs.classifier import Classifier

MAX_PIXELS = 800_000  # of all images on the page: less than 3 MB as text
THUMBNAIL = 96  # px: larger images are shrunk to this
MAX_UNSURE, MAX_SUSPECTS = 60, 60  # images with correct but unsure predictions, and with suspect labels
MAX_MAP_SIDE = 16  # cells
PREDICTED = 0  # position of the predicted class among an image's two targets
COLUMNS = 32  # images in a row of the sheet


@dataclass(frozen=True)
class Item:
    """A test image on the page, and why it was picked."""

    index: int
    kinds: tuple[str, ...]  # "mistake", "unsure", "suspect"


def pick_items(evaluation: Evaluation, suspects: Sequence[int], image_size: int) -> tuple[list[Item], int]:
    """Pick images within MAX_PIXELS: the most confident mistakes, the least confident correct predictions and the most
    suspect labels. Returns them and the number of mistakes left out."""
    logits, labels = evaluation.logits_NK, evaluation.labels_N
    side = min(image_size, THUMBNAIL)
    capacity = max(100, MAX_PIXELS // side**2)
    suspects = list(suspects)[:MAX_SUSPECTS]
    unsure = metrics.unsure(logits, labels, MAX_UNSURE).tolist()
    mistakes = metrics.mistakes(logits, labels, len(labels)).tolist()
    shown = mistakes[: max(0, capacity - len(unsure) - len(suspects))]
    kinds: dict[int, list[str]] = {}
    shown += [index for index in suspects if index in set(mistakes) - set(shown)]
    for kind, chosen in (("mistake", shown), ("unsure", unsure), ("suspect", suspects)):
        for index in chosen:
            kinds.setdefault(index, []).append(kind)
    return [Item(index, tuple(names)) for index, names in kinds.items()], len(mistakes) - len(shown)


def page_data(
    items: Sequence[Item], evaluation: Evaluation, classifier: Classifier, images_NHWC: np.ndarray
) -> dict[str, Any]:
    """The data of the page's script: classes, stages, the sheet, and one row per image with its five most likely
    classes and its maps for the predicted and the true class, each by the most faithful method of one pass."""
    indices = [item.index for item in items]
    probability_NK = metrics.softmax(evaluation.logits_NK[indices])
    true_N, predicted_N = evaluation.labels_N[indices], probability_NK.argmax(1)
    pixels = np.asarray(images_NHWC[indices])
    methods = most_faithful(tuple(stages_of(classifier.net)))
    options = MapOptions(method=methods)
    maps = explain(classifier, pixels, np.stack([predicted_N, true_N], 1), options) if indices else []
    maps = [m for m in maps if not m.is_single_cell]
    stages = {m.layer: m for m in maps}
    rows: list[dict[str, Any]] = [
        {
            "index": item.index,
            "file": one_line(evaluation.predictions.names[item.index]),
            "kinds": item.kinds,
            "true": int(true_N[n]),
            "top": [
                (int(k), round(float(probability_NK[n, k]), 4))
                for k in np.argsort(-probability_NK[n], kind="stable")[:5]
            ],
            "p_true": round(float(probability_NK[n, true_N[n]]), 4),
            "maps": ["", ""],
            "boxes": [],
        }
        for n, item in enumerate(items)
    ]
    for (n, which), mine in _by_image_and_class(maps).items():
        rows[n]["maps"][which] = _encoded(mine)
        if which == PREDICTED:
            rows[n]["boxes"] = [[round(v, 1) for v in m.field_of_max(classifier.size)] for m in mine]
    return {
        "classes": [one_line(name) for name in evaluation.classes],
        "stages": [
            {
                "name": name,
                "side": min(MAX_MAP_SIDE, m.values_HW.shape[0]),
                "words": stage_words(m, classifier.size),
                "method": methods[name],
            }
            for name, m in stages.items()
        ],
        "sheet": data_uri(sheet(pixels)) if indices else "",
        "side": min(pixels.shape[1], THUMBNAIL) if indices else 0,
        "columns": COLUMNS,
        "items": rows,
    }


def _by_image_and_class(maps: Sequence[ClassMap]) -> dict[tuple[int, int], list[ClassMap]]:
    """The maps of each image for the predicted (0) and the true class (1), stage by stage. Told apart by the order of
    `explain`, since both may be the same class."""
    found: dict[tuple[int, int], list[ClassMap]] = {}
    seen: Counter[tuple[int, str]] = Counter()
    for m in maps:
        found.setdefault((m.image, seen[m.image, m.layer]), []).append(m)
        seen[m.image, m.layer] += 1
    return found


def _encoded(maps: Sequence[ClassMap]) -> str:
    """The maps of all stages as bytes in base64, scaled so that each stage's maximum is 255. Finer maps are averaged to
    MAX_MAP_SIDE cells per side, which is as much as the page's small pictures can show."""
    parts = []
    for m in maps:
        values = torch.from_numpy(m.values_HW)[None, None]
        values = F.adaptive_avg_pool2d(values, min(MAX_MAP_SIDE, values.shape[2]))
        parts.append((255 * values / values.max().clamp(min=1e-12)).round().to(torch.uint8).flatten())
    return base64.b64encode(torch.cat(parts).numpy().tobytes()).decode()


def sheet(images_NHWC: np.ndarray, largest: int = THUMBNAIL) -> Image.Image:
    """All images in one picture, COLUMNS per row; images up to `largest` px keep their exact pixels."""
    side = min(images_NHWC.shape[1], largest)
    rows = -(-len(images_NHWC) // COLUMNS)
    out = Image.new("L" if images_NHWC.shape[3] == 1 else "RGB", (COLUMNS * side, rows * side))
    for n, image_HWC in enumerate(images_NHWC):
        out.paste(thumbnail(image_HWC, largest), (n % COLUMNS * side, n // COLUMNS * side))
    return out


def thumbnail(image_HWC: np.ndarray, largest: int = THUMBNAIL) -> Image.Image:
    """The image itself, or a copy reduced to `largest` px if it is larger."""
    picture = to_picture(image_HWC)
    if picture.width <= largest:
        return picture
    return picture.resize((largest, largest), Image.Resampling.LANCZOS)


def drawn_uri(picture: Image.Image) -> str:
    """A drawing as lossy WebP in a data URI: a third of the bytes of PNG. For images of the data use `data_uri`."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
