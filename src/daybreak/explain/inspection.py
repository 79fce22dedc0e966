"""The layer table of a net: shape, parameters, multiply-adds, memory, window, receptive field, effective stride."""

from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

import numpy as np
from torch import nn

from daybreak.core.errors import UsageError
from daybreak.models.anatomy.effective import effective_fields, side_of
from daybreak.models.anatomy.trace import Field, Layer, count_params, stage_rows, trace
from daybreak.models.registry import SMALLEST_SIZE, check_net


@dataclass(frozen=True)
class Stage:
    """What a person would point at: a named part of the net, and what a unit of its output sees.

    Attributes:
        seen: its theoretical receptive field.
        counts_HW: how much each pixel counts for the middle unit, at most 1; see `models.anatomy.effective`.
        effective_side: side in px of a square as large as the field that counts.
    """

    name: str
    output_shape: tuple[int, ...]
    seen: Field
    effective_side: float
    counts_HW: np.ndarray = field(repr=False, compare=False)


@dataclass(frozen=True)
class Inspection:
    """A net taken apart at one image size."""

    name: str
    image_size: int
    params: int
    macs: int  # multiply-adds for one image
    activation_bytes: int  # of all layers' outputs for one image in float32
    layers: list[Layer]
    stages: list[Stage]

    @property
    def warnings(self) -> list[str]:
        """What about the net does not suit images of this size."""
        last = self.stages[-1]
        found = []
        if last.seen.size < self.image_size:
            found.append(f"a unit of {last.name} sees {last.seen.size} px of an image of {self.image_size} px")
        return found + [
            f"{stage.name} has shrunk to one unit: it no longer knows where anything is"
            for stage in self.stages
            if stage.output_shape[1:] == (1, 1)
        ]

    def as_json(self) -> dict[str, Any]:
        stages = [
            {
                "name": stage.name,
                "output_shape": stage.output_shape,
                "receptive_field": stage.seen.size,
                "effective_stride": stage.seen.stride,
                "first_centre": stage.seen.centre,
                "effective_receptive_field": round(stage.effective_side, 1),
            }
            for stage in self.stages
        ]
        totals = {k: getattr(self, k) for k in ("name", "image_size", "params", "macs", "activation_bytes")}
        return totals | {"layers": [asdict(row) for row in self.layers], "stages": stages, "warnings": self.warnings}

    def _repr_html_(self) -> str:
        """In a notebook: the table."""
        heads = ("layer", "kind", "output", "params", "MACs", "receptive field", "stride")
        rows = [
            (row.name, row.kind, "×".join(map(str, row.output_shape)), f"{row.params:,}", f"{row.macs:,}",
             row.receptive_field, row.effective_stride)
            for row in self.layers
        ]  # fmt: skip
        body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
        head = "".join(f"<th>{name}</th>" for name in heads)
        total = f"{self.name} at {self.image_size} px: {self.params:,} parameters, {self.macs / 1e6:.1f} million MACs"
        remarks = "".join(f"<p>{escape(warning)}</p>" for warning in self.warnings)
        return f"<p>{escape(total)}</p><table><tr>{head}</tr>{body}</table>{remarks}"


def inspect_net(name: str, net: nn.Module, in_channels: int, image_size: int) -> Inspection:
    """Follow an image through a net. `params` counts the fixed parameters too.

    Raises:
        UsageError: the image is too small for the net.
    """
    if image_size < SMALLEST_SIZE:
        raise UsageError(f"--size {image_size}", "nothing would be left of the image", f"{SMALLEST_SIZE} or more")
    check_net(net, {image_size}, in_channels)
    layers = trace(net, image_size, in_channels)
    macs, memory = sum(row.macs for row in layers), sum(row.activation_bytes for row in layers)
    stages = _stages(net, layers, in_channels, image_size)
    return Inspection(name, image_size, count_params(net), macs, memory, layers, stages)


def _stages(net: nn.Module, layers: list[Layer], in_channels: int, image_size: int) -> list[Stage]:
    counts = effective_fields(net, image_size, in_channels)
    return [
        Stage(name, row.output_shape, row.field, side_of(counts[name]), counts[name].numpy())
        for name, row in stage_rows(net, layers).items()
    ]
