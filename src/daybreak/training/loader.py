"""Training batches: the order of samples, the resolution of the moment, and the augmented images.

A batch is a pure function of (recipe, seed, step, progress): nothing in here advances, so any step can be asked for at
any time. Where its images come from: training/images.py.
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
from daybreak.runs.transforms import Normalizer, scale_pixels
from daybreak.training.augment import Draws, augment_batch, draw_epoch
from daybreak.training.balance import balanced_order
from daybreak.training.images import TrainingImages
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
        self._orders: dict[int, Tensor] = {}  # of the epochs last asked for

    @abstractmethod
    def size_at(self, progress: float) -> int:
        """The side in pixels of the images at this progress."""

    @abstractmethod
    def work_done(self, steps: int) -> float:
        """The share of the recipe's work in its first `steps` steps: what is left takes time in proportion."""

    @abstractmethod
    def batch(self, step: int, progress: float, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """What the net learns from in a step counted over the whole run, and its labels (B,).

        Args:
            rows: of the batch; the others are left out, and these are as they are with them.
        """

    def indices(self, step: int) -> Tensor:
        """Which samples are in the batch of a step: int64 (B,)."""
        epoch, at = divmod(step, self.steps_per_epoch)
        return self._order(epoch)[at * self.batch_size : (at + 1) * self.batch_size]

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            if self.recipe.balance == "sampling":
                order_N = balanced_order(self.labels_N.cpu().numpy(), self.seed, epoch)
            else:
                order_N = epoch_order(len(self.labels_N), self.seed, epoch)
            newest = dict(list(self._orders.items())[-1:])
            self._orders = newest | {epoch: torch.from_numpy(order_N).to(self.labels_N.device)}
        return self._orders[epoch]


class Loader(Batches):
    """Batches of augmented images.

    Args:
        labels_N: int64, on the training device.
        dtype: of the images handed out.
    """

    def __init__(
        self,
        recipe: Recipe,
        images: TrainingImages,
        labels_N: Tensor,
        normalize: Normalizer,
        seed: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(recipe, labels_N, seed)
        self.normalize, self.dtype, self.images = normalize, dtype, images
        self._drawn: tuple[int, Draws] | None = None  # of the epoch last asked for

    def size_at(self, progress: float) -> int:
        return side_at(self.recipe.resolution, progress, self.images.side)

    def work_done(self, steps: int) -> float:
        return self._pixels_before(steps) / self._pixels_before(self.steps)

    def batch(self, step: int, progress: float, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and labels (B,) of a step counted over the whole run, at the size of this progress."""
        draws = self._draws(step // self.steps_per_epoch)
        index_B, size, config = self.indices(step), self.size_at(progress), self.recipe.augment
        mine, index_B = draws.take(self._rows(step, index_B)[rows]), index_B[rows]
        padded_NHWC, at_B = self.images.padded(index_B, size, scale_pixels(config.crop, size))
        self.images.expect(self.indices(step + 1)[rows])
        images = augment_batch(config, padded_NHWC, at_B, mine, size, self.normalize, self.dtype)
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
