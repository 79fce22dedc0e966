"""Depthwise convolutions in bfloat16 on a CPU: our backward pass against the library's in float32."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from daybreak.models.depthwise import depthwise_conv, is_slow_in_pytorch

ROUNDING = 2.0**-8  # half a unit in the last place of bfloat16, relative


def problem(kernel: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Input (N, C, H, W), filters and biases, of values that bfloat16 has."""
    rng = torch.Generator().manual_seed(kernel)
    shapes = ((3, 32, 9, 12), (32, 1, kernel, kernel), (32,))
    x, weight, bias = (torch.randn(shape, generator=rng).bfloat16().to(dtype).requires_grad_() for shape in shapes)
    return x, weight, bias


def gradients(found: Tensor, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    weighting = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    return [g.float() for g in torch.autograd.grad((found * weighting.to(found)).sum(), inputs)]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(5, 1, 2), (5, 2, 0), (5, 2, 2), (3, 2, 1), (4, 1, 0), (7, 1, 3), (9, 2, 4)]
)
def test_gradients_are_those_of_the_library(kernel: int, stride: int, padding: int, channels_last: bool) -> None:
    ours, theirs = problem(kernel, torch.bfloat16), problem(kernel)
    x = ours[0].contiguous(memory_format=torch.channels_last) if channels_last else ours[0]
    found = depthwise_conv(x, *ours[1:], stride, padding)
    assert type(found.grad_fn).__name__ == "_DepthwiseBackward"
    wanted = F.conv2d(*theirs, stride, padding, groups=32)
    torch.testing.assert_close(found.float(), wanted, rtol=2 * ROUNDING, atol=0.02)
    for mine, other in zip(gradients(found, ours), gradients(wanted, theirs), strict=True):
        assert ((mine - other).norm() / other.norm()).item() < 3 * ROUNDING  # processors differ in how they add up


def test_under_autocast_weights_keep_their_format_and_get_gradients_in_it() -> None:
    inputs = problem(5)
    with torch.autocast("cpu", torch.bfloat16):
        found = depthwise_conv(*inputs, 1, 2)
        wanted = F.conv2d(*inputs, 1, 2, groups=32)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, wanted)
    found.float().sum().backward()
    assert [x.grad.dtype for x in inputs if x.grad is not None] == [torch.float32] * 3


def test_a_filter_alone_learns() -> None:
    x, weight, bias = problem(5, torch.bfloat16)
    found = depthwise_conv(x.detach(), weight, bias.detach(), 2, 2)
    whole = gradients(depthwise_conv(x, weight, bias, 2, 2), (x, weight, bias))
    assert torch.equal(gradients(found, (weight,))[0], whole[1])


def test_everything_else_is_left_to_the_library() -> None:
    x, weight, _ = problem(5, torch.bfloat16)
    assert is_slow_in_pytorch(x, weight, 1)
    assert not is_slow_in_pytorch(x, weight[..., :3, :3], 1)
    assert is_slow_in_pytorch(x, weight[..., :3, :3], 2)
    assert not is_slow_in_pytorch(x.detach(), weight.detach(), 1)
    assert not is_slow_in_pytorch(x.to("meta"), weight.to("meta"), 1)
    with torch.no_grad():
        assert not is_slow_in_pytorch(x, weight, 1)
    exact = problem(5)
    assert not is_slow_in_pytorch(exact[0], exact[1], 1)
    assert type(depthwise_conv(*exact, 1, 2).grad_fn).__name__ == "ConvolutionBackward0"
    assert torch.equal(depthwise_conv(*exact, 1, 2), F.conv2d(*exact, 1, 2, groups=32))
