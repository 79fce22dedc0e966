"""The images that the page can show: one sheet of pixels, and facts and maps as small as they come."""

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
from daybreak.evaluation.evaluate import Evaluation
from daybreak.explain.maps import ClassMap, explain
from daybreak.runs.classifier import Classifier

ROOM = 900_000  # pixels of all images on the page: less than 3 MB as text
THUMBNAIL = 96  # px: larger images are shrunk to this
UNSURE, SUSPECTS = 60, 60  # right answers and suspect labels among the images, at most
LARGEST_MAP = 16  # cells a side
PREDICTED = 0  # the first of an image's two classes
COLUMNS = 32  # of the sheet


@dataclass(frozen=True)
class Item:
    """A test image on the page, and why it is there."""

    index: int
    kinds: tuple[str, ...]  # "mistake", "unsure", "suspect"


def pick_items(evaluation: Evaluation, suspects: Sequence[int], image_size: int) -> tuple[list[Item], int]:
    """The images that find room, and how many mistakes do not: the most confident mistakes, the least confident right
    answers, the most suspicious labels."""
    logits, labels = evaluation.logits_NK, evaluation.labels_N
    side = min(image_size, THUMBNAIL)
    room = max(100, ROOM // side**2)
    suspects = list(suspects)[:SUSPECTS]
    unsure = metrics.unsure(logits, labels, UNSURE).tolist()
    mistakes = metrics.mistakes(logits, labels, len(labels)).tolist()
    shown = mistakes[: max(0, room - len(unsure) - len(suspects))]
    kinds: dict[int, list[str]] = {}
    shown += [index for index in suspects if index in set(mistakes) - set(shown)]
    for kind, chosen in (("mistake", shown), ("unsure", unsure), ("suspect", suspects)):
        for index in chosen:
            kinds.setdefault(index, []).append(kind)
    return [Item(index, tuple(names)) for index, names in kinds.items()], len(mistakes) - len(shown)


def page_data(
    items: Sequence[Item], evaluation: Evaluation, classifier: Classifier, images_NHWC: np.ndarray
) -> dict[str, Any]:
    """What the script needs: classes, stages, the sheet, and a row an image with its five likeliest classes and its
    maps for the predicted and for the true class."""
    indices = [item.index for item in items]
    probability_NK = metrics.softmax(evaluation.logits_NK[indices])
    true_N, predicted_N = evaluation.labels_N[indices], probability_NK.argmax(1)
    pixels = np.asarray(images_NHWC[indices])
    maps = explain(classifier, pixels, np.stack([predicted_N, true_N], 1)) if indices else []
    maps = [m for m in maps if m.shows_a_place]
    stages = {m.layer: min(LARGEST_MAP, m.values_HW.shape[0]) for m in maps}
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
            rows[n]["boxes"] = [[round(v, 1) for v in m.strongest(classifier.size)] for m in mine]
    return {
        "classes": [one_line(name) for name in evaluation.classes],
        "stages": [{"name": name, "side": side} for name, side in stages.items()],
        "sheet": data_uri(sheet(pixels)) if indices else "",
        "side": min(pixels.shape[1], THUMBNAIL) if indices else 0,
        "columns": COLUMNS,
        "items": rows,
    }


def _by_image_and_class(maps: Sequence[ClassMap]) -> dict[tuple[int, int], list[ClassMap]]:
    """The maps of each image for the predicted (0) and for the true class (1), stage by stage: the order in which
    they were made, since the two may be the same class."""
    found: dict[tuple[int, int], list[ClassMap]] = {}
    seen: Counter[tuple[int, str]] = Counter()
    for m in maps:
        found.setdefault((m.image, seen[m.image, m.layer]), []).append(m)
        seen[m.image, m.layer] += 1
    return found


def _encoded(maps: Sequence[ClassMap]) -> str:
    """The cells of all stages in one string of bytes, 255 the stage's highest; fine maps are averaged to LARGEST_MAP
    cells a side, which is more than the picture they are drawn on can show."""
    parts = []
    for m in maps:
        values = torch.from_numpy(m.values_HW)[None, None]
        values = F.adaptive_avg_pool2d(values, min(LARGEST_MAP, values.shape[2]))
        parts.append((255 * values / values.max().clamp(min=1e-12)).round().to(torch.uint8).flatten())
    return base64.b64encode(torch.cat(parts).numpy().tobytes()).decode()


def sheet(images_NHWC: np.ndarray) -> Image.Image:
    """All images on one picture, COLUMNS in a row, their pixels kept exactly up to THUMBNAIL px."""
    side = min(images_NHWC.shape[1], THUMBNAIL)
    rows = -(-len(images_NHWC) // COLUMNS)
    out = Image.new("L" if images_NHWC.shape[3] == 1 else "RGB", (COLUMNS * side, rows * side))
    for n, image_HWC in enumerate(images_NHWC):
        out.paste(thumbnail(image_HWC), (n % COLUMNS * side, n // COLUMNS * side))
    return out


def thumbnail(image_HWC: np.ndarray) -> Image.Image:
    """The image itself, or a smaller copy of a large one."""
    picture = to_picture(image_HWC)
    if picture.width <= THUMBNAIL:
        return picture
    return picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)


def drawn_uri(picture: Image.Image) -> str:
    """A picture that was drawn, not taken from the data, inside a URI: close to it in a third of the bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def data_uri(picture: Image.Image) -> str:
    """The picture as PNG inside a URI; the pixels are kept exactly."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
