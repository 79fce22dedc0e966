"""The three generations of residual nets, in the form used on small images: a 3×3 convolution first, and no pool.

resnet18 (V1, He et al. 2015): the shape of a block is  x + f(x), then the activation.
Shapes for a 32×32 image (at width 1: 11,173,962 parameters, 555.4 million multiply-adds):

    prep    conv 3→64, BN, ReLU                                        64 × 32 × 32
    layer1  two blocks of two 3×3 convolutions                         64 × 32 × 32
    layer2  two blocks, the first with stride 2                       128 × 16 × 16
    layer3  two blocks, the first with stride 2                       256 ×  8 ×  8
    layer4  two blocks, the first with stride 2                       512 ×  4 ×  4
    pool    mean over what is left                                    512
    head    linear                                                     10

preact-resnet18 (V2, He et al. 2016, "Identity mappings in deep residual networks"): norm and activation stand before
the convolutions, so that nothing is done to the sum and the way back to the first layer is free. The same shapes; a
last norm and activation stand before the pool, as in the paper (11,172,170 parameters).

resnext29 (V3, Xie et al. 2017): the 3×3 convolution in the middle of a block is split into eight groups of channels, a
set of parallel branches written as one layer. ResNeXt-29, 8×64d at width 1 (34.4 million parameters):

    prep    conv 3→64, BN, ReLU                                        64 × 32 × 32
    layer1  three blocks (1×1 → 512, 3×3 in groups, 1×1 → 256)        256 × 32 × 32
    layer2  three blocks (1024, 512), the first with stride 2         512 × 16 × 16
    layer3  three blocks (2048, 1024), the first with stride 2       1024 ×  8 ×  8
    pool    mean over what is left                                   1024
    head    linear                                                     10
"""

from collections.abc import Callable

from torch import Tensor, nn

from daybreak.core.nets import OwnNet
from daybreak.models.layers import ACTIVATIONS, GlobalMeanPool, conv1x1, conv3x3, named, scaled, with_dropout

GROUPS = 8  # of a ResNeXt block: its cardinality

Act = type[nn.Module]
MakeBlock = Callable[[int, int, int, Act], nn.Module]  # channels in and out, stride, activation


class Block(nn.Module):
    """act(shortcut(x) + f(x)); the shortcut is x itself, or a 1×1 convolution of it where the shape changes."""

    def __init__(self, branch: nn.Module, c_in: int, c_out: int, stride: int, act: Act) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = projection(c_in, c_out, stride)
        self.act = act()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out: Tensor = self.act(self.shortcut(x_NCHW) + self.branch(x_NCHW))
        return out


def basic_block(c_in: int, c_out: int, stride: int, act: Act) -> nn.Module:
    """V1: two 3×3 convolutions."""
    branch = named(
        conv1=conv3x3(c_in, c_out, stride), norm1=nn.BatchNorm2d(c_out), act1=act(),
        conv2=conv3x3(c_out, c_out), norm2=nn.BatchNorm2d(c_out),
    )  # fmt: skip
    return Block(branch, c_in, c_out, stride, act)


def grouped_block(c_in: int, c_out: int, stride: int, act: Act) -> nn.Module:
    """V3: a grouped 3×3 convolution between two 1×1 convolutions."""
    inner = 2 * c_out
    branch = named(
        conv1=conv1x1(c_in, inner), norm1=nn.BatchNorm2d(inner), act1=act(),
        conv2=conv3x3(inner, inner, stride, groups=GROUPS), norm2=nn.BatchNorm2d(inner), act2=act(),
        conv3=conv1x1(inner, c_out), norm3=nn.BatchNorm2d(c_out),
    )  # fmt: skip
    return Block(branch, c_in, c_out, stride, act)


class PreactBlock(nn.Module):
    """V2: shortcut(x) + f(x) with norm and activation before each of the two 3×3 convolutions in f. Where the shape
    changes, the shortcut is a 1×1 convolution of the activated input."""

    def __init__(self, c_in: int, c_out: int, stride: int, act: Act) -> None:
        super().__init__()
        self.ready = named(norm=nn.BatchNorm2d(c_in), act=act())
        self.branch = named(
            conv1=conv3x3(c_in, c_out, stride), norm=nn.BatchNorm2d(c_out), act=act(), conv2=conv3x3(c_out, c_out)
        )
        self.shortcut = conv1x1(c_in, c_out, stride) if (stride, c_in) != (1, c_out) else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        ready = self.ready(x_NCHW)
        through = x_NCHW if self.shortcut is None else self.shortcut(ready)
        out: Tensor = through + self.branch(ready)
        return out


class ResNet(nn.Module):
    """Images (N, C, H, W) to logits (N, K)."""

    stages: tuple[str, ...] = ("prep", "layer1", "layer2", "layer3", "layer4")
    is_preact = False

    def __init__(self, config: OwnNet, num_classes: int, in_channels: int) -> None:
        super().__init__()
        w64, w128, w256, w512 = scaled(config, 64, 128, 256, 512)
        act, block = ACTIVATIONS[config.activation], PreactBlock if self.is_preact else basic_block
        first = conv3x3(in_channels, w64)
        self.prep = first if self.is_preact else named(conv=first, norm=nn.BatchNorm2d(w64), act=act())
        self.layer1 = blocks(block, 2, w64, w64, 1, act)
        self.layer2 = blocks(block, 2, w64, w128, 2, act)
        self.layer3 = blocks(block, 2, w128, w256, 2, act)
        self.layer4 = blocks(block, 2, w256, w512, 2, act)
        self.ready = named(norm=nn.BatchNorm2d(w512), act=act()) if self.is_preact else nn.Identity()
        self.pool = with_dropout(GlobalMeanPool(), config)
        self.head = nn.Linear(w512, num_classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.prep(images_NCHW)))
        x = self.ready(self.layer4(self.layer3(x)))
        logits: Tensor = self.head(self.pool(x))
        return logits


class PreactResNet(ResNet):
    """The same with blocks of the second kind."""

    is_preact = True


class ResNeXt(nn.Module):
    """Images (N, C, H, W) to logits (N, K)."""

    stages = ("prep", "layer1", "layer2", "layer3")

    def __init__(self, config: OwnNet, num_classes: int, in_channels: int) -> None:
        super().__init__()
        w64, w256, w512, w1024 = (GROUPS * n for n in scaled(config, 8, 32, 64, 128))  # whole groups at any width
        act = ACTIVATIONS[config.activation]
        self.prep = named(conv=conv3x3(in_channels, w64), norm=nn.BatchNorm2d(w64), act=act())
        self.layer1 = blocks(grouped_block, 3, w64, w256, 1, act)
        self.layer2 = blocks(grouped_block, 3, w256, w512, 2, act)
        self.layer3 = blocks(grouped_block, 3, w512, w1024, 2, act)
        self.pool = with_dropout(GlobalMeanPool(), config)
        self.head = nn.Linear(w1024, num_classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.prep(images_NCHW)
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.head(self.pool(x))
        return logits


def blocks(block: MakeBlock, count: int, c_in: int, c_out: int, stride: int, act: Act) -> nn.Sequential:
    """The first changes the shape, the others keep it."""
    first, rest = block(c_in, c_out, stride, act), (block(c_out, c_out, 1, act) for _ in range(count - 1))
    return named(**{f"block{number}": made for number, made in enumerate((first, *rest), 1)})


def projection(c_in: int, c_out: int, stride: int) -> nn.Module:
    """What a sum needs where the shape changes; elsewhere the input as it is."""
    if (stride, c_in) == (1, c_out):
        return nn.Identity()
    return named(conv=conv1x1(c_in, c_out, stride), norm=nn.BatchNorm2d(c_out))
