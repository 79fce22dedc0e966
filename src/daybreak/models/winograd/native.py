"""The transforms in C: see models/native/winograd.c."""

import ctypes

from torch import Tensor

from daybreak.models.native.build import TYPES, call
from daybreak.models.winograd.minimal import KNOWN, Minimal


class _Maps(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("images", "height", "width", "channels", "stride")]


def input(kind: Minimal, x_BHWC: Tensor, at_points_PTC: Tensor) -> None:
    """As `plain.input`."""
    _call("input", kind, x_BHWC, at_points_PTC, (x_BHWC, at_points_PTC))


def input_transposed(kind: Minimal, at_points_PTC: Tensor, x_BHWC: Tensor) -> None:
    """As `plain.input_transposed`."""
    _call("input_transposed", kind, x_BHWC, at_points_PTC, (at_points_PTC, x_BHWC))


def output(kind: Minimal, at_points_PTK: Tensor, y_BHWK: Tensor) -> None:
    """As `plain.output`."""
    _call("output", kind, y_BHWK, at_points_PTK, (at_points_PTK, y_BHWK))


def output_transposed(kind: Minimal, y_BHWK: Tensor, at_points_PTK: Tensor) -> None:
    """As `plain.output_transposed`."""
    _call("output_transposed", kind, y_BHWK, at_points_PTK, (y_BHWK, at_points_PTK))


def _call(name: str, kind: Minimal, maps_BHWC: Tensor, at_points: Tensor, order: tuple[Tensor, Tensor]) -> None:
    assert kind in KNOWN.values()  # their numbers are compiled in
    assert maps_BHWC.is_contiguous()
    assert at_points.stride()[1:] == (maps_BHWC.shape[3], 1)
    where = _Maps(*maps_BHWC.shape, at_points.stride(0))
    call(f"{name}_{len(kind.pairs)}_{TYPES[maps_BHWC.dtype]}", where, *order)
