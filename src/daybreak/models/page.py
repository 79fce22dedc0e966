"""page: the residual net of David Page's DAWNBench entry, in the form the assignment asks for.

Shapes for a 32×32 image (at width 1: 6,573,120 parameters, 379.3 million multiply-adds):

    prep    conv 3→64,    BN, ReLU                                     64 × 32 × 32
    layer1  conv 64→128,  max-pool, BN, ReLU, + two-conv residual     128 × 16 × 16
    layer2  conv 128→256, max-pool, BN, ReLU                          256 ×  8 ×  8
    layer3  conv 256→512, max-pool, BN, ReLU, + two-conv residual     512 ×  4 ×  4
    pool    max over what is left (4×4)                               512
    head    linear without bias                                        10

The pool stands before the batch norm: four times fewer values to normalise (Page 2019, "Bag of tricks"). Page's
own code multiplies the logits by 1/8; the assignment does not, and neither does this.
"""

from collections import OrderedDict

from torch import Tensor, nn

from daybreak.config import ModelConfig
from daybreak.models.layers import ACTIVATIONS, GlobalMaxPool, Residual, conv3x3, named


class PageNet(nn.Module):
    """Images (N, C, H, W), H and W at least 8, to logits (N, K)."""

    stages = ("prep", "layer1", "layer2", "layer3")

    def __init__(self, config: ModelConfig, num_classes: int, in_channels: int) -> None:
        super().__init__()
        w64, w128, w256, w512 = (max(1, round(config.width * channels)) for channels in (64, 128, 256, 512))
        act = ACTIVATIONS[config.activation]
        self.prep = named(conv=conv3x3(in_channels, w64), norm=nn.BatchNorm2d(w64), act=act())
        self.layer1 = named(**conv_pool_norm(w64, w128, act), residual=residual(w128, act))
        self.layer2 = named(**conv_pool_norm(w128, w256, act))
        self.layer3 = named(**conv_pool_norm(w256, w512, act), residual=residual(w512, act))
        self.pool = GlobalMaxPool()
        self.head = nn.Linear(w512, num_classes, bias=False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.prep(images_NCHW)
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.head(self.pool(x))
        return logits


def conv_pool_norm(c_in: int, c_out: int, act: type[nn.Module]) -> dict[str, nn.Module]:
    return {"conv": conv3x3(c_in, c_out), "pool": nn.MaxPool2d(2), "norm": nn.BatchNorm2d(c_out), "act": act()}


def residual(channels: int, act: type[nn.Module]) -> Residual:
    return Residual(OrderedDict(
        conv1=conv3x3(channels, channels), norm1=nn.BatchNorm2d(channels), act1=act(),
        conv2=conv3x3(channels, channels), norm2=nn.BatchNorm2d(channels), act2=act(),
    ))  # fmt: skip
