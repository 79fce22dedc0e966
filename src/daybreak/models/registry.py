"""Nets by name: daybreak's own, those of timm and torchvision, those of other packages, and yours.

A net is any nn.Module that maps images (N, C, H, W) to logits (N, K), with no softmax. It may also have

- `stages`: names of modules that a person can ask to see (`prep`, `layer1` …), in order of depth;
- `head`: the layer whose input is what the net makes of an image;
- `param_groups()` and `fit_data(sample, size)`: see `models.groups`;
- `pixels`, `parts()`, `answer(features)` and `fit_features(features)`, for a net that is trained already: `models.cut`.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from daybreak.core.errors import UsageError, nearest, one_line
from daybreak.core.nets import LibraryNetConfig, NetConfig, OtherNetConfig, OwnNet
from daybreak.core.plugins import NETS as NETS_GROUP
from daybreak.core.plugins import Factory, loaded, plugins
from daybreak.models.anatomy.stages import stage_names
from daybreak.models.foreign import ForeignNet
from daybreak.models.inception import InceptionNet
from daybreak.models.lite import LiteNet
from daybreak.models.mode import evaluating
from daybreak.models.page import PageNet
from daybreak.models.resnet import PreactResNet, ResNet, ResNeXt
from daybreak.models.sprint import SprintNet
from daybreak.models.vgg import VggNet

SMALLEST_SIZE = 16  # px: of smaller images the pools would leave too little
NETS: dict[str, Callable[[Any, int, int], nn.Module]] = {
    "page": PageNet,
    "sprint": SprintNet,
    "vgg": VggNet,
    "inception": InceptionNet,
    "resnet18": ResNet,
    "preact-resnet18": PreactResNet,
    "resnext29": ResNeXt,
    "lite0": LiteNet,
    "lite2": LiteNet,
}


def build_net(config: NetConfig, num_classes: int, in_channels: int, factory: Factory | None = None) -> nn.Module:
    """A freshly initialised net in training mode.

    Args:
        factory: makes a net that is not known by its name; see `made_by`.

    Raises:
        UsageError: no net has this name (the nearest is shown), or its factory fails.
    """
    if factory is not None and not isinstance(config, OtherNetConfig):
        raise UsageError(f"model.name {config.name}", "another net was given", "a recipe with that net's name")
    if isinstance(config, OwnNet):
        return NETS[config.name](config, num_classes, in_channels)
    if isinstance(config, LibraryNetConfig):
        return ForeignNet(config, num_classes, in_channels)
    assert isinstance(config, OtherNetConfig)
    if factory is None:
        known = plugins(NETS_GROUP)
        if config.name not in known:
            raise UsageError(f"model.name {config.name}", "no such net", nearest(config.name, {**NETS, **known}))
        factory = cast(Factory, loaded(known[config.name]))
    return made_by(factory, config, num_classes, in_channels)


def made_by(factory: Factory, config: OtherNetConfig, num_classes: int, in_channels: int) -> nn.Module:
    """The net of a factory. It is called with `num_classes` and `in_channels`, as far as it takes them, and with the
    options of the recipe's `model` section by name. A module that is given as it is, is copied with its weights.

    Raises:
        UsageError: the factory does not take an option, or makes no nn.Module.
    """
    if isinstance(factory, nn.Module):
        return copy.deepcopy(factory).train()
    offered = {"num_classes": num_classes, "in_channels": in_channels}
    try:
        net = factory(**{k: v for k, v in offered.items() if _takes(factory, k)} | config.arguments)
    except Exception as error:  # whatever a net of somebody's raises
        why = f"cannot be made ({type(error).__name__}: {one_line(error)[:160]})"
        raise UsageError(
            f"model.name {config.name}", why, "a factory that takes num_classes and in_channels"
        ) from error
    if not isinstance(net, nn.Module):
        raise UsageError(
            f"model.name {config.name}", f"made a {type(net).__name__}, not an nn.Module", "a factory of one"
        )
    return net.train()


def _takes(factory: Factory, name: str) -> bool:
    parameters = inspect.signature(factory).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def place(net: nn.Module, device: torch.device) -> nn.Module:
    """The net on this device, with channels last in memory: the layout that convolutions want."""
    return net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def stages_of(net: nn.Module) -> dict[str, nn.Module]:
    """The stages of a net by name, in order of depth: those it names, or those found in it (`anatomy.stages`)."""
    return {name: net.get_submodule(name) for name in stage_names(net)}


@torch.no_grad()
def check_net(net: nn.Module, sizes: set[int], in_channels: int, num_classes: int | None = None) -> None:
    """Show blank images of these sides in px to a net that is not daybreak's own.

    Args:
        num_classes: how many logits an image must get; any number by default.

    Raises:
        UsageError: the net cannot take them, or does not answer with logits (N, K).
    """
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    name = getattr(net, "name", type(net).__name__)
    with evaluating(net):
        for size in sorted(sizes):
            try:
                shape = tuple(net(torch.zeros(2, in_channels, size, size, device=device)).shape)
            except Exception as error:  # whatever it does not like about the size
                why = f"cannot take images of {size} px ({one_line(error)[:80]})"
                raise UsageError(f"model.name {name}", why, "a larger --size, or another net") from None
            if len(shape) != 2 or shape[0] != 2 or num_classes not in (None, shape[1]):
                why = f"maps two images to {shape}, not to logits {(2, num_classes or 'K')}"
                raise UsageError(f"model.name {name}", why, "a net with one output for each class")
