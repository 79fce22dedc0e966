"""Pieces that the nets share."""

from collections import OrderedDict

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class Residual(nn.Sequential):
    """A sequence f that keeps the shape, as x + f(x) (He et al. 2016)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW + super().forward(x_NCHW)  # type: ignore[no-untyped-call]


class GlobalMaxPool(nn.Module):
    """The largest value of each channel: (N, C, H, W) to (N, C). At 4×4 it is max-pool 4 and flatten."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW.flatten(2).max(2).values


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


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3×3 convolution that keeps height and width; no bias, since a batch norm follows."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
