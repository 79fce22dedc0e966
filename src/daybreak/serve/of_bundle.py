"""A bundle as a page shows it: classes, without maps, and without torch."""

from typing import Any

from daybreak.core.errors import UsageError
from daybreak.data import decode_image
from daybreak.data.picture import to_picture
from daybreak.evaluation.files import likeliest
from daybreak.export.bundle import Bundle
from daybreak.report.html import data_uri
from daybreak.serve.app import TOP


class ServedBundle:
    """See `daybreak.serve.app.Subject`.

    Raises:
        UsageError, RunError: see `Bundle.load`.
    """

    explains = False

    def __init__(self, bundle: Bundle) -> None:
        self._bundle, self.folder = bundle.load(), bundle.path
        self.names, self.title = bundle.classes, bundle.facts.name

    def answer(self, data: bytes, target: str | None, against: str | None) -> dict[str, Any]:
        """The input of the net and its most likely classes.

        Raises:
            UsageError: a class was named, which would be for maps.
        """
        if target or against:
            raise UsageError("class", "a bundle draws no maps", "daybreak serve with the run")
        image_HWC = decode_image(data, self._bundle.decode)
        probability_K = self._bundle.probabilities(image_HWC[None])[0]
        return {"image": data_uri(to_picture(image_HWC)), "top": likeliest(probability_K, self.names, TOP)}
