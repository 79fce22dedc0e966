"""vgg: VGG-11 with batch norm (Simonyan & Zisserman 2015, configuration A), as it is used on small images.

Shapes for a 32×32 image (at width 1: 9,231,114 parameters, 152.8 million multiply-adds):

    layer1  conv 3→64,                    max-pool                     64 × 16 × 16
    layer2  conv 64→128,                  max-pool                    128 ×  8 ×  8
    layer3  conv 128→256, conv 256→256,   max-pool                    256 ×  4 ×  4
    layer4  conv 256→512, conv 512→512,   max-pool                    512 ×  2 ×  2
    layer5  conv 512→512, conv 512→512,   max-pool                    512 ×  1 ×  1
    pool    mean over what is left                                    512
    head    linear                                                     10

Every convolution has a bias, a batch norm and an activation behind it, as in the published nets of this name; the
bias does nothing before a norm. The paper's two hidden linear layers are left out, so that the net is convolutional
up to its head. Pools round up: an image of 28 px still has one pixel at the end.
"""

from torch import Tensor, nn

from daybreak.core.nets import OwnNet
from daybreak.models.layers import ACTIVATIONS, GlobalMeanPool, conv3x3, named, scaled, with_dropout


class VggNet(nn.Module):
    """Images (N, C, H, W) to logits (N, K)."""

    stages = ("layer1", "layer2", "layer3", "layer4", "layer5")

    def __init__(self, config: OwnNet, num_classes: int, in_channels: int) -> None:
        super().__init__()
        w64, w128, w256, w512 = scaled(config, 64, 128, 256, 512)
        act = ACTIVATIONS[config.activation]
        self.layer1 = group(in_channels, [w64], act)
        self.layer2 = group(w64, [w128], act)
        self.layer3 = group(w128, [w256, w256], act)
        self.layer4 = group(w256, [w512, w512], act)
        self.layer5 = group(w512, [w512, w512], act)
        self.pool = with_dropout(GlobalMeanPool(), config)
        self.head = nn.Linear(w512, num_classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(images_NCHW)))
        x = self.layer5(self.layer4(x))
        logits: Tensor = self.head(self.pool(x))
        return logits


def group(c_in: int, channels: list[int], act: type[nn.Module]) -> nn.Sequential:
    """Convolutions with these output channels, then a pool."""
    parts: dict[str, nn.Module] = {}
    for number, (before, after) in enumerate(zip([c_in, *channels], channels, strict=False), 1):
        parts[f"conv{number}"] = conv3x3(before, after, bias=True)
        parts |= {f"norm{number}": nn.BatchNorm2d(after), f"act{number}": act()}
    return named(**parts, pool=nn.MaxPool2d(2, ceil_mode=True))
