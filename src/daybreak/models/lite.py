"""lite0 and lite2: EfficientNet-Lite, small nets of depthwise convolutions that come trained on ImageNet.

Tan & Le 2019, "EfficientNet", in the form of Liu 2020 ("EfficientNet-Lite", TensorFlow blog): no squeeze-excitation,
ReLU6, and first and last layers of one width. Shapes of lite0 for a 224×224 image (3.4 million parameters without the
head, 384 million multiply-adds):

    stem     conv 3×3 /2, BN, ReLU6                           32 × 112 × 112
    stage1   1 block,  3×3, no expansion                      16 × 112 × 112
    stage2   2 blocks, 3×3, the first with stride 2           24 ×  56 ×  56
    stage3   2 blocks, 5×5, the first with stride 2           40 ×  28 ×  28
    stage4   3 blocks, 3×3, the first with stride 2           80 ×  14 ×  14
    stage5   3 blocks, 5×5                                   112 ×  14 ×  14
    stage6   4 blocks, 5×5, the first with stride 2          192 ×   7 ×   7
    stage7   1 block,  3×3                                   320 ×   7 ×   7
    top      conv 1×1, BN, ReLU6                            1280 ×   7 ×   7
    pool     mean over what is left                         1280
    head     linear                                           10

A block is 1×1 (six times the channels), depthwise, 1×1 without an activation, and x + f(x) where it keeps the shape
(Sandler et al. 2018). The weights were trained with TensorFlow's padding.

`folded`: without batch norms. What these do in evaluation mode is in the filters and biases of the convolutions before
them, and learns with these. Few photos say little about the statistics of maps: fine-tuned from stage6 on, norms that
learn cost four points of accuracy (benchmarks/LOG.md).
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from daybreak.core.nets import LiteConfig
from daybreak.models.cut import Pixels
from daybreak.models.depthwise import depthwise_conv
from daybreak.models.layers import GlobalMeanPool, Residual, Standardize, named, scaled

# kernel, stride, expansion, channels, blocks: of lite0 and lite2
STAGES = {
    "lite0": ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3),
              (5, 2, 6, 192, 4), (3, 1, 6, 320, 1)),
    "lite2": ((3, 1, 1, 16, 1), (3, 2, 6, 24, 3), (5, 2, 6, 48, 3), (3, 2, 6, 88, 4), (5, 1, 6, 120, 4),
              (5, 2, 6, 208, 5), (3, 1, 6, 352, 1)),
}  # fmt: skip
STEM, TOP, EPS = 32, 1280, 1e-3
MOMENTUM = 0.01  # of the running statistics, as in training on ImageNet


class SameConv(nn.Conv2d):
    """A convolution padded as in TensorFlow: ceil(side / stride) values come out, and of an odd number of px the one
    more is to the right and below. (`padding` is what stands to the left of an even side.)"""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, groups: int = 1, bias: bool = False) -> None:
        padding = (kernel - stride) // 2
        super().__init__(c_in, c_out, kernel, stride, padding=padding, groups=groups, bias=bias)

    def reset_parameters(self) -> None:
        """Keeps the size of what goes backward (He et al. 2015, eq. 14), in each group of its own."""
        outgoing = self.kernel_size[0] * self.kernel_size[1] * self.out_channels / self.groups
        nn.init.normal_(self.weight, std=(2 / outgoing) ** 0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def around(self, x_NCHW: Tensor) -> tuple[int, int, int, int] | None:
        """The px to put left, right, above and below; None where `padding` says it."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        (top, bottom), (left, right) = (_same(side, kernel, stride) for side in x_NCHW.shape[2:])
        return None if top == bottom == left == right == self.padding[0] else (left, right, top, bottom)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        padding, stride = int(self.padding[0]), self.stride[0]
        if around := self.around(x_NCHW):
            x_NCHW, padding = F.pad(x_NCHW, around), 0
        if self.groups == self.out_channels > 1:
            return depthwise_conv(x_NCHW, self.weight, self.bias, stride, padding)
        return F.conv2d(x_NCHW, self.weight, self.bias, stride, padding, groups=self.groups)


def _same(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """The px before and behind a line of this length."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


class LiteNet(nn.Module):
    """Images (N, C, H, W) to logits (N, K).

    Attributes:
        pixels: mean and deviation with which images are normalised, on the scale of [0, 1], for each channel or all.
    """

    stages = ("stem", *(f"stage{number}" for number in range(1, 8)), "top")
    pixels: Pixels = ((127 / 255,), (128 / 255,))

    def __init__(self, config: LiteConfig, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.config = config
        (c_in,) = scaled(config, STEM)
        self.stem = named(**conv_norm("conv", "norm", config, in_channels, c_in, 3, 2), act=nn.ReLU6())
        for number, (kernel, stride, expansion, channels, count) in enumerate(STAGES[config.name], 1):
            (c_out,) = scaled(config, channels)
            blocks = {
                f"block{n}": block(config, c_in if n == 1 else c_out, c_out, kernel, stride if n == 1 else 1, expansion)
                for n in range(1, count + 1)
            }
            setattr(self, f"stage{number}", named(**blocks))
            c_in = c_out
        (c_top,) = scaled(config, TOP)
        self.top = named(**conv_norm("conv", "norm", config, c_in, c_top, 1, 1), act=nn.ReLU6())
        self.pool = GlobalMeanPool()
        self.scale = Standardize(c_top)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(c_top, num_classes)

    def parts(self) -> dict[str, nn.Module]:
        """All but the head, in the order in which an image goes through them: to features (N, D)."""
        numbers = range(1, len(STAGES[self.config.name]) + 1)
        stages = {f"stage{number}": self.get_submodule(f"stage{number}") for number in numbers}
        return {"stem": self.stem} | stages | {"top": self.top, "pool": self.pool}

    def fit_features(self, features_ND: Tensor) -> Tensor:
        """Take features of the training part, on whose scale the head is to learn; returns them on that scale."""
        self.scale.fit(features_ND)
        scaled: Tensor = self.scale(features_ND)
        return scaled

    def answer(self, features_ND: Tensor) -> Tensor:
        """Features to logits (N, K)."""
        logits: Tensor = self.head(self.dropout(self.scale(features_ND)))
        return logits

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = images_NCHW
        for part in self.parts().values():
            x = part(x)
        return self.answer(x)


def block(config: LiteConfig, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> nn.Module:
    """An inverted residual block; without the first convolution where there is no expansion."""
    inner, layers = expansion * c_in, dict[str, nn.Module]()
    if expansion > 1:
        layers |= conv_norm("expand", "norm1", config, c_in, inner, 1, 1) | {"act1": nn.ReLU6()}
    layers |= conv_norm("depthwise", "norm2", config, inner, inner, kernel, stride, groups=inner)
    layers |= {"act2": nn.ReLU6(), **conv_norm("project", "norm3", config, inner, c_out, 1, 1)}
    return Residual(OrderedDict(layers)) if (c_in, stride) == (c_out, 1) else named(**layers)


def conv_norm(
    conv: str, norm: str, config: LiteConfig, c_in: int, c_out: int, kernel: int, stride: int, groups: int = 1
) -> dict[str, nn.Module]:
    """A convolution and its norm under these names, or the two in one."""
    layer = SameConv(c_in, c_out, kernel, stride, groups, bias=config.is_folded)
    if config.is_folded:
        return {conv: layer}
    return {conv: layer, norm: nn.BatchNorm2d(c_out, eps=EPS, momentum=MOMENTUM)}


NORM_OF = {"conv": "norm", "expand": "norm1", "depthwise": "norm2", "project": "norm3"}


def fold(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the net without norms that does the same in evaluation mode."""
    found = {name: tensor for name, tensor in tensors.items() if "norm" not in name}
    for name in [name for name in found if name.endswith(".weight")]:
        layer, _, conv = name.removesuffix(".weight").rpartition(".")
        norm = f"{layer}.{NORM_OF.get(conv)}"
        if f"{norm}.weight" in tensors:
            mean, var, scale, shift = (
                tensors[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")
            )
            weight, bias = fuse_conv_bn_weights(found[name], None, mean, var, EPS, scale, shift)
            found |= {name: weight.detach(), f"{layer}.{conv}.bias": bias.detach()}
    return found
