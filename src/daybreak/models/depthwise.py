"""Depthwise convolutions of which the backward pass, too, is fast in bfloat16 on a CPU.

PyTorch's library for CPUs (oneDNN) has no kernel of its own there for the gradient of 5×5 filters, nor for that of an
input at stride 2, and falls back to a loop that takes a hundred times as long as the forward pass: three quarters of a
step of lite0 from `stage6` on. Both gradients can be had from what it has kernels for:

- that of a filter, from gradients of 3×3 filters: a 5×5 filter is four of them, each on its own part of the padded
  input. Where they overlap they agree.
- that of an input, in float32, which is then rounded.
"""

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

FAST = 3  # the side of filters for whose gradient there is a kernel
Hints = tuple[Tensor | None, ...]


def depthwise_conv(x_NCHW: Tensor, weight_C1KK: Tensor, bias_C: Tensor | None, stride: int, padding: int) -> Tensor:
    """A convolution of each channel by its own filter: as `F.conv2d`, and in its number format under autocast."""
    if not is_slow_in_pytorch(x_NCHW, weight_C1KK, stride):
        return F.conv2d(x_NCHW, weight_C1KK, bias_C, stride, padding, groups=len(weight_C1KK))
    half = [None if t is None else t.bfloat16() for t in (x_NCHW, weight_C1KK, bias_C)]
    with torch.autocast("cpu", enabled=False):
        found: Tensor = _Depthwise.apply(*half, stride, padding)  # type: ignore[no-untyped-call]
    return found


def is_slow_in_pytorch(x_NCHW: Tensor, weight_C1KK: Tensor, stride: int) -> bool:
    """Whether there will be a backward pass in bfloat16 on a CPU, by filters or a stride without a kernel."""
    if x_NCHW.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    computes = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_NCHW.dtype
    learns = weight_C1KK.requires_grad or x_NCHW.requires_grad
    return learns and computes == torch.bfloat16 and (stride > 1 or weight_C1KK.shape[2] > FAST)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_NCHW: Tensor, weight_C1KK: Tensor, bias_C: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        ctx.save_for_backward(x_NCHW, weight_C1KK)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x_NCHW, weight_C1KK, bias_C, stride, padding, groups=len(weight_C1KK))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NCHW: Tensor) -> Hints:
        x_NCHW, weight_C1KK = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        grad_x = _of_input(grad_NCHW, x_NCHW, weight_C1KK, ctx.stride, ctx.padding) if of_x else None
        grad_weight = _of_filters(grad_NCHW, x_NCHW, weight_C1KK, ctx.stride, ctx.padding) if of_weight else None
        grad_bias = grad_NCHW.sum((0, 2, 3), dtype=torch.float32).to(grad_NCHW) if of_bias else None
        return grad_x, grad_weight, grad_bias, None, None


def _of_input(grad_NCHW: Tensor, x_NCHW: Tensor, weight_C1KK: Tensor, stride: int, padding: int) -> Tensor:
    if stride == 1:
        return _gradients(grad_NCHW, x_NCHW, weight_C1KK, stride, padding, 0)
    return _gradients(grad_NCHW.float(), x_NCHW.float(), weight_C1KK.float(), stride, padding, 0).to(x_NCHW)


def _of_filters(grad_NCHW: Tensor, x_NCHW: Tensor, weight_C1KK: Tensor, stride: int, padding: int) -> Tensor:
    side = weight_C1KK.shape[2]
    if side <= FAST:
        return _gradients(grad_NCHW, x_NCHW, weight_C1KK, stride, padding, 1)
    padded, found = F.pad(x_NCHW, (padding,) * 4), torch.empty_like(weight_C1KK)
    small = found[..., :FAST, :FAST].contiguous()
    height, width = (stride * (n - 1) + FAST for n in grad_NCHW.shape[2:])
    starts = (*range(0, side - FAST, FAST), side - FAST)
    for top, left in product(starts, starts):
        part = padded[:, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
        found[..., top : top + FAST, left : left + FAST] = _gradients(grad_NCHW, part, small, stride, 0, 1)
    return found


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, which: int) -> Tensor:
    """The gradient of the input (which=0) or of the filters (1), by PyTorch."""
    mask = [which == 0, which == 1, False]
    options = (None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], len(weight), mask)
    found: Tensor = torch.ops.aten.convolution_backward(grad, x, weight, *options)[which]
    return found
