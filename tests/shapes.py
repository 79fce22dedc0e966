"""Images with a known object in a known place: a patterned patch somewhere on noise of the same colours and contrast.

Nothing but its pattern sets the object apart, so that a net that has learnt nothing has no reason to look at it.
"""

from dataclasses import dataclass

import numpy as np

CLASSES = ("rows", "columns", "squares", "diagonals")
SIDE, OBJECT = 32, 12  # px


@dataclass(frozen=True)
class Shapes:
    """Images uint8 (N, 32, 32, 3), labels (N,), and the boxes (left, top, right, bottom) of the objects (N, 4)."""

    images_NHWC: np.ndarray
    labels_N: np.ndarray
    boxes_N4: np.ndarray


def shapes(n: int, seed: int) -> Shapes:
    rng = np.random.default_rng(seed)
    is_bright = rng.integers(0, 2, (n, SIDE, SIDE, 1))
    labels_N = rng.integers(0, len(CLASSES), n)
    corner_N2 = rng.integers(0, SIDE - OBJECT + 1, (n, 2))
    phase_N2 = rng.integers(0, 4, (n, 2))
    for image, label, (top, left), phase in zip(is_bright, labels_N, corner_N2, phase_N2, strict=True):
        image[top : top + OBJECT, left : left + OBJECT, 0] = pattern(label, phase)
    contrast = rng.integers(40, 90, (n, 1, 1, 3))
    images = 128 + (2 * is_bright - 1) * contrast + rng.normal(0, 10, (n, SIDE, SIDE, 3))
    boxes_N4 = np.concatenate([corner_N2[:, ::-1], corner_N2[:, ::-1] + OBJECT], 1)
    return Shapes(images.clip(0, 255).astype(np.uint8), labels_N.astype(np.int64), boxes_N4)


def pattern(label: int, phase: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[:OBJECT, :OBJECT] + phase[:, None, None]
    return [y // 2 % 2, x // 2 % 2, (y // 2 + x // 2) % 2, (y + x) // 2 % 2][label]
