"""A bundle as it is served: classes, without maps, and without torch."""

from typing import Any

import numpy as np

from daybreak.core.errors import UsageError
from daybreak.data import decode_image
from daybreak.data.picture import to_picture
from daybreak.export.bundle import Bundle
from daybreak.report.html import data_uri
from daybreak.serve.subject import measured


class ServedBundle:
    """See `daybreak.serve.subject.Subject`.

    Raises:
        UsageError, RunError: see `Bundle.load`.
    """

    explains = False

    def __init__(self, bundle: Bundle) -> None:
        self._bundle, self.folder = bundle.load(), bundle.path
        self.names, self.title = bundle.classes, bundle.facts.name
        self.measured, self.at_once = measured(bundle.facts.results.get("test_acc"), None), bundle.images_a_call

    def decode(self, data: bytes) -> np.ndarray:
        return decode_image(data, self._bundle.decode)

    def classify(self, images_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._bundle.at_once(images_NHWC)

    def explain(self, image_HWC: np.ndarray, predicted: int, target: str | None, against: str | None) -> dict[str, Any]:
        """The input of the net.

        Raises:
            UsageError: a class was named, which would be for maps.
        """
        del predicted
        if target or against:
            raise UsageError("class", "a bundle draws no maps", "daybreak serve with the run")
        return {"image": data_uri(to_picture(image_HWC))}

    def examples(self) -> list[dict[str, str]]:
        """None: a bundle has no images in it."""
        return []
