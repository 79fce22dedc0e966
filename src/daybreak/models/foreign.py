"""Nets of other libraries by name, `timm:resnet18` or `torchvision:resnet18`.

They begin with fresh weights or, where timm has them, with trained ones. They are trained and explained like daybreak's
own: their stages are what the library itself calls features, as far as these are maps.
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
from daybreak.models.cut import Pixels

WITH_TWO_HEADS = ("googlenet", "inception_v3")  # while they train; ours take the one
IMAGENET: Pixels = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation, of torchvision's weights
PROBE_SIZE = 64  # px of the blank image that shows which stages are maps
_KEPT: list[torch.library.Library] = []  # a declaration lasts as long as its library object


class ForeignNet(nn.Module):
    """Images (N, C, H, W) to logits (N, K), by a net of another library.

    Raises:
        UsageError: the library is missing, has no such net, or the net takes images of one size only.
    """

    def __init__(self, config: LibraryNetConfig, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.name, self._shape = config.name, (num_classes, in_channels)
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

    def pretrain(self) -> None:
        """Take the trained weights that timm has, but for the head's, as it fits them to other classes and channels.

        Raises:
            UsageError: they cannot be had.
        """
        library, _, name = self.name.partition(":")
        if library != "timm":
            raise UsageError("model.weights pretrained", f"not for {self.name}", "the same net as timm:NAME")
        num_classes, in_channels = self._shape
        try:
            found = imported_library("timm").create_model(
                name, pretrained=True, num_classes=num_classes, in_chans=in_channels
            )
        except Exception as error:  # of the network, the hub or the net
            why = f"cannot be had for {self.name} ({type(error).__name__}: {one_line(error)[:100]})"
            raise UsageError("model.weights pretrained", why, "--weights FILE, or --net lite0") from None
        self.net.load_state_dict(found.state_dict())
        self.pixels = self.usual_pixels()

    def usual_pixels(self) -> Pixels:
        """Mean and deviation with which published weights of this net want images normalised."""
        facts: Any = getattr(self.net, "pretrained_cfg", None) or {}
        return tuple(facts.get("mean", IMAGENET[0])), tuple(facts.get("std", IMAGENET[1]))


def _timm(name: str, num_classes: int, in_channels: int) -> nn.Module:
    timm = imported_library("timm")
    if not timm.is_model(name):
        raise UsageError(f"model.name timm:{name}", "no such net", nearest(name, timm.list_models()))
    net: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=in_channels)
    return net


def _torchvision(name: str, num_classes: int, in_channels: int) -> nn.Module:
    models = imported_library("torchvision").models
    names = models.list_models(module=models)
    if name not in names:
        raise UsageError(f"model.name torchvision:{name}", "no such net", nearest(name, names))
    if in_channels != 3:
        raise UsageError(f"model.name torchvision:{name}", "takes colour images only", "timm:NAME, or a net of ours")
    plain = {"aux_logits": False} if name in WITH_TWO_HEADS else {}
    net: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **plain)
    return net


LIBRARIES: dict[str, Callable[[str, int, int], nn.Module]] = {"timm": _timm, "torchvision": _torchvision}


def imported_library(name: str) -> ModuleType:
    """timm or torchvision.

    Raises:
        UsageError: it is not installed.
    """
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
