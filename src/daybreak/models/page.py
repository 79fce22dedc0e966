"""page: the residual net of David Page's DAWNBench entry, without its factor of 1/8 on the logits.

Shapes for a 32×32 image (at width 1: 6,573,120 parameters, 379.3 million multiply-adds):

    prep    conv 3→64,    BN, ReLU                                     64 × 32 × 32
    layer1  conv 64→128,  max-pool, BN, ReLU, + two-conv residual     128 × 16 × 16
    layer2  conv 128→256, max-pool, BN, ReLU                          256 ×  8 ×  8
    layer3  conv 256→512, max-pool, BN, ReLU, + two-conv residual     512 ×  4 ×  4
    pool    max over what is left (4×4)                               512
    head    linear without bias                                        10

The pool stands before the batch norm: four times fewer values to normalise (Page 2019, "Bag of tricks"). Page's
own code multiplies the logits by 1/8; this one does not.

Options, all off by default: `residual_from: input` is a variant whose
residual branch sees the layer's input and halves it by a strided convolution; `dilation` spreads the filters of the
residual branches, so that a unit sees more of the image at the same cost (Yu & Koltun 2016); `dropout` stands before
the head.
"""

from collections import OrderedDict

from torch import Tensor, nn

from daybreak.core.nets import PageConfig
from daybreak.models.layers import ACTIVATIONS, GlobalMaxPool, Residual, Sum, conv3x3, named, scaled, with_dropout


class PageNet(nn.Module):
    """Images (N, C, H, W), H and W at least 8, to logits (N, K)."""

    stages = ("prep", "layer1", "layer2", "layer3")

    def __init__(self, config: PageConfig, num_classes: int, in_channels: int) -> None:
        super().__init__()
        w64, w128, w256, w512 = scaled(config, 64, 128, 256, 512)
        act = ACTIVATIONS[config.activation]
        self.prep = named(conv=conv3x3(in_channels, w64), norm=nn.BatchNorm2d(w64), act=act())
        self.layer1 = residual_layer(w64, w128, config)
        self.layer2 = named(**conv_pool_norm(w128, w256, act))
        self.layer3 = residual_layer(w256, w512, config)
        self.pool = with_dropout(GlobalMaxPool(), config)
        self.head = nn.Linear(w512, num_classes, bias=False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.prep(images_NCHW)
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.head(self.pool(x))
        return logits


def residual_layer(c_in: int, c_out: int, config: PageConfig) -> nn.Sequential:
    act = ACTIVATIONS[config.activation]
    main = conv_pool_norm(c_in, c_out, act)
    if config.residual_from == "input":
        main["pool"] = nn.MaxPool2d(2, ceil_mode=True)  # as the strided convolution rounds
        return Sum(OrderedDict(main=named(**main), branch=named(**two_convs(c_in, c_out, 2, config.dilation, act))))
    return named(**main, residual=Residual(OrderedDict(two_convs(c_out, c_out, 1, config.dilation, act))))


def conv_pool_norm(c_in: int, c_out: int, act: type[nn.Module]) -> dict[str, nn.Module]:
    return {"conv": conv3x3(c_in, c_out), "pool": nn.MaxPool2d(2), "norm": nn.BatchNorm2d(c_out), "act": act()}


def two_convs(c_in: int, c_out: int, stride: int, dilation: int, act: type[nn.Module]) -> dict[str, nn.Module]:
    first, second = conv3x3(c_in, c_out, stride, dilation), conv3x3(c_out, c_out, dilation=dilation)
    return {
        "conv1": first, "norm1": nn.BatchNorm2d(c_out), "act1": act(),
        "conv2": second, "norm2": nn.BatchNorm2d(c_out), "act2": act(),
    }  # fmt: skip
