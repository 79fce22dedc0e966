"""What a data set is once it is open: names and numbers, no files, no torch."""

import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from daybreak.data.image import DecodeSpec, Pixels

Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]
PartCodes = npt.NDArray[np.int8]
Part = Literal["train", "test", "validation"]

PARTS: tuple[Part, ...] = ("train", "test", "validation")  # in the order in which they are stored and digested
TRAIN, TEST, VALIDATION = range(3)  # codes of the parts: positions in PARTS
COPIED_UP_TO = 512 * 2**20  # bytes of a part's images


class PickedImages:
    """Images at these indices of a larger array, copied into memory where they are asked for. It stands in the place of
    an array (N, H, W, C) where that would fill the memory; numpy makes one of it where it has to."""

    ndim = 4

    def __init__(self, images_NHWC: Pixels, index_M: Indices) -> None:
        self._images, self._index = images_NHWC, index_M
        self.shape, self.dtype = (len(index_M), *images_NHWC.shape[1:]), images_NHWC.dtype

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, key: Any) -> Pixels:
        first, *others = key if isinstance(key, tuple) else (key,)
        picked = self._images[self._index[first]]
        if not others:
            return picked
        return picked[tuple(others) if picked.ndim == 3 else (slice(None), *others)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Pixels:
        return np.asarray(self._images[self._index], dtype)

    @property
    def base(self) -> Pixels:
        return self._images


def release(images_NHWC: Pixels) -> None:
    """Let go of what has been read of memory-mapped images: else they count as this process's memory until the system
    needs it for others. They are read again where they are asked for."""
    base: Any = images_NHWC
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        base.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        images_NHWC: uint8, read-only, memory-mapped unless it was made by `take`; C is 1 or 3. Of a very large part
            that was made by `take` it is no array, but can be read like one (`PickedImages`).
        labels_N: int64, read-only, indices into the classes.
        names: the name of each image inside the data set, never empty ("test/17" where it has no file of its own).
        origin: of what was taken from another split: the first one that was no such part, and which of its images these
            are. What is known of an image there holds here.
    """

    images_NHWC: Pixels
    labels_N: Labels
    names: tuple[str, ...]
    origin: "tuple[Split, Indices] | None" = field(default=None, repr=False, compare=False)

    def take(self, index_M: Indices) -> "Split":
        """The images at these indices, in this order; copied into memory, read-only, unless they are very large."""
        first, index_N = self.origin or (self, np.arange(len(self.labels_N)))
        rows_M, labels_M = index_N[index_M], self.labels_N[index_M]
        labels_M.setflags(write=False)
        if len(index_M) * int(np.prod(first.images_NHWC.shape[1:])) > COPIED_UP_TO:
            images_MHWC = cast(Pixels, PickedImages(first.images_NHWC, rows_M))
        else:
            images_MHWC = first.images_NHWC[rows_M]
            images_MHWC.setflags(write=False)
        return Split(images_MHWC, labels_M, tuple(self.names[i] for i in index_M), (first, rows_M))


@dataclass(frozen=True)
class Request:
    """The arguments of `open_dataset`."""

    data: str
    size: int | None
    split_seed: int
    skip_bad: bool = False
    validate: float | None = None
    parts_of_0_1_0: bool = False


@dataclass(frozen=True)
class Dataset:
    """An opened data set.

    Attributes:
        name: short and safe in a file name, e.g. "cifar10-jpeg".
        title: for people, e.g. "CIFAR-10 (JPEG q75)".
        fingerprint: SHA-256 (hex) over class names, labels and pixels in their order; no path and no container in it,
            and not which training images are held out: it is that of the data as the source has it.
        validation: the source's own validation part or held-out training images; None where there is neither.
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
        part_N: int8, the part each image belongs to: TRAIN, TEST or VALIDATION; None where the source has no parts.
        images: yields the decoded images (HWC, uint8) at the given indices, in that order, and raises DataError
            after the last one if any of them is broken, naming all that are.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels_N: Labels
    part_N: PartCodes | None
    decode: DecodeSpec
    images: Callable[[Indices], Iterator[Pixels]]
    notes: tuple[str, ...] = ()

    @property
    def has_test_part(self) -> bool:
        return self.part_N is not None and bool((self.part_N == TEST).any())


def images_a_block(side: int, at_32_px: int = 4096) -> int:
    """How many images to take at a time where work on them takes memory: `at_32_px` of 32 px, fewer of larger ones."""
    return max(1, at_32_px * 32**2 // max(side, 32) ** 2)
