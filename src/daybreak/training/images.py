"""Where the loader's images are: all of them on the training device, or in the cache on disk, read ahead of the step.

Both give the same bits. On the device an epoch's images are resized and padded once; from disk a batch's are, each
time, which costs little, and memory holds two batches whatever the data set has.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from daybreak.core.launcher import launch
from daybreak.core.machine import memory_bytes
from daybreak.data.dataset import Split, images_a_block, release
from daybreak.runs.transforms import pad_reflect, resize


class TrainingImages(ABC):
    """uint8 images at the side in px at which a net is trained at scale 1.

    Attributes:
        side, channels: of every image.
    """

    side: int
    channels: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, index_M: np.ndarray) -> Tensor:
        """Images (M, side, side, C), on the training device."""

    @abstractmethod
    def padded(self, index_B: Tensor, size: int, pad: int) -> tuple[Tensor, Tensor]:
        """Images at another size with `pad` mirrored pixels around, on the device, and where in them those at
        `index_B` are: int64 (B,)."""

    def blocks(self) -> Iterator[Tensor]:
        """All images in order, as many at a time as memory takes easily."""
        block = images_a_block(self.side)
        for start in range(0, len(self), block):
            yield self.take(np.arange(start, min(start + block, len(self))))

    @abstractmethod
    def expect(self, index_B: Tensor) -> None:
        """Hear what the next batch will be."""


class Resident(TrainingImages):
    """All images on the training device (CIFAR-10: 154 MB), and a second time as they are needed at the moment.

    Args:
        images_NHWC: uint8, square, on the device.
    """

    def __init__(self, images_NHWC: Tensor) -> None:
        self.images_NHWC = images_NHWC
        _, self.side, _, self.channels = images_NHWC.shape
        self._prepared, self._padded_NHWC = (0, 0), images_NHWC

    def __len__(self) -> int:
        return len(self.images_NHWC)

    def take(self, index_M: np.ndarray) -> Tensor:
        return self.images_NHWC[index_M]

    def blocks(self) -> Iterator[Tensor]:
        yield self.images_NHWC

    def padded(self, index_B: Tensor, size: int, pad: int) -> tuple[Tensor, Tensor]:
        if (size, pad) != self._prepared:  # when the schedule gets there: 0.3 s for CIFAR-10
            self._padded_NHWC = pad_reflect(resize(self.images_NHWC, size), pad)
            self._prepared = (size, pad)
        return self._padded_NHWC, index_B

    def expect(self, index_B: Tensor) -> None: ...


class Streamed(TrainingImages):
    """Images read from the memory-mapped cache where they are needed; the next batch while the net takes a step.

    Args:
        part: whose images are memory-mapped.
        side: px, to which they are resized.
    """

    def __init__(self, part: Split, side: int, device: torch.device) -> None:
        self._images_NHWC, self.side, self._device = part.images_NHWC, side, device
        self.channels = part.images_NHWC.shape[3]
        self._reader = ThreadPoolExecutor(1, "daybreak-reader")
        self._expected: tuple[np.ndarray, Future[Tensor]] | None = None

    def __len__(self) -> int:
        return len(self._images_NHWC)

    def take(self, index_M: np.ndarray) -> Tensor:
        return self._at_full_size(self._read(index_M))

    def padded(self, index_B: Tensor, size: int, pad: int) -> tuple[Tensor, Tensor]:
        index = index_B.cpu().numpy()
        expected, self._expected = self._expected, None
        is_there = expected is not None and np.array_equal(expected[0], index)
        raw_BHWC = expected[1].result() if expected and is_there else self._read(index)
        images_BHWC = pad_reflect(resize(self._at_full_size(raw_BHWC), size), pad)
        return images_BHWC, torch.arange(len(index), device=self._device)

    def expect(self, index_B: Tensor) -> None:
        index = index_B.cpu().numpy()
        self._expected = (index, self._reader.submit(self._read, index))

    def _read(self, index_M: np.ndarray) -> Tensor:
        """Copies, in memory from which an accelerator can fetch them by itself; read in the order of the file."""
        order = np.argsort(index_M, kind="stable")
        found = torch.empty((len(index_M), *self._images_NHWC.shape[1:]), dtype=torch.uint8)
        found.numpy()[order] = self._images_NHWC[index_M[order]]
        release(self._images_NHWC)
        return found.pin_memory() if self._device.type == "cuda" else found

    def _at_full_size(self, raw_MHWC: Tensor) -> Tensor:
        return resize(raw_MHWC.to(self._device, non_blocking=True), self.side)


def training_images(part: Split, side: int, pad: int, device: torch.device, memory: int | None) -> TrainingImages:
    """The images of a part at this side in px: in memory where they fit, else read as they are needed.

    Args:
        pad: px, with which they are padded at most.
        memory: bytes that they may take, padded ones included; None for half of what is free on the device.
    """
    count, _, _, channels = part.images_NHWC.shape
    wanted = int(count) * channels * (side**2 + (side + 2 * pad) ** 2)
    if wanted > (_free_bytes(device) // 2 if memory is None else memory):
        return Streamed(part, side, device)
    return Resident(resize(torch.from_numpy(np.array(part.images_NHWC)).to(device), side))


def _free_bytes(device: torch.device) -> int:
    """For this process, of several that a launcher has started here."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return memory_bytes()[1] // launch().local_size
