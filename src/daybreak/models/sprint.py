"""sprint: the speed net, after airbench94 (Jordan 2024), with a residual round the second convolution of each group.

Shapes for a 32×32 colour image with its channels (1,972,792 parameters, 118 million multiply-adds):

    whiten  fixed 2×2 convolution 3→24, no padding; its bias is trained      24 × 31 × 31
    prep    activation                                                       24 × 31 × 31
    layer1  conv→64,  max-pool, BN, act, + residual (conv, BN, act)          64 × 15 × 15
    layer2  conv→256, max-pool, BN, act, + residual (conv, BN, act)         256 ×  7 ×  7
    layer3  conv→256, max-pool, BN, act, + residual (conv, BN, act)         256 ×  3 ×  3
    pool    max over what is left                                           256
    head    linear without bias, divided by its input width                  10

With a `depth` of two the residual branch is (conv, BN, act) twice.

With `padded` the image gets a row and a column of zeros at its end, and maps have sides of 32, 16, 8 and 4 instead:
whole tiles of F(4×4, 3×3), which makes most of its convolutions cheaper on CPUs in spite of their larger maps
(models/winograd). The recipes of the ladder are padded.

The whitening filters are the eigenvectors of 2×2 image patches, each with its negative, scaled to unit variance
(Page 2019). Batch-norm scales stay at one, convolutions start as the identity as far as they have channels.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from daybreak.core.nets import SprintConfig
from daybreak.models.groups import ParamGroup, Sample
from daybreak.models.layers import ACTIVATIONS, GlobalMaxPool, Residual, Scale, conv3x3, named, scaled, with_dropout

WHITEN_KERNEL = 2
WHITEN_PATCHES = 5_000_000  # of 5,000 images of 32 px: more than enough for a 12×12 covariance


class SprintNet(nn.Module):
    """Images (N, C, H, W), H and W at least 9, to logits (N, K)."""

    stages = ("prep", "layer1", "layer2", "layer3")

    def __init__(self, config: SprintConfig, num_classes: int, in_channels: int) -> None:
        super().__init__()
        w1, w2, w3 = scaled(config, *config.channels)
        act = ACTIVATIONS[config.activation]
        whitened = 2 * in_channels * WHITEN_KERNEL**2
        self.pad = nn.ZeroPad2d((0, 1, 0, 1)) if config.padded else nn.Identity()
        self.whiten = nn.Conv2d(in_channels, whitened, WHITEN_KERNEL)
        self.whiten.weight.requires_grad_(False)
        self.prep = act()
        self.layer1 = group(whitened, w1, act, config.depth)
        self.layer2 = group(w1, w2, act, config.depth)
        self.layer3 = group(w2, w3, act, config.depth)
        self.pool = with_dropout(GlobalMaxPool(), config)
        linear = nn.Linear(w3, num_classes, bias=False)
        nn.init.uniform_(linear.weight, -(3**0.5), 3**0.5)  # unit variance: the division by w3 comes after
        self.head = named(linear=linear, scale=Scale(1 / w3))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.prep(self.whiten(self.pad(images_NCHW)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.head(self.pool(x))
        return logits

    @torch.no_grad()
    def fit_data(self, sample: Sample, size: int) -> None:
        """Set the first convolution from the patches of training images."""
        images_NCHW = sample(WHITEN_PATCHES // size**2)
        self.whiten.weight.copy_(whitening_filters(images_NCHW, WHITEN_KERNEL))

    def param_groups(self) -> list[ParamGroup]:
        """Filters, biases and head as airbench has them; the whitening's bias is frozen early (Jordan 2024)."""
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        filters = [p for _, p in named if p.ndim == 4]
        whiten = [p for name, p in named if name == "whiten.bias"]
        head = [p for _, p in named if p.ndim == 2]
        biases = [p for name, p in named if p.ndim not in (2, 4) and name != "whiten.bias"]
        return [
            ParamGroup(filters, "filters"),
            ParamGroup(whiten, "whiten"),
            ParamGroup(biases, "biases"),
            ParamGroup(head, "head"),
        ]


def whitening_filters(images_NCHW: Tensor, kernel: int, eps: float = 5e-4) -> Tensor:
    """Filters (2 C k², C, k, k) whose responses on these images are uncorrelated with unit variance (up to `eps`,
    which keeps directions without variance from being blown up), each followed by its negative half."""
    channels = images_NCHW.shape[1]
    patches_PD = nn.functional.unfold(images_NCHW, kernel).transpose(1, 2).flatten(0, 1)
    covariance = patches_PD.T @ patches_PD / len(patches_PD)
    eigenvalues, eigenvectors = (t.to(covariance.device) for t in torch.linalg.eigh(covariance.cpu()))
    filters = (eigenvectors / (eigenvalues + eps).sqrt()).T.reshape(-1, channels, kernel, kernel)
    return torch.cat([filters, -filters])


def group(c_in: int, c_out: int, act: type[nn.Module], depth: int) -> nn.Sequential:
    branch = OrderedDict[str, nn.Module]()
    for n in ("", *range(2, depth + 1)):
        branch |= {f"conv{n}": identity_conv(c_out, c_out), f"norm{n}": bias_norm(c_out), f"act{n}": act()}
    residual = Residual(branch)
    return named(
        conv=identity_conv(c_in, c_out), pool=nn.MaxPool2d(2), norm=bias_norm(c_out), act=act(), residual=residual
    )


def identity_conv(c_in: int, c_out: int) -> nn.Conv2d:
    """A 3×3 convolution whose first output channels copy the input channels at the start of training."""
    conv = conv3x3(c_in, c_out)
    nn.init.dirac_(conv.weight.data[:c_in])
    return conv


def bias_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with a trained bias and a scale fixed at one; running statistics forget fast, as training is short."""
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm
