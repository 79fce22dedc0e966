"""A run as a page shows it: classes, and a map at every stage."""

from typing import Any

import numpy as np

from daybreak.core.config import Device
from daybreak.core.metrics import softmax
from daybreak.data import decode_image
from daybreak.data.picture import to_picture
from daybreak.evaluation.files import likeliest
from daybreak.explain.gallery import maps_for, note_on
from daybreak.explain.maps import ClassMap, MapOptions
from daybreak.explain.overlay import overlay
from daybreak.report.html import data_uri
from daybreak.runs.directory import RunDirectory
from daybreak.serve.app import TOP

MAP_SIZE = 192  # px


class ServedRun:
    """See `daybreak.serve.app.Subject`.

    Raises:
        RunError: the run cannot be used.
    """

    explains = True

    def __init__(self, run: RunDirectory, device: Device = "auto") -> None:
        self._classifier, self._decode = run.classifier(device), run.card.decode
        self.folder, self.names = run.path, self._classifier.classes
        self.title = f"{run.summary['recipe']} on {run.summary['dataset']}"

    def answer(self, data: bytes, target: str | None, against: str | None) -> dict[str, Any]:
        """The input of the net, its most likely classes, and one map per stage."""
        image_HWC = decode_image(data, self._decode)
        probability_NK = softmax(self._classifier.logits(image_HWC[None]))
        options = MapOptions(target=target or "predicted", against=against)
        maps = maps_for(
            self._classifier, image_HWC[None], options, [target or "predicted"], predicted_N=probability_NK.argmax(1)
        )
        return {
            "image": data_uri(to_picture(image_HWC)),
            "top": likeliest(probability_NK[0], self.names, TOP),
            "maps": [self._drawn(m, image_HWC) for m in maps],
        }

    def _drawn(self, m: ClassMap, image_HWC: np.ndarray) -> dict[str, Any]:
        picture = data_uri(overlay(image_HWC, m.values_HW, MAP_SIZE)) if not m.is_single_cell else None
        return {"layer": m.layer, "class": self.names[m.target], "picture": picture, "note": note_on(m)}
