"""Class probabilities for image files."""

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.core import metrics
from daybreak.core.config import Device, Tta
from daybreak.core.count import Count
from daybreak.core.errors import DataError, UsageError
from daybreak.core.metrics import softmax
from daybreak.data import decode_image
from daybreak.data.dataset import DecodeSpec
from daybreak.data.layout import IMAGE_SUFFIXES
from daybreak.runs.classifier import Classifier, images_a_forward
from daybreak.runs.directory import RunDirectory

log = logging.getLogger(__name__)

STDIN = "-"


def predict(
    run: RunDirectory,
    images: Sequence[str | Path],
    *,
    top: int = 3,
    reject: float | None = None,
    tta: Tta = "none",
    device: Device = "auto",
) -> Iterator[dict[str, Any]]:
    """The `top` classes of every image with their probabilities, a batch of images in memory at a time.

    Args:
        images: files, folders (searched for images) or `-` for one image on standard input.
        reject: the probability below which the likeliest class is no answer.

    Yields:
        "file"; "top": the likeliest classes with "class" and "probability"; "energy": high for images unlike those of
        the training part (`metrics.energy`); and with `reject` whether the image is "unknown".

    Raises:
        UsageError: `reject` is no probability.
        DataError: a file is missing or not an image. The rows of the batches before it have been given by then.
    """
    check_reject(reject)
    files, classifier = find_images(images), run.classifier(device)
    batch, count = images_a_forward(classifier.size, classifier.device), Count(log, "predicted", len(files))
    for start in range(0, len(files), batch):
        part = files[start : start + batch]
        logits_NK = _logits(classifier, part, run.card.decode, tta)
        for file, probability_K, energy in zip(part, softmax(logits_NK), metrics.energy(logits_NK), strict=True):
            row = {"file": file, "top": likeliest(probability_K, classifier.classes, top), "energy": float(energy)}
            yield row if reject is None else row | {"unknown": bool(probability_K.max() < reject)}
        count.add(len(part))


def check_reject(reject: float | None) -> None:
    """
    Raises:
        UsageError: it is no probability.
    """
    if reject is not None and not 0 <= reject <= 1:
        raise UsageError(f"--reject {reject:g}", "not a probability", "a number such as 0.5")


def _logits(classifier: Classifier, files: Sequence[str], decode: DecodeSpec, tta: Tta) -> np.ndarray:
    """(N, K), of files that are decoded all at once."""
    return classifier.logits(read_images(files, decode), tta)


def likeliest(probability_K: np.ndarray, classes: Sequence[str], top: int) -> list[dict[str, Any]]:
    """The `top` classes of one image, the likeliest first."""
    order = np.argsort(-probability_K, kind="stable")[:top]
    return [{"class": classes[k], "probability": float(probability_K[k])} for k in order]


def find_images(images: Sequence[str | Path]) -> list[str]:
    """Image files, folders replaced by the images below them in order of name."""
    files: list[str] = []
    for image in images:
        path = Path(image)
        if str(image) != STDIN and path.is_dir():
            files += [str(p) for p in sorted(path.rglob("*")) if _is_image(p)]
        else:
            files.append(str(image))
    if not files:
        raise DataError(
            ", ".join(map(str, images)), "no image in there", f"files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return files


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def read_images(files: Sequence[str], decode: DecodeSpec) -> np.ndarray:
    """uint8 (N, H, W, C), decoded as the training images were."""
    return np.stack([decode_image(sys.stdin.buffer.read() if f == STDIN else Path(f), decode) for f in files])
