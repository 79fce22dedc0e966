"""What can be served, as the service sees it."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Subject(Protocol):
    """What is served: a run (`of_run`) or a bundle (`of_bundle`). `classify` and `explain` are called in one thread.

    Attributes:
        folder: whose files the page lists.
        names: of the classes, as they are.
        explains: whether an answer can have maps.
        measured: how good it is, in words.
        at_once: images of a forward, at most.
    """

    title: str
    folder: Path
    names: tuple[str, ...]
    explains: bool
    measured: str
    at_once: int

    def decode(self, data: bytes) -> np.ndarray:
        """uint8 (H, W, C), as the training images were decoded.

        Raises:
            DataError: it is no image.
        """

    def classify(self, images_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (N, K) and energies (N,) of decoded images."""

    def explain(self, image_HWC: np.ndarray, predicted: int, target: str | None, against: str | None) -> dict[str, Any]:
        """What explains an answer: "image" and, where it can, "maps"; ready for JSON.

        Args:
            predicted: the likeliest class.
            target, against: classes by name, for maps.

        Raises:
            UsageError: a class cannot be used.
        """

    def examples(self) -> list[dict[str, str]]:
        """A few test images, "class" and "picture", where they can be had."""


def measured(accuracy: float | None, images: int | None) -> str:
    """How good a net was, as a page says it."""
    if accuracy is None:
        return "Not evaluated."
    return f"{100 * accuracy:.2f} % right" + (f" on {images:,} test images." if images else " on its test images.")
