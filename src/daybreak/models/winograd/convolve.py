"""3×3 convolutions of stride 1 by minimal filtering: forward and both gradients.

With V = Bᵀ d B (tiles of the input), U = G g Gᵀ (filters) and one matrix product for each of the (m+2)² points,
M = V·U, the output is Y = Aᵀ M A; and its gradients are those of this very computation (Lavin & Gray 2015):

    dM = A dY Aᵀ      dU = Vᵀ·dM   dg = Gᵀ dU G      dV = dM·Uᵀ   dd = B dV Bᵀ, added up over overlapping tiles

A few images are taken through all of it at a time, so that V and M stay in the caches; V is computed again for the
backward pass, which takes a thirtieth of the time of a wide layer (benchmarks/LOG.md).
"""

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from daybreak.models.minimal import KNOWN, Minimal
from daybreak.models.native.build import channels_last, takes
from daybreak.models.winograd import native, plain
from daybreak.models.winograd.fixed import transformed
from daybreak.models.winograd.whole import Whole, can_be_whole, outputs

BLOCK = 2_000_000  # elements of V and M together that are worked on at a time, by a CPU


class _Blocks:
    """The same space for every few images: V (P, T, C) and M (P, T, K)."""

    def __init__(self, kind: Minimal, x_BHWC: Tensor, out_channels: int) -> None:
        images, height, width, in_channels = x_BHWC.shape
        down, across = kind.tiles(height, width)
        self.tiles, self.points = down * across, kind.side**2
        room = BLOCK if x_BHWC.device.type == "cpu" else math.inf
        fitting = round(min(images, room / (self.points * self.tiles * (in_channels + out_channels))))
        self.images, self.total = max(1, fitting), images
        rows = self.points * self.images * self.tiles
        self._v, self._m = x_BHWC.new_empty(rows, in_channels), x_BHWC.new_empty(rows, out_channels)

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Which images, and V and M for as many: contiguous, as only then all of their products are one call of the
        BLAS."""
        for start in range(0, self.total, self.images):
            those = slice(start, min(start + self.images, self.total))
            rows = self.points * (those.stop - those.start) * self.tiles
            v, m = (space[:rows].view(self.points, -1, space.shape[1]) for space in (self._v, self._m))
            yield those, v, m


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor, weight_KC33: Tensor, kind: Minimal, pools: bool) -> Tensor:
        x_BHWC = channels_last(x_NCHW)
        u_PCK = _at_points(kind, weight_KC33, x_NCHW.dtype)
        transforms = transforms_for(kind, x_NCHW)
        y_BHWK, pool = outputs(x_BHWC, len(weight_KC33), pools)
        for those, v_PTC, m_PTK in _Blocks(kind, x_BHWC, len(weight_KC33)):
            transforms.input(kind, x_BHWC[those], v_PTC)
            torch.bmm(v_PTC, u_PCK, out=m_PTK)
            transforms.output(kind, m_PTK, y_BHWK[those], pool and pool[those])
        ctx.save_for_backward(x_NCHW, weight_KC33)
        ctx.kind, ctx.pool = kind, pool
        return y_BHWK.permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy_NKHW: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x_NCHW, weight_KC33 = ctx.saved_tensors
        kind, pool, (needs_dx, needs_dw, *_) = ctx.kind, ctx.pool, ctx.needs_input_grad
        x_BHWC, dy_BHWK = channels_last(x_NCHW), channels_last(dy_NKHW.to(x_NCHW.dtype))
        transforms = transforms_for(kind, x_NCHW)
        u_PKC = _at_points_transposed(kind, weight_KC33, x_NCHW.dtype)
        du_PCK = weight_KC33.new_zeros(len(u_PKC), x_BHWC.shape[3], len(weight_KC33))
        dx_BHWC = torch.empty_like(x_BHWC) if needs_dx else None
        for those, v_PTC, dm_PTK in _Blocks(kind, x_BHWC, len(weight_KC33)):
            transforms.output_transposed(kind, dy_BHWK[those], dm_PTK, pool and pool[those])
            if needs_dw:
                transforms.input(kind, x_BHWC[those], v_PTC)
                _add_product(du_PCK, v_PTC.transpose(1, 2), dm_PTK)
            if dx_BHWC is not None:
                torch.bmm(dm_PTK, u_PKC, out=v_PTC)
                transforms.input_transposed(kind, v_PTC, dx_BHWC[those])
        dx_NCHW = None if dx_BHWC is None else dx_BHWC.permute(0, 3, 1, 2)
        return dx_NCHW, plain.filters_transposed(kind, du_PCK) if needs_dw else None, None, None


def winograd(x_NCHW: Tensor, weight_KC33: Tensor, kind: Minimal, whole: bool = False, pools: bool = False) -> Tensor:
    """The 3×3 convolution of stride 1 with zero padding by one: (N, K, H, W), channels last, in the dtype of `x_NCHW`.

    Args:
        weight_KC33: in the same dtype, or wider: filters are rounded after their transform.
        whole: all of it in one native loop, where there is one for these tensors.
        pools: and its largest values over windows of 2×2, (N, K, H // 2, W // 2): what lies before the pool is never
            in memory, and neither is its gradient.
    """
    way = Whole if whole and can_be_whole(kind, x_NCHW, weight_KC33) else _Winograd
    y_NKHW: Tensor = way.apply(x_NCHW, weight_KC33, kind, pools)  # type: ignore[no-untyped-call]
    return y_NKHW


def transforms_for(kind: Minimal, x: Tensor) -> ModuleType:
    """Native transforms where they can be had for this tensor and these points, else the plain ones."""
    return native if kind in KNOWN.values() and takes(x) else plain


def _at_points(kind: Minimal, weight_KC33: Tensor, dtype: torch.dtype) -> Tensor:
    return transformed(weight_KC33, (kind, dtype), lambda weight: plain.filters(kind, weight).to(dtype))


def _at_points_transposed(kind: Minimal, weight_KC33: Tensor, dtype: torch.dtype) -> Tensor:
    def transform(weight: Tensor) -> Tensor:
        return plain.filters(kind, weight).to(dtype).transpose(1, 2).contiguous()

    return transformed(weight_KC33, (kind, dtype, "transposed"), transform)


def _add_product(sum_PCK: Tensor, v_PCT: Tensor, dm_PTK: Tensor) -> None:
    """Over many blocks: the sum stays as wide as the weights are."""
    if sum_PCK.dtype == v_PCT.dtype:
        sum_PCK.baddbmm_(v_PCT, dm_PTK)
    else:
        sum_PCK += torch.bmm(v_PCT, dm_PTK)
