"""Resizing as Pillow and PyTorch do it for bytes, in plain arithmetic that every graph format has.

The anti-aliasing of the formats' own operators differs from one runtime to the next, and none of them looks beyond the
edges of a centre square as Pillow does. Here a line of pixels is a product with a small matrix, whose rows are the
filter, stretched where the image shrinks (Pillow's `precompute_coeffs`).
"""

from collections.abc import Callable

import torch
from torch import Tensor

Kernel = Callable[[Tensor], Tensor]


def cubic(x: Tensor) -> Tensor:
    """Keys' cubic with a = -1/2 (Keys 1981), Pillow's BICUBIC."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def triangle(x: Tensor) -> Tensor:
    """Linear interpolation."""
    return (1 - x.abs()).clamp(min=0)


RADIUS: dict[Kernel, float] = {cubic: 2.0, triangle: 1.0}


def weights(kernel: Kernel, length: int, start: int, extent: int, side: int) -> Tensor:
    """What each of `length` pixels of a line counts in each of `side` pixels that are made of a part of it.

    Args:
        start: where the part begins. Its neighbours outside count where the filter reaches them.
        extent: pixels of the part.

    Returns:
        (side, length), float64; rows add up to one.
    """
    scale = extent * torch.ones((), dtype=torch.float64) / side
    stretch = scale.clamp(min=1)
    centre_S1 = (start + (torch.arange(side, dtype=torch.float64) + 0.5) * scale)[:, None]
    at_L = torch.arange(length, dtype=torch.float64)
    first_S1 = (centre_S1 - RADIUS[kernel] * stretch + 0.5).floor()
    last_S1 = (centre_S1 + RADIUS[kernel] * stretch + 0.5).floor()
    inside_SL = (at_L >= first_S1) & (at_L < last_S1)
    found_SL = torch.where(inside_SL, kernel((at_L + 0.5 - centre_S1) / stretch), torch.zeros_like(centre_S1))
    return found_SL / found_SL.sum(1, keepdim=True)


def in_sixteen_bits(weights_SL: Tensor) -> Tensor:
    """Weights as PyTorch rounds them for images of bytes: to the last of as many binary places as sixteen bits have
    room for (`compute_index_ranges_int16_weights`)."""
    largest = weights_SL.max().item()
    places = next(p for p in range(22, 0, -1) if int(0.5 + largest * 2**p) < 2**15)
    return (weights_SL * 2**places).round() / 2**places


def resample(images_NCHW: Tensor, rows_SH: Tensor, columns_SW: Tensor) -> Tensor:
    """Levels of 0 to 255 at another size, whole again: along the lines first and then across, whole in between too."""
    narrow = _whole(images_NCHW @ columns_SW.T.float())
    return _whole(rows_SH.float() @ narrow)


def _whole(levels: Tensor) -> Tensor:
    return (levels + 0.5).floor().clamp(0, 255)
