"""Nets of other libraries by name, `timm:resnet18` or `torchvision:resnet18`, with fresh weights.

They are trained and explained like daybreak's own: their stages are what the library itself calls features, as far as
these are maps.
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from daybreak.core.errors import UsageError, nearest, one_line
from daybreak.core.nets import LibraryNetConfig
from daybreak.models.anatomy.stages import convolves, maps_among
from daybreak.models.anatomy.trace import symbolic

WITH_TWO_HEADS = ("googlenet", "inception_v3")  # while they train; ours take the one
PROBE_SIZE = 64  # px of the blank image that shows which stages are maps
_KEPT: list[torch.library.Library] = []  # a declaration lasts as long as its library object


class ForeignNet(nn.Module):
    """Images (N, C, H, W) to logits (N, K), by a net of another library.

    Raises:
        UsageError: the library is missing, has no such net, or the net takes images of one size only.
    """

    def __init__(self, config: LibraryNetConfig, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.name = config.name
        library, _, name = config.name.partition(":")
        self.net = LIBRARIES[library](name, num_classes, in_channels)
        linear = [module for module in self.net.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise UsageError(f"model.name {config.name}", "has no linear layer at its end", "another net")
        self._heads = linear[-1:]  # in a list, as it is a part of the net already
        self.stages = tuple(f"net.{stage}" for stage in _maps(self.net, config.name, in_channels))

    @property
    def head(self) -> nn.Module:
        """The layer whose input is what the net makes of an image."""
        return self._heads[0]

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.net(images_NCHW)
        return logits


def _timm(name: str, num_classes: int, in_channels: int) -> nn.Module:
    timm = _library("timm")
    if not timm.is_model(name):
        raise UsageError(f"model.name timm:{name}", "no such net", nearest(name, timm.list_models()))
    net: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=in_channels)
    return net


def _torchvision(name: str, num_classes: int, in_channels: int) -> nn.Module:
    models = _library("torchvision").models
    names = models.list_models(module=models)
    if name not in names:
        raise UsageError(f"model.name torchvision:{name}", "no such net", nearest(name, names))
    if in_channels != 3:
        raise UsageError(f"model.name torchvision:{name}", "takes colour images only", "timm:NAME, or a net of ours")
    plain = {"aux_logits": False} if name in WITH_TWO_HEADS else {}
    net: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **plain)
    return net


LIBRARIES: dict[str, Callable[[str, int, int], nn.Module]] = {"timm": _timm, "torchvision": _torchvision}


def _library(name: str) -> ModuleType:
    try:
        try:
            return importlib.import_module(name)
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            _declare_operators()
            return importlib.import_module(name)
    except ImportError:
        raise UsageError(f"model.name {name}:…", f"{name} is not installed", f"pip install {name}") from None


def _declare_operators() -> None:
    """torchvision's compiled operators do not load beside a torch without CUDA, and it stops over two of them. They
    suppress boxes, which no classifier has: declared, they need not be there."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)


def _maps(net: nn.Module, name: str, in_channels: int) -> list[str]:
    """The stages whose output is a map (N, C, H, W), in order of depth."""
    try:
        symbolic(net.eval())
        maps = maps_among(net, _candidates(net), in_channels, PROBE_SIZE)
    except Exception as error:  # whatever a foreign net does not like about being taken apart, or about the size
        raise UsageError(f"model.name {name}", f"cannot be used here ({one_line(error)[:80]})", "another net") from None
    finally:
        net.train()
    if not maps:
        raise UsageError(f"model.name {name}", "has no stage whose output is a map", "a convolutional net")
    return list(maps)


def _candidates(net: nn.Module) -> list[str]:
    info: Any = getattr(net, "feature_info", None)
    if info:
        return list(dict.fromkeys(row["module"] for row in info))
    features = getattr(net, "features", None)
    prefix, parent = ("features.", features) if isinstance(features, nn.Module) else ("", net)
    return [prefix + name for name, child in parent.named_children() if convolves(child)]
