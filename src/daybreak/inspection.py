"""The layer table of a net: shape, parameters, multiply-adds, receptive field, effective stride."""

from dataclasses import asdict, dataclass
from typing import Any

from daybreak.config import ModelConfig
from daybreak.models import build_net
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


def inspect(config: ModelConfig, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> Inspection:
    """Build the net and follow an image through it. `params` counts shared and fixed parameters once each."""
    net = build_net(config, num_classes, in_channels)
    layers = trace(net, image_size, in_channels)
    return Inspection(config.name, image_size, count_params(net), sum(layer.macs for layer in layers), layers)
