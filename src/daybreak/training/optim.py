"""Optimizers and how the schedule drives them.

Parameter groups carry their own peak rate; the schedule gives every group the same fraction of its peak.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from daybreak.core.config import Adam, Muon, OneCycle, Recipe
from daybreak.models.groups import ParamGroup, groups_of
from daybreak.training import schedule

# Quintic coefficients with the steepest slope at zero; they do not converge to exactly one, which does no harm
# (Jordan 2024, "Muon: an optimizer for hidden layers in neural networks").
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


@torch.no_grad()
def orthogonalize(matrices: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values are pushed towards one by Newton-Schulz steps.

    A step is x ← q x with q = a + b g + c g², g = x xᵀ. All q are polynomials of the first g, so that the steps are
    taken on these small matrices, g ← q g q, and the long x is multiplied once, by the product of all q.

    Args:
        matrices: (..., rows, columns); each on its own.
        dtype: of the products with x; bfloat16 is precise enough.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(dtype)
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    gram = (x @ x.mT).to(torch.promote_types(dtype, torch.float32))
    one = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor = one
    for step in range(steps):
        q = a * one + b * gram + c * gram @ gram
        factor = q @ factor if step else q
        gram = q @ gram @ q if step < steps - 1 else gram
    x = factor.to(dtype) @ x
    return (x.mT if tall else x).to(matrices.dtype)


OTHER_BETAS = (0.9, 0.95)  # of Adam beside Muon (Jordan 2024)


class MuonOptimizer(torch.optim.Optimizer):
    """Muon for convolution filters: Nesterov momentum, made orthogonal, applied to filters of fixed norm.

    Every step first rescales the filter bank (out, in, k, k) to the norm sqrt(out), so the rate is an angle and
    no decay is needed. Banks of one shape are made orthogonal together, which a GPU does in the time of one.

    Attributes:
        update: `muon_update`, or its compiled form.
    """

    def __init__(
        self, params: Iterable[Tensor] | list[dict[str, Any]], momentum: float, steps: int, dtype: torch.dtype
    ) -> None:
        super().__init__(params, {"lr": 0.0, "momentum": momentum, "steps": steps, "dtype": dtype})
        self.update = muon_update

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Change the parameters by their gradients once."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for banks in by_shape.values():
                averages = [self._average_of(p) for p in banks]
                gradients = [p.grad for p in banks if p.grad is not None]
                self.update(banks, gradients, averages, *(group[k] for k in ("lr", "momentum", "steps", "dtype")))

    def _average_of(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        average: Tensor = state["momentum_buffer"]
        return average


def muon_update(
    banks: list[Tensor],
    gradients: list[Tensor],
    averages: list[Tensor],
    rate: float | Tensor,
    momentum: float,
    steps: int,
    dtype: torch.dtype,
) -> None:
    """One step of Muon for filter banks of one shape, in place, with the averages of their gradients."""
    ahead = [
        gradient.add(average.mul_(momentum).add_(gradient), alpha=momentum)  # Nesterov's
        for gradient, average in zip(gradients, averages, strict=True)
    ]
    updates = orthogonalize(torch.stack([bank.flatten(1) for bank in ahead]), steps, dtype)
    for p, update in zip(banks, updates, strict=True):
        p.mul_(len(p) ** 0.5 / p.norm())
        if isinstance(rate, Tensor):
            p.sub_(update.view_as(p) * rate)  # as `alpha` the host would have to read it
        else:
            p.sub_(update.view_as(p), alpha=rate)


class ScheduledOptimizer:
    """One or two torch optimizers driven by a one-cycle schedule.

    Each parameter group holds `peak` (its rate at the top of the cycle) and `until` (its cycle ends at this
    progress; where that is before the end, the group is frozen from then on).
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer], cycle: OneCycle) -> None:
        self.optimizers, self.cycle = optimizers, cycle

    def set_progress(self, progress: float) -> tuple[float, float]:
        """Put every group where the cycle is at this progress; returns (lr, momentum) of the first group."""
        momentum = schedule.momentum(self.cycle, progress)
        for group in (g for optimizer in self.optimizers for g in optimizer.param_groups):
            mine = progress / group["until"]
            set_rate(group, group["peak"] * schedule.learning_rate(self.cycle, mine) / self.cycle.max_lr)
            # (At the very end there is still a step to take, where time runs out within it.)
            if mine >= 1 > group["until"]:
                _freeze(group["params"])
            if momentum is not None:
                _set_momentum(group, momentum)
        first = self.optimizers[0].param_groups[0]
        return first["rate"], first["betas"][0] if "betas" in first else first["momentum"]

    def set_rate(self, rate: float) -> None:
        """As if this were the peak of the cycle: the first kind of group gets the rate, the others theirs in
        proportion, and all the momentum that goes with the peak."""
        momentum = schedule.momentum(self.cycle, self.cycle.warmup)
        for group in (g for optimizer in self.optimizers for g in optimizer.param_groups):
            set_rate(group, group["peak"] * rate / self.cycle.max_lr)
            if momentum is not None:
                _set_momentum(group, momentum)

    def scale_rates(self, factor: float) -> None:
        """Multiply every group's rate for the step to come; the next step has the cycle's again."""
        for group in (g for optimizer in self.optimizers for g in optimizer.param_groups):
            set_rate(group, group["rate"] * factor)

    def ends(self) -> set[float]:
        """The progress at which each group's cycle ends."""
        return {group["until"] for optimizer in self.optimizers for group in optimizer.param_groups}

    def compile(self, backend: str | None = "inductor") -> None:
        """Let what is not a single kernel already be compiled at the next step; None: no longer. A momentum that moves
        would make it another program at every step."""
        update = muon_update
        if backend is not None and self.cycle.momentum is None:
            update = torch.compile(muon_update, backend=backend, dynamic=False)
        for optimizer in self.optimizers:
            if isinstance(optimizer, MuonOptimizer):
                optimizer.update = update

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)


def build_optimizer(net: nn.Module, recipe: Recipe, batch_size: int, compute_dtype: torch.dtype) -> ScheduledOptimizer:
    """The recipe's optimizer over the trainable parameters of the net, in the net's own groups (`models.groups`).

    Args:
        batch_size: the one in use; smaller than the recipe's where there are fewer images.
    """
    config, peak = recipe.optimizer, recipe.schedule.max_lr
    optimizers: list[torch.optim.Optimizer]
    if isinstance(config, Muon):
        optimizers = _muon_and_others(net, config, batch_size, peak, compute_dtype)
    else:
        groups = [_group(group, peak) for group in _alike(net)]
        if isinstance(config, Adam):
            optimizers = [_adam(groups, (config.beta1, config.beta2), config.eps, config.weight_decay)]
        else:
            optimizers = [_sgd(groups, config.momentum, weight_decay=config.weight_decay)]
    return ScheduledOptimizer(optimizers, recipe.schedule)


def _alike(net: nn.Module) -> list[ParamGroup]:
    """The net's groups for an optimizer that treats all roles alike: one for each setting, in the order of the net."""
    setting_of = {id(p): (g.lr_factor, g.weight_decay, g.until) for g in groups_of(net) for p in g.params}
    by_setting: dict[tuple[float, float | None, float], list[nn.Parameter]] = {}
    for p in net.parameters():
        if p.requires_grad and id(p) in setting_of:
            by_setting.setdefault(setting_of[id(p)], []).append(p)
    return [ParamGroup(params, "other", *setting) for setting, params in by_setting.items()]


def _muon_and_others(
    net: nn.Module, config: Muon, batch_size: int, peak: float, dtype: torch.dtype
) -> list[torch.optim.Optimizer]:
    """Muon for the role `filters`, SGD for the roles of the sprint net, Adam for all others."""
    rates = {"whiten": config.bias_lr, "biases": config.bias_lr, "head": config.head_lr}
    groups, optimizers = groups_of(net), list[torch.optim.Optimizer]()
    if filters := [_group(g, peak) for g in groups if g.role == "filters"]:
        optimizers.append(MuonOptimizer(filters, config.momentum, config.newton_schulz_steps, dtype))
    sgd = []
    for group in (g for g in groups if g.role in rates):
        rate, until = rates[group.role], config.whiten_bias_until if group.role == "whiten" else group.until
        sgd.append(_group(replace(group, until=until), rate * batch_size, config.weight_decay / rate))
    if sgd:
        optimizers.append(_sgd(sgd, config.sgd_momentum))
    if other := [_group(g, config.other_lr, 0.0) for g in groups if g.role == "other"]:
        optimizers.append(_adam(other, OTHER_BETAS, 1e-8, 0.0))
    return optimizers


def _adam(
    groups: list[dict[str, Any]], betas: tuple[float, float], eps: float, weight_decay: float
) -> torch.optim.Optimizer:
    fused = all(_can_be_fused(group["params"]) for group in groups)
    return torch.optim.Adam(
        groups, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused or None, capturable=fused
    )


def _sgd(groups: list[dict[str, Any]], momentum: float, weight_decay: float = 0.0) -> torch.optim.SGD:
    fused = all(_can_be_fused(group["params"]) for group in groups) or None
    return torch.optim.SGD(groups, momentum=momentum, nesterov=momentum > 0, weight_decay=weight_decay, fused=fused)


def _can_be_fused(params: list[nn.Parameter]) -> bool:
    """Whether there is a fused form of the update, which reads its rate on the device."""
    return all(p.is_cuda and p.is_floating_point() for p in params)


def _group(group: ParamGroup, peak: float, weight_decay: float | None = None) -> dict[str, Any]:
    """What torch takes; a decay that the net asks for stands before the recipe's."""
    peak, decay = peak * group.lr_factor, weight_decay if group.weight_decay is None else group.weight_decay
    params = list(group.params)
    lr = torch.tensor(peak, device=params[0].device) if _can_be_fused(params) else peak
    return {"params": params, "peak": peak, "until": group.until, "lr": lr, "rate": peak} | (
        {} if decay is None else {"weight_decay": decay}
    )


def set_rate(group: dict[str, Any], rate: float) -> None:
    """A CUDA graph reads its rates from the device, where they are tensors; `rate` is the same for the host."""
    group["rate"] = rate
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _freeze(params: list[nn.Parameter]) -> None:
    """Without a gradient the optimizers pass a parameter over, and autograd need not go back that far."""
    for p in params:
        p.requires_grad_(False)
        p.grad = None


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, group["betas"][1])
    else:
        group["momentum"] = momentum
