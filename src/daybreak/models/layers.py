"""Pieces that the nets share."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daybreak.core.nets import OwnNet
from daybreak.models.norm import can_be_one, halves, is_heard, pool_norm_act
from daybreak.models.winograd.choice import Convolutions

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class Chain(nn.Sequential):
    """Modules one after the other, of which neighbours can be one operation: a convolution and the pool behind it
    (models/winograd); on a CPU, a batch norm with the activation behind it, and with the pool before it where that is
    not with its convolution (models/norm.py)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        modules, at, x = list(self), 0, x_NCHW
        while at < len(modules):
            x, taken = _next_of(modules[at : at + 3], x)
            at += taken
        return x


def _next_of(modules: list[nn.Module], x: Tensor) -> tuple[Tensor, int]:
    """What the first of the next modules makes of x, with those behind it that can be one with it; and how many."""
    first, second, third = (*modules, None, None)[:3]
    assert first is not None
    is_real = isinstance(x, Tensor)  # and no stand-in of a tracer, which wants to see every module
    if is_real and isinstance(first, Conv3x3) and halves(second) and not is_heard(first, second):
        return first.pooled(x), 2
    pool, norm, act = (first, second, third) if isinstance(first, nn.MaxPool2d) else (None, first, second)
    if isinstance(norm, nn.BatchNorm2d) and act is not None and can_be_one(x, norm, act, pool):
        return pool_norm_act(x, norm, act, 2 if pool else 1), 3 if pool else 2
    return first(x), 1


class Residual(Chain):
    """A sequence f that keeps the shape, as x + f(x) (He et al. 2016)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW + super().forward(x_NCHW)


class Sum(nn.Sequential):
    """Branches that all see x, added: f(x) + g(x)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        first, *others = self
        total: Tensor = first(x_NCHW)
        for branch in others:
            total = total + branch(x_NCHW)
        return total


class Concat(nn.Sequential):
    """Branches that all see x, one behind the other in the channels."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return torch.cat([branch(x_NCHW) for branch in self], 1)


class GlobalMaxPool(nn.Module):
    """The largest value of each channel: (N, C, H, W) to (N, C). At 4×4 it is max-pool 4 and flatten."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW.flatten(2).max(2).values


class GlobalMeanPool(nn.Module):
    """The mean of each channel: (N, C, H, W) to (N, C)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW.mean((2, 3))


class Scale(nn.Module):
    """Multiply by a fixed number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def extra_repr(self) -> str:
        return f"{self.factor:g}"


class Standardize(nn.Module):
    """Features (N, D) on the scale of the training part: zero mean and unit deviation, once `fit` has seen it."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))

    def fit(self, features_ND: Tensor) -> None:
        self.mean.copy_(features_ND.mean(0))
        self.deviation.copy_(features_ND.std(0).clamp(min=1e-3))

    def forward(self, features_ND: Tensor) -> Tensor:
        return (features_ND - self.mean) / self.deviation


class Conv3x3(nn.Conv2d):
    """A 3×3 convolution of stride 1, whose way of computing is chosen by `convolutions`; direct by default.

    Attributes:
        convolutions: shared by all layers of a net, see `use_convolutions`.
    """

    convolutions = Convolutions()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NKHW = self._by_its_way(x_NCHW, pools=False)
        return super().forward(x_NCHW) if y_NKHW is None else y_NKHW

    def pooled(self, x_NCHW: Tensor) -> Tensor:
        """What a max-pool by two leaves of the output."""
        y_NKHW = self._by_its_way(x_NCHW, pools=True)
        return F.max_pool2d(super().forward(x_NCHW), 2) if y_NKHW is None else y_NKHW

    def _by_its_way(self, x_NCHW: Tensor, pools: bool) -> Tensor | None:
        """None where the direct form is the way."""
        is_autocast = torch.is_autocast_enabled(x_NCHW.device.type)
        dtype = torch.get_autocast_dtype(x_NCHW.device.type) if is_autocast else x_NCHW.dtype
        way = self.convolutions.way_for(x_NCHW, self.weight, dtype)
        if way is None:
            return None
        y_NKHW = way(x_NCHW.to(dtype), self.weight, pools)
        return y_NKHW if self.bias is None else y_NKHW + self.bias.to(dtype).view(-1, 1, 1)


def use_convolutions(net: nn.Module, convolutions: Convolutions) -> None:
    """Let all 3×3 convolutions of a net, and of its copies, be computed in these ways."""
    for module in net.modules():
        if isinstance(module, Conv3x3):
            module.convolutions = convolutions


def named(**modules: nn.Module) -> nn.Sequential:
    """A sequence whose parts have names, so that a person can ask for `layer1.conv`."""
    return Chain(OrderedDict(modules))


def conv3x3(
    in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A 3×3 convolution that keeps height and width but for its stride; no bias where a batch norm follows."""
    if (stride, dilation, groups) == (1, 1, 1):
        return Conv3x3(in_channels, out_channels, 3, padding=1, bias=bias)
    return nn.Conv2d(in_channels, out_channels, 3, stride, dilation, dilation, groups, bias)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)


def scaled(config: OwnNet, *channels: int) -> tuple[int, ...]:
    """Channel counts times the width of the net."""
    return tuple(max(1, round(config.width * count)) for count in channels)


def with_dropout(pool: nn.Module, config: OwnNet) -> nn.Module:
    """A global pool, with dropout behind it where there is any (Srivastava et al. 2014)."""
    return named(pool=pool, dropout=nn.Dropout(config.dropout)) if config.dropout else pool
