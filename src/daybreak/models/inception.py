"""inception: the small Inception net of Zhang et al. 2017 ("Understanding deep learning requires rethinking
generalization", appendix A), after GoogLeNet (Szegedy et al. 2015): every module looks through two windows at once.

Shapes for a 32×32 image (at width 1: 1,651,114 parameters, 1,649,402 without the scales of the batch norms as in the
paper; 266.7 million multiply-adds):

    prep    conv 3→96                                                  96 × 32 × 32
    layer1  two modules (1×1 32 + 3×3 32; 32 + 48)                     80 × 32 × 32
    layer2  down (conv /2 80 + max-pool), four modules                144 × 16 × 16
    layer3  down (conv /2 96 + max-pool), two modules                 336 ×  8 ×  8
    pool    mean over what is left                                    336
    head    linear                                                     10
"""

from collections import OrderedDict

from torch import Tensor, nn

from daybreak.core.nets import OwnNet
from daybreak.models.layers import (
    ACTIVATIONS,
    Concat,
    GlobalMeanPool,
    conv1x1,
    conv3x3,
    named,
    scaled,
    with_dropout,
)

# Channels of the 1×1 and of the 3×3 convolutions of each module; of the strided convolution of each reduction.
LAYER1 = ((32, 32), (32, 48))
DOWN2, LAYER2 = 80, ((112, 48), (96, 64), (80, 80), (48, 96))
DOWN3, LAYER3 = 96, ((176, 160), (176, 160))


class InceptionNet(nn.Module):
    """Images (N, C, H, W) to logits (N, K)."""

    stages = ("prep", "layer1", "layer2", "layer3")

    def __init__(self, config: OwnNet, num_classes: int, in_channels: int) -> None:
        super().__init__()
        build = Builder(config)
        (w96,) = scaled(config, 96)
        self.prep = build.conv(in_channels, w96, 3)
        self.layer1, c1 = build.modules(w96, LAYER1)
        self.layer2, c2 = build.modules(c1, LAYER2, DOWN2)
        self.layer3, c3 = build.modules(c2, LAYER3, DOWN3)
        self.pool = with_dropout(GlobalMeanPool(), config)
        self.head = nn.Linear(c3, num_classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.prep(images_NCHW)
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.head(self.pool(x))
        return logits


class Builder:
    """Makes the parts of one net: all have its width and activation."""

    def __init__(self, config: OwnNet) -> None:
        self.config, self.act = config, ACTIVATIONS[config.activation]

    def conv(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
        conv = conv3x3(c_in, c_out, stride) if kernel == 3 else conv1x1(c_in, c_out, stride)
        return named(conv=conv, norm=nn.BatchNorm2d(c_out), act=self.act())

    def modules(
        self, c_in: int, modules: tuple[tuple[int, int], ...], down: int | None = None
    ) -> tuple[nn.Sequential, int]:
        """A stage, and how many channels leave it."""
        parts: dict[str, nn.Module] = {}
        if down is not None:
            (w_down,) = scaled(self.config, down)
            pool = nn.MaxPool2d(3, stride=2, padding=1)
            parts["down"] = Concat(OrderedDict(conv=self.conv(c_in, w_down, 3, stride=2), pool=pool))
            c_in += w_down
        for number, channels in enumerate(modules, 1):
            narrow, wide = scaled(self.config, *channels)
            windows: dict[str, nn.Module] = {"conv1x1": self.conv(c_in, narrow, 1), "conv3x3": self.conv(c_in, wide, 3)}
            parts[f"module{number}"] = Concat(OrderedDict(windows))
            c_in = narrow + wide
        return named(**parts), c_in
