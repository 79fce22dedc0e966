"""The transforms in plain PyTorch: one matrix product each on gathered tiles. Any floating dtype, no compiler.

The reference for the native transforms, and what takes their place where there is no C compiler. Maps are channels
last, (B, H, W, C); `at_points` is (P, T, C) with P = (m+2)² points and T tiles, images first, then down, then across.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from daybreak.models.minimal import Matrix, Minimal


@dataclass(frozen=True)
class Pool:
    """A max-pool by two behind an output, whose maps are then half as high and wide.

    Attributes:
        size: height and width before it.
        where_BHWK: uint8, in the shape of what it leaves: which of a window's four values, row by row, was the largest.
    """

    size: tuple[int, int]
    where_BHWK: Tensor

    @classmethod
    def by_two(cls, maps_BHWC: Tensor, channels: int) -> "Pool":
        """Of so many channels at the size of these maps."""
        images, height, width = maps_BHWC.shape[:3]
        where = maps_BHWC.new_empty(images, height // 2, width // 2, channels, dtype=torch.uint8)
        return cls((height, width), where)

    def __getitem__(self, images: slice) -> "Pool":
        return Pool(self.size, self.where_BHWK[images])


def input(kind: Minimal, x_BHWC: Tensor, at_points_PTC: Tensor) -> None:
    """Bᵀ d B of every tile, with zeros around the map."""
    (_, height, width, _), m, side = x_BHWC.shape, kind.m, kind.side
    down, across = kind.tiles(height, width)
    padded = F.pad(x_BHWC, (0, 0, 1, m * across - width + 1, 1, m * down - height + 1))
    tiles = padded.unfold(1, side, m).unfold(2, side, m).permute(4, 5, 0, 1, 2, 3)
    _times(_both_ways(kind.input, x_BHWC), tiles.reshape(side**2, -1), at_points_PTC)


def input_transposed(kind: Minimal, at_points_PTC: Tensor, x_BHWC: Tensor) -> None:
    """The gradient of `input`: tiles overlap by two, and what falls on a pixel is added up."""
    (images, height, width, channels), m, side = x_BHWC.shape, kind.m, kind.side
    down, across = kind.tiles(height, width)
    flat = _both_ways(kind.input, x_BHWC).T @ at_points_PTC.flatten(1)
    tiles = flat.view(side, side, images, down, across, channels)
    sums = tiles.new_zeros(images, m * down + 2, m * across + 2, channels)
    for i in range(side):
        for j in range(side):
            sums[:, i : i + m * down : m, j : j + m * across : m] += tiles[i, j]
    x_BHWC.copy_(sums[:, 1 : height + 1, 1 : width + 1])


def output(kind: Minimal, at_points_PTK: Tensor, y_BHWK: Tensor, pool: Pool | None = None) -> None:
    """Aᵀ M A of every tile; what lies outside the map is dropped. With a pool, its largest values and their places."""
    (images, _, _, channels), m = y_BHWK.shape, kind.m
    height, width = pool.size if pool else y_BHWK.shape[1:3]
    down, across = kind.tiles(height, width)
    flat = _both_ways(kind.output, y_BHWK) @ at_points_PTK.flatten(1)
    whole = flat.view(m, m, images, down, across, channels).permute(2, 3, 0, 4, 1, 5)
    found = whole.reshape(images, m * down, m * across, channels)[:, :height, :width]
    if pool:
        found, places = _windows(found).max(3)
        pool.where_BHWK.copy_(places)
    y_BHWK.copy_(found)


def output_transposed(kind: Minimal, y_BHWK: Tensor, at_points_PTK: Tensor, pool: Pool | None = None) -> None:
    """The gradient of `output`."""
    (images, _, _, channels), m = y_BHWK.shape, kind.m
    height, width = pool.size if pool else y_BHWK.shape[1:3]
    down, across = kind.tiles(height, width)
    padded = y_BHWK.new_zeros(images, m * down, m * across, channels)
    mine = padded[:, :height, :width]
    if pool:
        spread = torch.zeros_like(y_BHWK).unsqueeze(3).repeat(1, 1, 1, 4, 1)
        spread.scatter_(3, pool.where_BHWK.long().unsqueeze(3), y_BHWK.unsqueeze(3))
        _whole_windows(mine).copy_(spread.unflatten(3, (2, 2)).permute(0, 1, 3, 2, 4, 5))
    else:
        mine.copy_(y_BHWK)
    tiles = padded.reshape(images, down, m, across, m, channels).permute(2, 4, 0, 1, 3, 5)
    _times(_both_ways(kind.output, y_BHWK).T, tiles.reshape(m**2, -1), at_points_PTK)


def _whole_windows(maps_BHWC: Tensor) -> Tensor:
    """A view of the windows of a pool by two, (B, H/2, 2, W/2, 2, C), without a last row or column that is in none."""
    height, width = (size // 2 * 2 for size in maps_BHWC.shape[1:3])
    return maps_BHWC[:, :height, :width].unflatten(2, (-1, 2)).unflatten(1, (-1, 2))


def _windows(maps_BHWC: Tensor) -> Tensor:
    """(B, H/2, W/2, 4, C)"""
    return _whole_windows(maps_BHWC).permute(0, 1, 3, 2, 4, 5).flatten(3, 4)


def filters(kind: Minimal, weight_KC33: Tensor) -> Tensor:
    """G g Gᵀ of every filter: (P, C, K), in the weight's dtype."""
    out_channels, in_channels = weight_KC33.shape[:2]
    flat = weight_KC33.permute(2, 3, 1, 0).reshape(9, -1)
    return (_both_ways(kind.filter, weight_KC33) @ flat).view(-1, in_channels, out_channels)


def filters_transposed(kind: Minimal, at_points_PCK: Tensor) -> Tensor:
    """The gradient of `filters`: (K, C, 3, 3), channels last in memory."""
    _, in_channels, out_channels = at_points_PCK.shape
    # The long side first: of a few long rows, matrix libraries give each thread a part of every sum, and bits would
    # depend on the number of threads (on AMD's processors they did).
    flat = at_points_PCK.flatten(1).T @ _both_ways(kind.filter, at_points_PCK)
    weight_KC33 = flat.view(in_channels, out_channels, 3, 3).permute(1, 0, 2, 3)
    return weight_KC33.contiguous(memory_format=torch.channels_last)


def _times(matrix: Tensor, tiles: Tensor, out: Tensor) -> None:
    out.copy_((matrix @ tiles).view(out.shape))


@lru_cache(maxsize=64)
def _both_ways_cached(content: bytes, rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    matrix = np.frombuffer(content).reshape(rows, -1)
    return torch.from_numpy(np.kron(matrix, matrix)).to(device, dtype)


def _both_ways(matrix: Matrix, like: Tensor) -> Tensor:
    """The matrix that transforms rows and columns of a flattened tile at once, in the format and place of a tensor."""
    return _both_ways_cached(matrix.tobytes(), len(matrix), like.dtype, like.device)
