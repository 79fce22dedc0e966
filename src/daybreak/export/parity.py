"""Whether what was exported answers as the run does: the same images, the same probabilities."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from daybreak.core.errors import RunError
from daybreak.data.dataset import release

TOLERANCE = 1e-4  # of a probability, for floating point
LOSS = 0.005  # of accuracy, for eight bits
Answer = Callable[[np.ndarray], np.ndarray]  # uint8 images (N, H, W, C) to probabilities (N, K)


def in_blocks(answer: Answer, images_NHWC: np.ndarray, block: int) -> np.ndarray:
    """Probabilities (N, K) of all images, asked in blocks of one size: the last one reaches back into that before it,
    so that what is compiled for a number of images is compiled once."""
    found, block = [], min(block, len(images_NHWC))
    for start in range(0, len(images_NHWC), block):
        first = min(start, len(images_NHWC) - block)
        found.append(answer(images_NHWC[first : first + block])[start - first :])
        release(images_NHWC)
    return np.concatenate(found)


@dataclass(frozen=True)
class Parity:
    """What parity.json says.

    Attributes:
        largest_difference: between two probabilities for the same image and class.
        changed: images with another answer.
        changed_apart: those of them whose two likeliest classes differ by more than the tolerance in the run.
        run_accuracy: of the run's net in float32, one view.
    """

    images: int
    largest_difference: float
    changed: int
    changed_apart: int
    run_accuracy: float
    accuracy: float

    @classmethod
    def of(cls, expected_NK: np.ndarray, found_NK: np.ndarray, labels_N: np.ndarray) -> "Parity":
        """
        Args:
            expected_NK: probabilities by the run.
            found_NK: by what was exported.
        """
        differs_N = expected_NK.argmax(1) != found_NK.argmax(1)
        two_N2 = np.sort(expected_NK, 1)[:, -2:]
        apart_N = two_N2[:, -1] - two_N2[:, 0] > TOLERANCE
        accuracies = [float((p.argmax(1) == labels_N).mean()) for p in (expected_NK, found_NK)]
        largest = float(np.abs(expected_NK - found_NK).max())
        return cls(len(labels_N), largest, int(differs_N.sum()), int((differs_N & apart_N).sum()), *accuracies)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def check(self, what: object, is_int8: bool) -> None:
        """
        Raises:
            RunError: floating point: a probability is off by more than `TOLERANCE`, or an answer changed that was no
                tie; eight bits: the accuracy fell by more than `LOSS`. (NaN is never within.)
        """
        if is_int8:
            lost = self.run_accuracy - self.accuracy
            if not lost <= LOSS:
                why = f"eight bits cost {100 * lost:.2f} points of accuracy, more than {100 * LOSS:g}"
                raise RunError(what, why, "leave out --int8")
        elif not (self.largest_difference <= TOLERANCE and self.changed_apart == 0):
            why = f"probabilities differ by up to {self.largest_difference:.1e} and {self.changed} answers changed"
            raise RunError(what, f"{why} over {self.images} test images", "--format safetensors, and report it")
