"""The layer table of a net: shape, parameters, multiply-adds, receptive field, effective stride."""

from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from daybreak.config import ModelConfig
from daybreak.errors import UsageError
from daybreak.models import SMALLEST_SIZE, build_net
from daybreak.models.trace import Layer, count_params, trace


@dataclass(frozen=True)
class Inspection:
    """A net taken apart at one image size."""

    name: str
    image_size: int
    params: int
    macs: int  # multiply-adds for one image
    layers: list[Layer]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

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
        return f"<p>{escape(total)}</p><table><tr>{head}</tr>{body}</table>"


def inspect(
    name: str, config: ModelConfig, num_classes: int = 10, in_channels: int = 3, image_size: int = 32
) -> Inspection:
    """Build the net and follow an image through it. `params` counts the fixed parameters too.

    Raises:
        UsageError: the image is too small for the net.
    """
    if image_size < SMALLEST_SIZE:
        raise UsageError(f"--size {image_size}", "nothing would be left of the image", f"{SMALLEST_SIZE} or more")
    net = build_net(config, num_classes, in_channels)
    layers = trace(net, image_size, in_channels)
    return Inspection(name, image_size, count_params(net), sum(layer.macs for layer in layers), layers)
