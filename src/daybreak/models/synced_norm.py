"""Batch norm over a batch that several processes share: mean and variance are those of all its images.

PyTorch's own `SyncBatchNorm` is for accelerators only, and knows nothing of `models.norm`. A net whose norms were
synchronized keeps the names and shapes of its state, and computes in evaluation mode as it did.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from daybreak.core.errors import UsageError

Total = Callable[[Tensor], None]  # replaces a tensor by its sum over all processes, and is waited for


class _Normalized(torch.autograd.Function):
    """What `F.batch_norm` gives in training mode, with the sums of all processes (Ioffe & Szegedy 2015)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, eps: float, total: Total
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The output, and mean (C,), biased variance (C,) and count of the whole batch."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        dims = [0, *range(2, x.ndim)]
        variance_C, mean_C = (t.double() for t in torch.var_mean(wide, dims, correction=0))
        count = x.numel() // x.shape[1]
        moments = torch.stack([mean_C, variance_C + mean_C.square()]) * count
        mean_C, variance_C, whole = whole_moments(moments, count, total)
        mean, variance = (t.to(wide.dtype) for t in (mean_C, variance_C))
        out = F.batch_norm(x, mean, variance, weight_C, bias_C, training=False, eps=eps)
        ctx.save_for_backward(x, weight_C, mean, (variance_C + eps).rsqrt().to(wide.dtype))
        ctx.setting = (dims, whole, total, bias_C is not None)
        found = (mean, variance, torch.tensor(whole))
        ctx.mark_non_differentiable(*found)
        return out, *found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_C, mean_C, rstd_C = ctx.saved_tensors
        dims, whole, total, has_bias = ctx.setting
        shape = [1, -1, *[1] * (x.ndim - 2)]
        dy, normal = dy.to(mean_C.dtype), (x.to(mean_C.dtype) - mean_C.view(shape)) * rstd_C.view(shape)
        bias_C, product_C = dy.sum(dims), (dy * normal).sum(dims)
        sums_2C = torch.stack([bias_C, product_C]).double()
        total(sums_2C)  # of all; the gradients of weight and bias are added up with those of all other parameters
        offset_C, slope_C = (sums_2C / whole).to(mean_C.dtype)
        scale_C = rstd_C if weight_C is None else rstd_C * weight_C
        dx = (dy - offset_C.view(shape) - normal * slope_C.view(shape)) * scale_C.view(shape)
        gradients = (None if weight_C is None else product_C, bias_C if has_bias else None)
        return dx.to(x.dtype), *gradients, None, None


def whole_moments(sums_2C: Tensor, count: int, total: Total) -> tuple[Tensor, Tensor, float]:
    """Mean, biased variance and count of the whole batch, float64.

    Args:
        sums_2C: of the values of this process and of their squares, float64.
        count: of its values per channel.
    """
    message = torch.cat([sums_2C.flatten(), sums_2C.new_full((1,), count)])
    total(message)
    whole = float(message[-1])
    mean_C, square_C = message[:-1].view(2, -1) / whole
    return mean_C, (square_C - mean_C.square()).clamp(min=0), whole


class _Synced(_BatchNorm):
    """
    Attributes:
        total: adds up over the processes.
    """

    total: Total

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        out: Tensor
        out, mean_C, variance_C, whole = _Normalized.apply(x, self.weight, self.bias, self.eps, self.total)  # type: ignore[no-untyped-call]
        note_batch(self, mean_C, variance_C, float(whole))
        return out


@torch.no_grad()
def note_batch(norm: _BatchNorm, mean_C: Tensor, variance_C: Tensor, count: float) -> None:
    """Let a batch of so many values per channel count in the running statistics.

    Args:
        variance_C: biased.
    """
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked += 1
    rate = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean_C.to(norm.running_mean.dtype), rate)
    norm.running_var.lerp_((variance_C * (count / max(count - 1, 1))).to(norm.running_var.dtype), rate)


class SyncedNorm1d(_Synced, nn.BatchNorm1d):
    """Batch norm of features (N, C)."""


class SyncedNorm2d(_Synced, nn.BatchNorm2d):
    """Batch norm of maps (N, C, H, W)."""


SYNCED: dict[type[nn.Module], type[nn.Module]] = {nn.BatchNorm1d: SyncedNorm1d, nn.BatchNorm2d: SyncedNorm2d}


def synchronize_norms(net: nn.Module, total: Total) -> None:
    """Let all batch norms of a net see the whole batch, in place.

    Raises:
        UsageError: it has norms of another make, whose sums cannot be reached.
    """
    for name, module in net.named_modules():
        kind = SYNCED.get(type(module))
        if kind is not None:
            module.__class__ = kind
            module.total = total
        elif isinstance(module, _BatchNorm):
            why = f"a {type(module).__name__} of its own, which sees the images of one process only"
            raise UsageError(f"{name or 'the net'}", why, "one process, or a net with torch.nn.BatchNorm2d")
