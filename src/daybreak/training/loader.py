"""Training batches: the order of samples, the resolution of the moment, and the augmented images.

All images live on the training device as uint8 (CIFAR-10: 154 MB). A batch is a pure function of
(recipe, seed, step, progress): nothing in here advances, so any step can be asked for at any time.
Epochs are whole batches: the few images left over are others in every epoch.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from daybreak.core.config import Recipe, Stage
from daybreak.runs.transforms import Normalizer, pad_reflect, resize, scale_pixels
from daybreak.training.augment import Draws, augment_batch, draw_epoch
from daybreak.training.balance import balanced_order
from daybreak.training.schedule import scale_at

MIN_SIZE = 9  # px: below this the nets' pools leave nothing


def epoch_order(samples: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch visits its samples: int64 (N,)."""
    return np.random.default_rng([seed, epoch, 2]).permutation(samples)


def side_at(stages: Sequence[Stage], progress: float, full: int) -> int:
    """The side in pixels at this progress of images that have `full` at scale 1."""
    return max(MIN_SIZE, round(full * scale_at(stages, progress)))


class Batches(ABC):
    """How many steps there are, and which samples are in each: a function of recipe, seed and step.

    Args:
        labels_N: int64, on the training device.
    """

    def __init__(self, recipe: Recipe, labels_N: Tensor, seed: int) -> None:
        self.recipe, self.labels_N, self.seed = recipe, labels_N, seed
        self.batch_size = min(recipe.batch_size, len(labels_N))
        self.steps_per_epoch = len(labels_N) // self.batch_size
        epochs = max(recipe.epochs, math.ceil(recipe.min_steps / self.steps_per_epoch))
        self.steps = recipe.steps or self.steps_per_epoch * epochs
        self.epochs = math.ceil(self.steps / self.steps_per_epoch)
        self._ordered: tuple[int, Tensor] | None = None  # of the epoch last asked for

    @abstractmethod
    def size_at(self, progress: float) -> int:
        """The side in pixels of the images at this progress."""

    @abstractmethod
    def work_done(self, steps: int) -> float:
        """The share of the recipe's work in its first `steps` steps: what is left takes time in proportion."""

    @abstractmethod
    def batch(self, step: int, progress: float) -> tuple[Tensor, Tensor]:
        """What the net learns from in a step counted over the whole run, and its labels (B,)."""

    def indices(self, step: int) -> Tensor:
        """Which samples are in the batch of a step: int64 (B,)."""
        epoch, at = divmod(step, self.steps_per_epoch)
        return self._order(epoch)[at * self.batch_size : (at + 1) * self.batch_size]

    def _order(self, epoch: int) -> Tensor:
        if self._ordered is None or self._ordered[0] != epoch:
            if self.recipe.balance == "sampling":
                order_N = balanced_order(self.labels_N.cpu().numpy(), self.seed, epoch)
            else:
                order_N = epoch_order(len(self.labels_N), self.seed, epoch)
            self._ordered = (epoch, torch.from_numpy(order_N).to(self.labels_N.device))
        return self._ordered[1]


class Loader(Batches):
    """Batches of augmented images.

    Args:
        images_NHWC: all training images, uint8, square, on the training device.
        labels_N: int64, on the same device.
        dtype: of the images handed out.
    """

    def __init__(
        self,
        recipe: Recipe,
        images_NHWC: Tensor,
        labels_N: Tensor,
        normalize: Normalizer,
        seed: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(recipe, labels_N, seed)
        self.normalize, self.dtype, self.images_NHWC = normalize, dtype, images_NHWC
        self._drawn: tuple[int, Draws] | None = None  # of the epoch last asked for
        self._size, self._padded_NHWC = 0, images_NHWC

    def size_at(self, progress: float) -> int:
        return side_at(self.recipe.resolution, progress, self.images_NHWC.shape[1])

    def work_done(self, steps: int) -> float:
        return self._pixels_before(steps) / self._pixels_before(self.steps)

    def batch(self, step: int, progress: float) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and labels (B,) of a step counted over the whole run, at the size of this progress."""
        draws = self._draws(step // self.steps_per_epoch)
        index_B, size = self.indices(step), self.size_at(progress)
        padded_NHWC = self._padded_at(size)
        mine = draws.take(self._rows(step, index_B))
        images = augment_batch(self.recipe.augment, padded_NHWC, index_B, mine, size, self.normalize, self.dtype)
        return images, self.labels_N[index_B]

    def _rows(self, step: int, index_B: Tensor) -> Tensor:
        """Whose random numbers a step's images get: their own, or, where an epoch may show one several times, those of
        their place in it."""
        if self.recipe.balance != "sampling":
            return index_B
        first = step % self.steps_per_epoch * self.batch_size
        return torch.arange(first, first + self.batch_size, device=index_B.device)

    def _pixels_before(self, step: int) -> int:
        """Pixels of an image in each of the first steps, added up."""
        ends = [*self._stage_starts[1:], self.steps]
        pairs = zip(self._stage_starts, ends, strict=True)
        return sum(
            (min(step, end) - start) * self.size_at(start / self.steps) ** 2 for start, end in pairs if start < step
        )

    @cached_property
    def _stage_starts(self) -> list[int]:
        """The first step of each image size."""
        return [0, *(self._first_step_from(stage.until) for stage in self.recipe.resolution[:-1])]

    def _first_step_from(self, progress: float) -> int:
        step = math.ceil(progress * self.steps)  # which may be off by one, as both are rounded
        while step > 0 and (step - 1) / self.steps >= progress:
            step -= 1
        while step / self.steps < progress:
            step += 1
        return step

    def _draws(self, epoch: int) -> Draws:
        """The random numbers of an epoch's samples."""
        if self._drawn is None or self._drawn[0] != epoch:
            samples, device = len(self.labels_N), self.labels_N.device
            self._drawn = (epoch, draw_epoch(self.recipe.augment, samples, self.seed, epoch, device))
        return self._drawn[1]

    def _padded_at(self, size: int) -> Tensor:
        """The whole set at one resolution, prepared once when the schedule gets there (0.3 s for CIFAR-10)."""
        if size != self._size:
            images_NHWC = resize(self.images_NHWC, size)
            self._padded_NHWC = pad_reflect(images_NHWC, scale_pixels(self.recipe.augment.crop, size))
            self._size = size
        return self._padded_NHWC
