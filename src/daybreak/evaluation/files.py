"""Image files to be classified, and the answers to them as rows; no torch in here."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.core.errors import DataError, UsageError
from daybreak.data import decode_image
from daybreak.data.image import DecodeSpec
from daybreak.data.layout import IMAGE_SUFFIXES

STDIN = "-"


def answer_rows(
    files: Sequence[str],
    probability_NK: np.ndarray,
    energy_N: np.ndarray,
    classes: Sequence[str],
    top: int,
    reject: float | None,
) -> Iterator[dict[str, Any]]:
    """A row for each file, as `daybreak.evaluation.predict.predict` yields them."""
    for file, probability_K, energy in zip(files, probability_NK, energy_N, strict=True):
        row = {"file": file, "top": likeliest(probability_K, classes, top), "energy": float(energy)}
        yield row if reject is None else row | {"unknown": bool(probability_K.max() < reject)}


def check_reject(reject: float | None) -> None:
    """
    Raises:
        UsageError: it is no probability.
    """
    if reject is not None and not 0 <= reject <= 1:
        raise UsageError(f"--reject {reject:g}", "not a probability", "a number such as 0.5")


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
