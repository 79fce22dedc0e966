"""A run as it is served: classes, and a map at every stage."""

from typing import Any

import numpy as np

from daybreak.core.config import Device
from daybreak.core.errors import DaybreakError
from daybreak.core.metrics import energy, softmax
from daybreak.data import decode_image
from daybreak.data.picture import to_picture
from daybreak.data.sources import find_here
from daybreak.explain.gallery import maps_for, note_on
from daybreak.explain.maps import ClassMap, MapOptions
from daybreak.explain.overlay import overlay
from daybreak.report.html import data_uri
from daybreak.runs.classifier import images_a_forward
from daybreak.runs.datasets import data_of, run_dataset
from daybreak.runs.directory import RunDirectory
from daybreak.serve.subject import measured

MAP_SIZE = 192  # px
EXAMPLES = 8
AT_ONCE = 64  # images of 32 px


class ServedRun:
    """See `daybreak.serve.subject.Subject`.

    Raises:
        RunError: the run cannot be used.
    """

    explains = True

    def __init__(self, run: RunDirectory, device: Device = "auto") -> None:
        self._run, self._classifier, self._decode = run, run.classifier(device), run.card.decode
        self.folder, self.names = run.path, self._classifier.classes
        self.title = f"{run.summary['recipe']} on {run.summary['dataset']}"
        self.measured = measured(run.summary.get("test_acc"), self._test_images())
        self.at_once = images_a_forward(self._classifier.size, self._classifier.device, AT_ONCE)

    def decode(self, data: bytes) -> np.ndarray:
        return decode_image(data, self._decode)

    def classify(self, images_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits_NK = self._classifier.logits(images_NHWC)
        return softmax(logits_NK), energy(logits_NK)

    def explain(self, image_HWC: np.ndarray, predicted: int, target: str | None, against: str | None) -> dict[str, Any]:
        options, predicted_N = MapOptions(target=target or "predicted", against=against), np.array([predicted])
        maps = maps_for(
            self._classifier, image_HWC[None], options, [target or "predicted"], predicted_N=predicted_N
        )  # fmt: skip
        return {"image": data_uri(to_picture(image_HWC)), "maps": [self._drawn(m, image_HWC) for m in maps]}

    def examples(self) -> list[dict[str, str]]:
        """Evenly spread over the test part; none where the data is not on this machine any more."""
        try:
            if find_here(data_of(self._run)) is None:
                return []
            test = run_dataset(self._run).test
        except DaybreakError:
            return []
        labels_N = np.asarray(test.labels_N)
        chosen = np.unique(np.linspace(0, len(labels_N) - 1, EXAMPLES).astype(int))
        return [
            {"class": self.names[labels_N[n]], "picture": data_uri(to_picture(np.asarray(test.images_NHWC[n])))}
            for n in chosen
        ]

    def _test_images(self) -> int | None:
        predictions = self._run.predictions()
        return None if predictions is None else len(predictions.labels)

    def _drawn(self, m: ClassMap, image_HWC: np.ndarray) -> dict[str, Any]:
        picture = data_uri(overlay(image_HWC, m.values_HW, MAP_SIZE)) if not m.is_single_cell else None
        return {"layer": m.layer, "class": self.names[m.target], "picture": picture, "note": note_on(m)}
