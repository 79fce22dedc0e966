"""The transforms in C: see models/native/winograd.c."""

import ctypes

from torch import Tensor

from daybreak.models.minimal import KNOWN, Minimal
from daybreak.models.native.build import TYPES, call
from daybreak.models.winograd.plain import Pool


class _Maps(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("images", "height", "width", "channels", "stride")]


def input(kind: Minimal, x_BHWC: Tensor, at_points_PTC: Tensor) -> None:
    """As `plain.input`."""
    _call("input", kind, x_BHWC, at_points_PTC, (x_BHWC, at_points_PTC))


def input_transposed(kind: Minimal, at_points_PTC: Tensor, x_BHWC: Tensor) -> None:
    """As `plain.input_transposed`."""
    _call("input_transposed", kind, x_BHWC, at_points_PTC, (at_points_PTC, x_BHWC))


def output(kind: Minimal, at_points_PTK: Tensor, y_BHWK: Tensor, pool: Pool | None = None) -> None:
    """As `plain.output`."""
    _call("output", kind, y_BHWK, at_points_PTK, (at_points_PTK, y_BHWK), pool)


def output_transposed(kind: Minimal, y_BHWK: Tensor, at_points_PTK: Tensor, pool: Pool | None = None) -> None:
    """As `plain.output_transposed`."""
    _call("output_transposed", kind, y_BHWK, at_points_PTK, (y_BHWK, at_points_PTK), pool)


def _call(
    name: str,
    kind: Minimal,
    maps_BHWC: Tensor,
    at_points: Tensor,
    order: tuple[Tensor, Tensor],
    pool: Pool | None = None,
) -> None:
    assert kind in KNOWN.values()  # their numbers are compiled in
    assert maps_BHWC.is_contiguous()
    assert at_points.stride()[1:] == (maps_BHWC.shape[3], 1)
    images, height, width, channels = maps_BHWC.shape
    sizes = _Maps(images, *(pool.size if pool else (height, width)), channels, at_points.stride(0))
    call(f"{name}_{len(kind.pairs)}_{TYPES[maps_BHWC.dtype]}", sizes, *order, pool.where_BHWK if pool else None)
