"""3×3 convolutions by minimal filtering in one native loop each: see models/native/winograd_whole.h.

As models/winograd/convolve, but a thread takes a few rows of tiles from the map through transforms and products to
the other map, and works on matrices that never leave its cache. That pays where the filters, at the points, fit into
the cache as well: in layers with few channels, which spend most of their time on moving numbers. float32 only.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daybreak.models.minimal import KNOWN, Minimal
from daybreak.models.native.build import call, channels_last, lanes, takes
from daybreak.models.winograd import plain
from daybreak.models.winograd.fixed import transformed
from daybreak.models.winograd.plain import Pool

ROOM = 200_000  # numbers that a thread works on at a time: 0.8 MB, of the 1 or 2 MB that a core has
MAX_FILTERS = 500_000  # numbers of a layer's filters at the points: 2 MB, and GROUPS times as much for their gradients
GROUPS = 16  # of images, whose gradients of filters are summed by themselves: bits do not depend on the threads


class _Layer(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("images", "height", "width", "in_channels", "out_channels", "groups", "room")
    ]


class Whole(torch.autograd.Function):
    """(x_NCHW, weight_KC33, kind, pools) to y_NKHW, float32; only where `can_be_whole`."""

    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor, weight_KC33: Tensor, kind: Minimal, pools: bool) -> Tensor:
        x_BHWC = channels_last(x_NCHW)
        u_PCK = _at_points(kind, weight_KC33)
        y_BHWK, pool = outputs(x_BHWC, len(weight_KC33), pools)
        where = pool.where_BHWK if pool else None
        call(f"forward_{len(kind.pairs)}_float", _layer(x_BHWC, weight_KC33), x_BHWC, u_PCK, y_BHWK, where)
        ctx.save_for_backward(x_NCHW, weight_KC33, where)
        ctx.kind = kind
        return y_BHWK.permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy_NKHW: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x_NCHW, weight_KC33, where = ctx.saved_tensors
        kind, (needs_dx, needs_dw, *_) = ctx.kind, ctx.needs_input_grad
        x_BHWC, dy_BHWK = channels_last(x_NCHW), channels_last(dy_NKHW)
        layer, (out_channels, in_channels) = _layer(x_BHWC, weight_KC33), weight_KC33.shape[:2]
        u_PKC = _at_points_transposed(kind, weight_KC33)
        dx_BHWC = torch.empty_like(x_BHWC) if needs_dx else None
        sums = (layer.groups, len(u_PKC), u_PKC.shape[2], _whole_vectors(out_channels))
        du_GPCK = x_BHWC.new_zeros(sums) if needs_dw else None
        call(f"backward_{len(kind.pairs)}_float", layer, x_BHWC, dy_BHWK, u_PKC, dx_BHWC, du_GPCK, where)
        dw = None if du_GPCK is None else plain.filters_transposed(kind, du_GPCK[0, :, :in_channels, :out_channels])
        return None if dx_BHWC is None else dx_BHWC.permute(0, 3, 1, 2), dw, None, None


def can_be_whole(kind: Minimal, x: Tensor, weight: Tensor) -> bool:
    """Whether the native loop is there for these points, device and number format, and the filters are small enough."""
    fits = kind.side**2 * weight.shape[0] * weight.shape[1] <= MAX_FILTERS
    return fits and kind in KNOWN.values() and x.dtype == weight.dtype == torch.float32 and takes(x)


def outputs(x_BHWC: Tensor, channels: int, pools: bool) -> tuple[Tensor, Pool | None]:
    """Room for the output of a convolution, or for what a pool leaves of it, and for where that was."""
    images, height, width, _ = x_BHWC.shape
    size = (height // 2, width // 2) if pools else (height, width)
    return x_BHWC.new_empty(images, *size, channels), Pool.by_two(x_BHWC, channels) if pools else None


def _layer(x_BHWC: Tensor, weight_KC33: Tensor) -> _Layer:
    return _Layer(*x_BHWC.shape, len(weight_KC33), min(GROUPS, len(x_BHWC)), ROOM)


def _whole_vectors(channels: int) -> int:
    return -(-channels // lanes()) * lanes()


def _at_points(kind: Minimal, weight_KC33: Tensor) -> Tensor:
    return transformed(weight_KC33, (kind, "whole"), lambda weight: _for_vectors(plain.filters(kind, weight)))


def _at_points_transposed(kind: Minimal, weight_KC33: Tensor) -> Tensor:
    def transform(weight: Tensor) -> Tensor:
        return _for_vectors(plain.filters(kind, weight).transpose(1, 2))

    return transformed(weight_KC33, (kind, "whole, transposed"), transform)


def _for_vectors(filters: Tensor) -> Tensor:
    """With zeros at the end of each row, up to a whole vector."""
    columns = filters.shape[2]
    return F.pad(filters, (0, _whole_vectors(columns) - columns)).contiguous()
