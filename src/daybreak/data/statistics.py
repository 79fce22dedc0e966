"""Mean and deviation of an image's channels, from how often each of the 256 levels occurs."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from daybreak.data.dataset import images_a_block
from daybreak.data.image import Pixels

if TYPE_CHECKING:
    from torch import Tensor  # for its type alone: opening data needs no torch

Array = TypeVar("Array", npt.NDArray[np.float64], "Tensor")


def moments(share_CL: Array, level_L: Array) -> tuple[Array, Array]:
    """Mean and variance (C,) of channels with these shares of each level; NumPy arrays or tensors, float64.

    Rounding may make a variance of nothing negative.
    """
    mean_C = share_CL @ level_L
    return mean_C, share_CL @ level_L**2 - mean_C**2


def mean_and_std(images_NHWC: Pixels) -> tuple[list[float], list[float]]:
    """Of each channel over all pixels, on the scale of [0, 1]; the pixels are counted in blocks that fit in memory."""
    counts_CL = _counts(images_NHWC)
    mean_C, variance_C = moments(counts_CL / counts_CL.sum(1, keepdims=True), np.arange(256) / 255)
    return mean_C.tolist(), np.sqrt(variance_C.clip(min=0)).tolist()


def _counts(images_NHWC: Pixels) -> npt.NDArray[np.int64]:
    channels = images_NHWC.shape[3]
    counts_CL = np.zeros((channels, 256), np.int64)
    block = images_a_block(images_NHWC.shape[1])
    for start in range(0, len(images_NHWC), block):
        for c in range(channels):
            counts_CL[c] += np.bincount(images_NHWC[start : start + block, ..., c].ravel(), minlength=256)
    return counts_CL
