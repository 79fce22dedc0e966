"""Pieces that the nets share."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from daybreak.core.nets import OwnNet

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class Residual(nn.Sequential):
    """A sequence f that keeps the shape, as x + f(x) (He et al. 2016)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW + super().forward(x_NCHW)  # type: ignore[no-untyped-call]


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


def named(**modules: nn.Module) -> nn.Sequential:
    """A sequence whose parts have names, so that a person can ask for `layer1.conv`."""
    return nn.Sequential(OrderedDict(modules))


def conv3x3(
    in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A 3×3 convolution that keeps height and width but for its stride; no bias where a batch norm follows."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, dilation, dilation, groups, bias)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)


def scaled(config: OwnNet, *channels: int) -> tuple[int, ...]:
    """Channel counts times the width of the net."""
    return tuple(max(1, round(config.width * count)) for count in channels)


def with_dropout(pool: nn.Module, config: OwnNet) -> nn.Module:
    """A global pool, with dropout behind it where there is any (Srivastava et al. 2014)."""
    return named(pool=pool, dropout=nn.Dropout(config.dropout)) if config.dropout else pool
