"""Max-pool, batch norm and activation as one operation on CPUs.

In a training step PyTorch takes nine passes over the maps for them, forward and backward, and fills the gradient of the
pool with zeros before it scatters into them; here it is five, and where the largest values were takes a byte each.
Together they are a quarter of a step once its convolutions are fast (benchmarks/LOG.md). In evaluation norm and
activation are one pass.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daybreak.models.native.build import TYPES, call, channels_last, is_written_down, takes
from daybreak.models.synced_norm import SyncedNorm2d, Total, note_batch, whole_moments

ACTS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.SiLU: "silu"}


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("images", "height", "width", "channels")]


class _PoolNormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NCHW: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        eps: float,
        act: str,
        pool: int,
        total: Total | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x_BHWC = channels_last(x_NCHW)
        images, height, width, channels = x_BHWC.shape
        shape, kind = _Shape(*x_BHWC.shape), f"{pool}_{TYPES[x_BHWC.dtype]}"
        pooled = x_BHWC.new_empty(images, height // pool, width // pool, channels) if pool > 1 else x_BHWC
        where = torch.empty(pooled.shape, dtype=torch.uint8) if pool > 1 else None
        origin_C = x_BHWC[0, 0, 0].float()
        sums_B2C = torch.empty(images, 2, channels)
        call(f"pool_{kind}", shape, x_BHWC, origin_C, pooled, where, sums_B2C)
        count: float = pooled.numel() // channels
        if total is None:
            mean_C, square_C = sums_B2C.double().sum(0) / count
            variance_C = (square_C - mean_C.square()).clamp(min=0)
            mean_C = mean_C + origin_C
        else:
            moments_2C = _about_zero(sums_B2C.double().sum(0), count, origin_C.double())
            mean_C, variance_C, count = whole_moments(moments_2C, int(count), total)
        scale_C = weight_C * (variance_C + eps).rsqrt()
        shift_C = bias_C - mean_C * scale_C
        scale_C, shift_C, mean, variance = (t.float() for t in (scale_C, shift_C, mean_C, variance_C))
        out_BHWC = torch.empty_like(pooled)
        call(f"norm_{act}_{kind}", shape, pooled, scale_C, shift_C, out_BHWC)
        ctx.save_for_backward(pooled, where, scale_C, shift_C, mean, (variance_C + eps).rsqrt().float())
        ctx.setting = (tuple(x_BHWC.shape), f"{act}_{kind}", count, total)
        found = (mean, variance, torch.tensor(float(count)))
        ctx.mark_non_differentiable(*found)
        return out_BHWC.permute(0, 3, 1, 2), *found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy_NCHW: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        pooled, where, scale_C, shift_C, mean_C, rstd_C = ctx.saved_tensors
        size, kind, count, total = ctx.setting
        dy_BHWC = channels_last(dy_NCHW.to(pooled.dtype))
        sums_B2C = torch.empty(size[0], 2, size[3])
        call(f"gradient_sums_{kind}", _Shape(*size), dy_BHWC, pooled, scale_C, shift_C, mean_C, sums_B2C)
        sums_2C = sums_B2C.double().sum(0)
        bias_C, product_C = sums_2C.clone() if total else sums_2C  # of this process; all parameters' are added up later
        if total:
            total(sums_2C)
        offset_C, slope_C = (sums_2C[0] / count).float(), (sums_2C[1] * rstd_C.double().square() / count).float()
        dx_BHWC = pooled.new_empty(size)
        given = (dy_BHWC, pooled, where, scale_C, shift_C, mean_C, offset_C, slope_C, dx_BHWC)
        call(f"gradient_{kind}", _Shape(*size), *given)
        return dx_BHWC.permute(0, 3, 1, 2), (product_C * rstd_C).float(), bias_C.float(), None, None, None, None


def _about_zero(sums_2C: Tensor, count: float, origin_C: Tensor) -> Tensor:
    """Sums of values and of squares, taken about an origin that differs between processes, as sums about zero."""
    values_C, squares_C = sums_2C
    shifted_C = squares_C + 2 * origin_C * values_C + count * origin_C.square()
    return torch.stack([values_C + count * origin_C, shifted_C])


def pool_norm_act(x_NCHW: Tensor, norm: nn.BatchNorm2d, act: nn.Module, pool: int) -> Tensor:
    """What `act(norm(max_pool(x)))` does; in training mode running statistics included.

    Args:
        pool: side and stride of the pool's windows, 1 for none.
    """
    if not norm.training:
        return _evaluated(F.max_pool2d(x_NCHW, pool) if pool > 1 else x_NCHW, norm, act)
    out: Tensor
    total = norm.total if isinstance(norm, SyncedNorm2d) else None
    given = (x_NCHW, norm.weight, norm.bias, norm.eps, ACTS[type(act)], pool, total)
    out, mean_C, variance_C, count = _PoolNormAct.apply(*given)  # type: ignore[no-untyped-call]
    note_batch(norm, mean_C, variance_C, float(count))
    return out


def _evaluated(x_NCHW: Tensor, norm: nn.BatchNorm2d, act: nn.Module) -> Tensor:
    """With the running statistics, and without a gradient."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    x_BHWC = channels_last(x_NCHW)
    scale_C = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift_C = norm.bias - norm.running_mean * scale_C
    out_BHWC = torch.empty_like(x_BHWC)
    name = f"norm_{ACTS[type(act)]}_1_{TYPES[x_BHWC.dtype]}"
    call(name, _Shape(*x_BHWC.shape), x_BHWC, scale_C, shift_C, out_BHWC)
    return out_BHWC.permute(0, 3, 1, 2)


def can_be_one(x: Tensor, norm: nn.BatchNorm2d, act: nn.Module, pool: nn.Module | None) -> bool:
    """Whether these modules on this input are one operation: in a training step or in evaluation without gradients, on
    a CPU, of modules that are as usual and that nobody listens to."""
    modules = [module for module in (pool, norm, act) if module is not None]
    return (
        isinstance(x, Tensor)  # and no stand-in of a tracer
        and (norm.training or not (torch.is_grad_enabled() and (x.requires_grad or norm.weight.requires_grad)))
        and norm.affine
        and norm.weight.dtype == torch.float32
        and norm.track_running_stats
        and norm.momentum is not None
        and type(act) in ACTS
        and (pool is None or halves(pool))
        and not is_heard(*modules)
        and x.ndim == 4
        and min(x.shape[2:]) >= 2
        and x.numel() > 0
        and not is_written_down()
        and takes(x)
    )


def is_heard(*modules: nn.Module | None) -> bool:
    """Whether somebody listens to one of these modules, which then has to be called."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        for module in modules
        if module is not None
    )


def halves(pool: nn.Module | None) -> bool:
    """Whether this is a max-pool over windows of 2×2 that takes no more than its largest values."""
    found = [getattr(pool, name, None) for name in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")]
    return isinstance(pool, nn.MaxPool2d) and found == [2, 2, 0, 1, False] and not pool.return_indices
