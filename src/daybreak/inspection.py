"""The layer table of a net: shape, parameters, multiply-adds, receptive field, effective stride."""

from dataclasses import asdict, dataclass
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
