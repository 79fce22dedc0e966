"""What a data set is once it is open: names and numbers, no files, no torch."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        images_NHWC: uint8, memory-mapped, read-only; C is 1 or 3.
        labels_N: int64, read-only, indices into the classes.
        names: the name of each image inside the data set, never empty ("test/17" where it has no file of its own).
    """

    images_NHWC: Pixels
    labels_N: Labels
    names: tuple[str, ...]


@dataclass(frozen=True)
class DecodeSpec:
    """How an image file becomes an array; a model keeps it, so that predicting decodes as training did.

    Attributes:
        size: side of the square image in pixels.
        channels: 1 (grey) or 3 (RGB).
    """

    size: int
    channels: int


@dataclass(frozen=True)
class Request:
    """The arguments of `open_dataset`."""

    data: str
    size: int | None
    split_seed: int
    skip_bad: bool = False


@dataclass(frozen=True)
class Dataset:
    """An opened data set.

    Attributes:
        name: short and safe in a file name, e.g. "cifar10-jpeg".
        title: for people, e.g. "CIFAR-10 (JPEG q75)".
        fingerprint: SHA-256 (hex) over class names, labels and pixels in their order; no path and no container in it.
        notes: one-line statements a user should see.
        seconds: what "download", "decode" and "open" took; 0.0 where nothing was to be done.
        request: what was asked for; `open_dataset(**asdict(request))` opens the same again.
    """

    name: str
    title: str
    fingerprint: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    decode: DecodeSpec
    notes: tuple[str, ...]
    seconds: Mapping[str, float]
    request: Request
    validation: Split | None = None


@dataclass(frozen=True)
class Pictures:
    """A data set before it is decoded: what its images are called and labelled, and a way to their pixels.

    Attributes:
        is_test_N: which images belong to the test part; None where the source has none.
        images: yields the decoded images (HWC, uint8) at the given indices, in that order, and raises DataError
            after the last one if any of them is broken, naming all that are.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels_N: Labels
    is_test_N: npt.NDArray[np.bool_] | None
    decode: DecodeSpec
    images: Callable[[Indices], Iterator[Pixels]]
    notes: tuple[str, ...] = ()


def images_a_block(side: int, at_32_px: int = 4096) -> int:
    """How many images to take at a time where work on them takes memory: `at_32_px` of 32 px, fewer of larger ones."""
    return max(1, at_32_px * 32**2 // max(side, 32) ** 2)
