"""The maps of the page: at every stage the most faithful of those that can be had, and in words what a cell sees."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from daybreak.evaluation.evaluation import Evaluation, Mistake
from daybreak.explain.cam import Method
from daybreak.explain.gallery import mistake_maps
from daybreak.explain.maps import ClassMap, MapOptions, stage_words
from daybreak.explain.overlay import field_box, overlay
from daybreak.explain.ranking import can_mask, most_faithful
from daybreak.models.registry import stages_of
from daybreak.report.html import data_uri
from daybreak.report.items import drawn_uri, thumbnail
from daybreak.runs.classifier import Classifier

STRIPS = 8  # mistakes whose maps are in the page itself, to be read without a script
MAP_SIZE = 144  # px


def methods_of_strips(classifier: Classifier, channels: int) -> dict[str, Method]:
    """The map of each stage; the last stage has `channels`."""
    masks = can_mask(2 * STRIPS, channels, classifier.size)
    return most_faithful(tuple(stages_of(classifier.net)), masks=masks)


def strips(
    classifier: Classifier, evaluation: Evaluation, images_NHWC: np.ndarray, methods: Mapping[str, Method]
) -> list[dict[str, Any]]:
    """The most confident mistakes: at every stage the original with the receptive field of the maximum for the
    predicted class, and the maps for the predicted and the true class."""
    wrong = evaluation.mistakes(STRIPS)
    images = np.asarray(images_NHWC[[m.index for m in wrong]])
    maps = mistake_maps(classifier, wrong, images, MapOptions(method=methods))
    shown = []
    for n, (mistake, image_HWC) in enumerate(zip(wrong, images, strict=True)):
        mine = [m for m in maps if m.image == n]
        pairs = zip(mine[: len(mine) // 2], mine[len(mine) // 2 :], strict=True)
        stages = [
            {"method": methods[predicted.layer]} | _stage(predicted, true, mistake, image_HWC, classifier.size)
            for predicted, true in pairs
        ]
        shown.append({"mistake": mistake, "image": data_uri(thumbnail(image_HWC)), "stages": stages})
    return shown


def _stage(predicted: ClassMap, true: ClassMap, mistake: Mistake, image_HWC: np.ndarray, size: int) -> dict[str, Any]:
    field = None if predicted.is_empty else drawn_uri(field_box(predicted, image_HWC, size, MAP_SIZE))
    return {
        "name": predicted.layer,
        "words": stage_words(predicted, size),
        "is_single_cell": predicted.is_single_cell,
        "original": field or drawn_uri(overlay(image_HWC, np.zeros((1, 1)), MAP_SIZE)),
        "has_box": field is not None,
        "maps": [
            {"kind": "predicted", "class": mistake.predicted, "picture": _picture(predicted, image_HWC)},
            {"kind": "true", "class": mistake.true, "picture": _picture(true, image_HWC)},
        ],
    }


def _picture(m: ClassMap, image_HWC: np.ndarray) -> str | None:
    return None if m.is_empty else drawn_uri(overlay(image_HWC, m.values_HW, MAP_SIZE))
