"""The transforms in plain PyTorch: one matrix product each on gathered tiles. Any floating dtype, no compiler.

The reference for the native transforms, and what takes their place where there is no C compiler. Maps are channels
last, (B, H, W, C); `at_points` is (P, T, C) with P = (m+2)² points and T tiles, images first, then down, then across.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from daybreak.models.winograd.minimal import Matrix, Minimal


def input(kind: Minimal, x_BHWC: Tensor, at_points_PTC: Tensor) -> None:
    """Bᵀ d B of every tile, with zeros around the map."""
    (_, height, width, _), m, side = x_BHWC.shape, kind.m, kind.side
    down, across = kind.tiles(height, width)
    padded = F.pad(x_BHWC, (0, 0, 1, m * across - width + 1, 1, m * down - height + 1))
    tiles = padded.unfold(1, side, m).unfold(2, side, m).permute(4, 5, 0, 1, 2, 3)
    _times(_both_ways(kind.input, x_BHWC.dtype), tiles.reshape(side**2, -1), at_points_PTC)


def input_transposed(kind: Minimal, at_points_PTC: Tensor, x_BHWC: Tensor) -> None:
    """The gradient of `input`: tiles overlap by two, and what falls on a pixel is added up."""
    (images, height, width, channels), m, side = x_BHWC.shape, kind.m, kind.side
    down, across = kind.tiles(height, width)
    flat = _both_ways(kind.input, x_BHWC.dtype).T @ at_points_PTC.flatten(1)
    tiles = flat.view(side, side, images, down, across, channels)
    sums = tiles.new_zeros(images, m * down + 2, m * across + 2, channels)
    for i in range(side):
        for j in range(side):
            sums[:, i : i + m * down : m, j : j + m * across : m] += tiles[i, j]
    x_BHWC.copy_(sums[:, 1 : height + 1, 1 : width + 1])


def output(kind: Minimal, at_points_PTK: Tensor, y_BHWK: Tensor) -> None:
    """Aᵀ M A of every tile; what lies outside the map is dropped."""
    (images, height, width, channels), m = y_BHWK.shape, kind.m
    down, across = kind.tiles(height, width)
    flat = _both_ways(kind.output, y_BHWK.dtype) @ at_points_PTK.flatten(1)
    whole = flat.view(m, m, images, down, across, channels).permute(2, 3, 0, 4, 1, 5)
    y_BHWK.copy_(whole.reshape(images, m * down, m * across, channels)[:, :height, :width])


def output_transposed(kind: Minimal, y_BHWK: Tensor, at_points_PTK: Tensor) -> None:
    """The gradient of `output`."""
    (images, height, width, channels), m = y_BHWK.shape, kind.m
    down, across = kind.tiles(height, width)
    padded = F.pad(y_BHWK, (0, 0, 0, m * across - width, 0, m * down - height))
    tiles = padded.reshape(images, down, m, across, m, channels).permute(2, 4, 0, 1, 3, 5)
    _times(_both_ways(kind.output, y_BHWK.dtype).T, tiles.reshape(m**2, -1), at_points_PTK)


def filters(kind: Minimal, weight_KC33: Tensor) -> Tensor:
    """G g Gᵀ of every filter: (P, C, K), in the weight's dtype."""
    out_channels, in_channels = weight_KC33.shape[:2]
    flat = weight_KC33.permute(2, 3, 1, 0).reshape(9, -1)
    return (_both_ways(kind.filter, weight_KC33.dtype) @ flat).view(-1, in_channels, out_channels)


def filters_transposed(kind: Minimal, at_points_PCK: Tensor) -> Tensor:
    """The gradient of `filters`: (K, C, 3, 3), channels last in memory."""
    _, in_channels, out_channels = at_points_PCK.shape
    flat = _both_ways(kind.filter, at_points_PCK.dtype).T @ at_points_PCK.flatten(1)
    weight_KC33 = flat.view(3, 3, in_channels, out_channels).permute(3, 2, 0, 1)
    return weight_KC33.contiguous(memory_format=torch.channels_last)


def _times(matrix: Tensor, tiles: Tensor, out: Tensor) -> None:
    out.copy_((matrix @ tiles).view(out.shape))


@lru_cache(maxsize=64)
def _both_ways_cached(content: bytes, rows: int, dtype: torch.dtype) -> Tensor:
    matrix = np.frombuffer(content).reshape(rows, -1)
    return torch.from_numpy(np.kron(matrix, matrix)).to(dtype)


def _both_ways(matrix: Matrix, dtype: torch.dtype) -> Tensor:
    """The matrix that transforms rows and columns of a flattened tile at once."""
    return _both_ways_cached(matrix.tobytes(), len(matrix), dtype)
