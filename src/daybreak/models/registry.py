"""The nets, by name. Every net is an nn.Module that

- maps images (N, C, H, W) to logits (N, K), with no softmax;
- names its `stages`, modules that a person can ask to see (`prep`, `layer1` …), in order of depth;
- names its `options`, keys of ModelConfig that mean something to it besides `name` and `width`;
- works at any image size its strides leave at least one pixel of.
"""

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from daybreak.core.config import ModelConfig
from daybreak.core.errors import UsageError, nearest
from daybreak.models.anatomy.stages import stage_names
from daybreak.models.foreign import ForeignNet
from daybreak.models.foreign import is_foreign as is_foreign
from daybreak.models.inception import InceptionNet
from daybreak.models.page import PageNet
from daybreak.models.resnet import PreactResNet, ResNet, ResNeXt
from daybreak.models.sprint import SprintNet
from daybreak.models.vgg import VggNet


class Net(Protocol):
    """What the rest of daybreak relies on, besides nn.Module."""

    stages: tuple[str, ...]
    options: frozenset[str]

    def __call__(self, images_NCHW: Tensor) -> Tensor: ...


SMALLEST_SIZE = 16  # px: of smaller images the pools would leave too little
NETS: dict[str, Callable[[ModelConfig, int, int], nn.Module]] = {
    "page": PageNet,
    "sprint": SprintNet,
    "vgg": VggNet,
    "inception": InceptionNet,
    "resnet18": ResNet,
    "preact-resnet18": PreactResNet,
    "resnext29": ResNeXt,
}


def build_net(config: ModelConfig, num_classes: int, in_channels: int) -> nn.Module:
    """A freshly initialised net in training mode; `timm:NAME` and `torchvision:NAME` are nets of those libraries.

    Raises:
        UsageError: no net has this name (the nearest is shown), or it has no such option.
    """
    if config.name not in NETS and not is_foreign(config.name):
        raise UsageError(f"model.name {config.name}", "no such net", nearest(config.name, NETS))
    kind = NETS.get(config.name, ForeignNet)
    known = cast(Net, kind).options
    for option in sorted(config.options() - known):
        remedy = f"one of {', '.join(sorted(known))}" if known else "leave it out"
        raise UsageError(f"model.{option}", f"{config.name} has no such option", remedy)
    return kind(config, num_classes, in_channels)


def place(net: nn.Module, device: torch.device) -> nn.Module:
    """The net on this device, with channels last in memory: the layout that convolutions want."""
    return net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def stages_of(net: nn.Module) -> dict[str, nn.Module]:
    """The stages of a net by name, in order of depth: those it names, or those found in it (`anatomy.stages`)."""
    return {name: net.get_submodule(name) for name in stage_names(net)}
