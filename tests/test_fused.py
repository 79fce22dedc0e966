"""Convolutions of a frozen net in one operation with what follows them: the same values as layer by layer."""

import pytest
import torch
from torch import Tensor, nn

from daybreak.core.nets import LiteConfig
from daybreak.models.anatomy.folding import fold_batch_norms
from daybreak.models.cut import Cut
from daybreak.models.fused import FixedConv, fuse
from daybreak.models.registry import build_net
from daybreak.runs.classifier import autocast

CPU = torch.device("cpu")
FORMATS = (torch.float32, torch.bfloat16)


def answers(net: nn.Module, dtype: torch.dtype, side: int = 64, channels: int = 3) -> tuple[Tensor, Tensor, int]:
    """What a net says as it is and fused, and how many of its convolutions are."""
    torch.manual_seed(0)
    images = torch.randn(3, channels, side, side).contiguous(memory_format=torch.channels_last)
    folded = fold_batch_norms(net).to(memory_format=torch.channels_last)
    with torch.inference_mode(), autocast(CPU, dtype):
        before = folded(images)
        fused = fuse(folded, CPU, dtype)
        return before, fused(images), sum(isinstance(module, FixedConv) for module in fused.modules())


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("side", [64, 75])
def test_lite0_below_a_cut_says_the_same(dtype: torch.dtype, side: int) -> None:
    torch.manual_seed(1)
    net = build_net(LiteConfig(name="lite0", folded=True), 10, 3)
    before, after, count = answers(Cut(net, "stage6").below, dtype, side)
    assert after.dtype == dtype
    assert (after - before).norm() < (1e-3 if dtype == torch.bfloat16 else 1e-5) * before.norm()
    assert before.abs().max() > 0.1
    assert count in (33, 0 if dtype == torch.bfloat16 else 33)  # no bfloat16: left as they are


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(3, 8, 3, dilation=2, padding=2, bias=False),
        nn.Conv2d(3, 6, (3, 5), padding=(1, 2), groups=3),
    ],
)
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.SiLU()])
def test_every_geometry_and_activation_is_kept(conv: nn.Conv2d, activation: nn.Module) -> None:
    before, after, count = answers(nn.Sequential(conv, activation), torch.float32, 21)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    assert count == 1


class OneMore(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 8, 3, padding="same"),
        OneMore(3, 8, 3),
    ],
)
def test_what_is_more_than_a_convolution_is_left_alone(conv: nn.Conv2d) -> None:
    before, after, count = answers(nn.Sequential(conv, nn.ReLU()), torch.float32, 21)
    assert torch.equal(after, before)
    assert count == 0


class Twice(nn.Module):
    """One convolution that is called twice, and one whose map is read before its activation too."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.read, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.act(self.shared(x)))
        y: Tensor = self.read(x)
        return y + self.act(y)


def test_an_activation_is_taken_in_only_where_it_alone_reads_the_map() -> None:
    before, after, count = answers(Twice(), torch.float32, 21)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    assert count == 1
    assert (before - before.clamp(min=0)).abs().max() > 0.1


def test_elsewhere_a_net_stays_as_it_is() -> None:
    folded = fold_batch_norms(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
    assert fuse(folded, torch.device("cuda"), torch.float32) is folded
    assert isinstance(folded.get_submodule("0"), nn.Conv2d)
