"""Augmentation: `draw_*` makes the random numbers, everything else uses them and is a pure function.

What happens to sample i in epoch e depends on (seed, e, i) alone: the numbers of a whole epoch are drawn at once
and indexed by sample, whatever the batch size, the resolution or the number of workers. Images are uint8 NHWC
until `normalize`, so that moving them stays cheap; sizes in pixels scale with the image (32 px is the reference).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from daybreak.core.config import Augment
from daybreak.runs.transforms import Normalizer, scale_pixels


@dataclass(frozen=True)
class Draws:
    """The random numbers of one epoch, a row a sample: what they become is decided where they are used."""

    crop_N2: Tensor  # uniform in [0, 1): vertical and horizontal position of the crop
    flip_N: Tensor  # bool
    cutout_N2: Tensor  # uniform in [0, 1): centre of the hole
    angle_N: Tensor  # degrees
    gain_N2: Tensor  # brightness offset (fraction of the full range) and contrast factor

    def take(self, index_B: Tensor) -> "Draws":
        """The rows of one batch."""
        return Draws(*(getattr(self, name)[index_B] for name in self.__dataclass_fields__))


def draw_epoch(config: Augment, samples: int, seed: int, epoch: int, device: torch.device) -> Draws:
    """Draw all random numbers of an epoch, for `samples` images."""
    rng = np.random.default_rng([seed, epoch])
    crop = rng.random((samples, 2), dtype=np.float32)
    flip = draw_flip(config, samples, seed, epoch)
    cutout = rng.random((samples, 2), dtype=np.float32)
    signed = rng.uniform(-1, 1, (samples, 3)).astype(np.float32)
    angle = signed[:, 0] * config.rotation
    gain = np.stack([signed[:, 1] * config.brightness, 1 + signed[:, 2] * config.contrast], 1)
    return Draws(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (crop, flip, cutout, angle, gain)))


def draw_flip(config: Augment, samples: int, seed: int, epoch: int) -> np.ndarray:
    """Which samples are mirrored, bool (N,). `alternating` mirrors in odd epochs what it did not in even ones, so
    that two epochs show every image both ways (Jordan 2024, section 3.6)."""
    if config.flip == "none":
        return np.zeros(samples, dtype=bool)
    draw_from = 0 if config.flip == "alternating" else epoch
    flipped = np.random.default_rng([seed, draw_from, 1]).random(samples) < 0.5
    return ~flipped if config.flip == "alternating" and epoch % 2 else flipped


def crop(padded_NHWC: Tensor, index_B: Tensor, position_B2: Tensor, size: int) -> Tensor:
    """Images `index_B` of a padded set, each cut to `size` at its own position in [0, 1)."""
    shifts = padded_NHWC.shape[1] - size + 1
    windows = _windows(padded_NHWC, shifts, size)
    top_B, left_B = (position_B2 * shifts).long().clamp(max=shifts - 1).unbind(1)
    return windows[index_B, top_B, left_B].unflatten(2, (size, -1))


def flip(images_BHWC: Tensor, flip_B: Tensor) -> Tensor:
    """Mirror the images for which `flip_B` is true, left to right."""
    return torch.where(flip_B.view(-1, 1, 1, 1), images_BHWC.flip(2), images_BHWC)


def cutout(images_BCHW: Tensor, centre_B2: Tensor, hole: int) -> Tensor:
    """A square of side `hole` set to zero, the mean after `normalize`; wholly inside the image (DeVries 2017)."""
    size = images_BCHW.shape[2]
    start_B2 = (centre_B2 * (size - hole + 1)).long().clamp(max=size - hole)  # 0.9999999 * n can round to n
    at_S = torch.arange(size, device=images_BCHW.device)
    inside_B2S = (at_S >= start_B2[:, :, None]) & (at_S < start_B2[:, :, None] + hole)
    hole_BHW = inside_B2S[:, 0, :, None] & inside_B2S[:, 1, None, :]
    return images_BCHW.masked_fill(hole_BHW[:, None], 0)


def rotate(images_BCHW: Tensor, angle_B: Tensor) -> Tensor:
    """Each image turned counter-clockwise about its centre by `angle_B` degrees, bilinear, borders reflected."""
    radians = angle_B.float() * (math.pi / 180)
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    turn_B23 = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(turn_B23, list(images_BCHW.shape), align_corners=False).to(images_BCHW.dtype)
    return F.grid_sample(images_BCHW, grid, padding_mode="reflection", align_corners=False)


def augment_batch(
    config: Augment,
    padded_NHWC: Tensor,
    index_B: Tensor,
    mine: Draws,
    size: int,
    normalize: Normalizer,
    dtype: torch.dtype,
) -> Tensor:
    """The training images of one batch: (B, C, size, size) in `dtype`, channels last.

    Args:
        padded_NHWC: all training images at `size` plus their padding, uint8.
        index_B: which images.
        mine: their random numbers, a row an image of the batch.
    """
    images = flip(crop(padded_NHWC, index_B, mine.crop_N2, size), mine.flip_N)
    images = normalize(images, gain_N2=mine.gain_N2 if config.brightness or config.contrast else None)
    if config.rotation:
        images = rotate(images, mine.angle_N)
    if config.cutout:
        images = cutout(images, mine.cutout_N2, scale_pixels(config.cutout, size))
    images = images.to(dtype)  # last: turning an image needs more than the eight bits of bfloat16
    return images.contiguous(memory_format=torch.channels_last)  # turning and cutting out leave another layout


def _windows(padded_NHWC: Tensor, shifts: int, size: int) -> Tensor:
    """All crops of all images as a view (N, shifts, shifts, size, size * C): indexing it copies whole pixel rows,
    which is ten times faster than gathering pixels."""
    n, _, _, channels = padded_NHWC.shape
    image, row, column, _ = padded_NHWC.stride()
    return padded_NHWC.as_strided((n, shifts, shifts, size, size * channels), (image, row, column, row, 1))
