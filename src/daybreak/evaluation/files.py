"""Image files to be classified, and the answers to them as rows; no torch in here."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.core.errors import DataError, UsageError
from daybreak.data import decode_image
from daybreak.data.image import BadImage, DecodeSpec, read_stream
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
    """Image files, folders replaced by the images below them in order of name.

    Raises:
        DataError: there are none.
    """
    files: list[str] = []
    for image in images:
        path = Path(image)
        if str(image) != STDIN and path.is_dir():
            files += [str(p) for p in sorted(path.rglob("*")) if _is_image(p) and not _is_hidden(p, path)]
        else:
            files.append(str(image))
    if not files:
        raise DataError(
            ", ".join(map(str, images)), "no image in there", f"files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return files


def _is_hidden(path: Path, folder: Path) -> bool:
    """Whether it, or a folder between, has a name that begins with a dot, as a bin has: training omits them, too."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _is_image(path: Path) -> bool:
    """By its name; a pipe would never end. (What a link leads to and is not there is left for reading to name.)"""
    is_named_so = path.suffix.lower() in IMAGE_SUFFIXES
    return is_named_so and (os.path.isfile(path) or not os.path.exists(path))


def read_images(files: Sequence[str], decode: DecodeSpec) -> np.ndarray:
    """uint8 (N, H, W, C), decoded as the training images were.

    Raises:
        DataError: a file cannot be read or is not a whole image.
    """
    return np.stack([decode_image(_read_stdin() if f == STDIN else Path(f), decode) for f in files])


def _read_stdin() -> bytes:
    try:
        return read_stream(sys.stdin.buffer)
    except BadImage as bad:
        raise DataError("image", str(bad), "another image, or convert it to PNG or JPEG") from None
