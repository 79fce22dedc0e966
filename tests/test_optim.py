"""Optimizers: Newton-Schulz against the SVD, Muon's step by hand, and who follows which rate."""

import pytest
import torch
from torch import nn

from daybreak.core.config import OneCycle, Recipe, override
from daybreak.core.nets import net_config
from daybreak.models.registry import build_net
from daybreak.recipes import RECIPES
from daybreak.training.optim import MuonOptimizer, ScheduledOptimizer, build_optimizer, orthogonalize


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
def test_newton_schulz_keeps_the_singular_vectors_and_evens_the_values(shape: tuple[int, int]) -> None:
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    inside = u.T @ orthogonalize(g, steps=5, dtype=torch.float64) @ vh.T
    values = inside.diagonal()
    assert (inside - values.diag()).abs().max() < 1e-9
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_three_steps_by_hand_on_one_singular_value() -> None:
    x = 1.0 / (1.0 + 1e-7)
    for _ in range(3):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    out = orthogonalize(torch.tensor([[5.0, 0.0]], dtype=torch.float64), 3, torch.float64)
    assert out[0, 0].item() == pytest.approx(x, rel=1e-6)


def test_muon_step_by_hand() -> None:
    p = nn.Parameter(torch.arange(8.0).view(2, 1, 2, 2) + 1)
    muon = MuonOptimizer([p], momentum=0.5, steps=3, dtype=torch.float32)
    muon.param_groups[0]["lr"] = 0.1
    before, g1, g2 = p.detach().clone(), torch.randn(2, 1, 2, 2), torch.randn(2, 1, 2, 2)
    average = torch.zeros_like(g1)
    for g in (g1, g2):
        p.grad = g.clone()
        muon.step()
        average = 0.5 * average + g
        update = orthogonalize((g + 0.5 * average).flatten(1), 3, torch.float32).view_as(g)
        before = before * (2**0.5 / before.norm()) - 0.1 * update
        assert torch.allclose(p, before, atol=1e-6)


def scheduled(**settings: object) -> tuple[nn.Module, ScheduledOptimizer]:
    recipe = override(RECIPES["sprint"], {"model.width": 0.1, **settings})
    net = build_net(recipe.model, 10, 3)
    return net, build_optimizer(net, recipe, recipe.batch_size, torch.float32)


def test_sprint_groups() -> None:
    net, optimizer = scheduled()
    muon, sgd = optimizer.optimizers
    assert {id(p) for p in muon.param_groups[0]["params"]} == {
        id(p) for name, p in net.named_parameters() if p.ndim == 4 and name != "whiten.weight"
    }
    whiten, biases, head = sgd.param_groups
    assert whiten["params"] == [net.whiten.bias]
    assert head["params"] == [net.head.linear.weight]
    assert len(biases["params"]) == 9  # of the norms: one behind each convolution
    trained = sum(len(g["params"]) for o in optimizer.optimizers for g in o.param_groups)
    assert trained == sum(p.requires_grad for p in net.parameters())
    batch = RECIPES["sprint"].batch_size
    assert (biases["peak"], head["peak"]) == (0.053 * batch, 0.67 * batch)
    # the decay of one step at the peak is rate · weight_decay = 2e-6 an example, the same for every group
    assert [g["peak"] * g["weight_decay"] for g in (whiten, biases, head)] == pytest.approx([2e-6 * batch] * 3)


def test_every_group_gets_the_same_share_of_its_peak_and_the_whitening_bias_freezes() -> None:
    net, optimizer = scheduled(**{"schedule.max_lr": 0.2, "schedule.initial_lr": 0.2})
    assert optimizer.set_progress(0.25) == (pytest.approx(0.15), 0.6)
    whiten, biases, head = optimizer.optimizers[1].param_groups
    assert biases["lr"] == pytest.approx(0.75 * biases["peak"])
    assert head["lr"] == pytest.approx(0.75 * head["peak"])
    assert whiten["lr"] == pytest.approx((1 - 0.25 / 0.375) * whiten["peak"])
    assert net.whiten.bias.requires_grad
    optimizer.set_progress(0.375)
    assert not net.whiten.bias.requires_grad


def test_adam_follows_rate_and_momentum() -> None:
    recipe = RECIPES["page"]
    net = build_net(net_config(name="page", width=0.1), 10, 3)
    optimizer = build_optimizer(net, recipe, recipe.batch_size, torch.float32)
    assert isinstance(optimizer.optimizers[0], torch.optim.Adam)
    optimizer.set_progress(5 / 24)
    group = optimizer.optimizers[0].param_groups[0]
    assert group["lr"] == pytest.approx(recipe.schedule.max_lr)
    assert group["betas"] == (pytest.approx(0.85), 0.999)


def test_sgd_one_step_is_torchs() -> None:
    cycle = OneCycle(max_lr=0.1, initial_lr=0.1, final_lr=0, warmup=0)
    recipe = Recipe.model_validate(
        RECIPES["page"].model_dump() | {"optimizer": {"name": "sgd"}, "schedule": cycle.model_dump()}
    )
    ours, theirs = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
    theirs.load_state_dict(ours.state_dict())
    optimizer = build_optimizer(ours, recipe, 8, torch.float32)
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for _ in range(3):
        for net in (ours, theirs):
            net.zero_grad()
            net(torch.ones(1, 3)).square().sum().backward()
        optimizer.set_progress(0)
        optimizer.step()
        reference.step()
    assert torch.equal(ours.weight, theirs.weight)


def test_banks_of_one_shape_are_made_orthogonal_as_if_alone() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, 8, 5, dtype=torch.float64)
    alone = torch.stack([orthogonalize(m, 3, torch.float64) for m in matrices])
    assert torch.allclose(orthogonalize(matrices, 3, torch.float64), alone, atol=1e-12)


def test_muon_passes_over_what_has_no_gradient_and_does_not_mix_shapes() -> None:
    torch.manual_seed(0)
    banks = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in [(4, 3, 3, 3), (6, 3, 3, 3)] * 2]
    for p in banks[1:]:
        p.grad = torch.randn_like(p)
    before = [p.detach().clone() for p in banks]
    together = MuonOptimizer(banks, 0.6, 3, torch.float64)
    together.param_groups[0]["lr"] = 0.1
    together.step()
    assert torch.equal(banks[0], before[0])
    for p, start in zip(banks[1:], before[1:], strict=True):
        alone = nn.Parameter(start.clone())
        alone.grad = p.grad
        single = MuonOptimizer([alone], 0.6, 3, torch.float64)
        single.param_groups[0]["lr"] = 0.1
        single.step()
        assert torch.allclose(p, alone, atol=1e-12)


def test_a_rate_on_the_device_is_the_same_rate() -> None:
    """A recorded step reads its rates from tensors, which the schedule fills; the host keeps them as numbers."""
    torch.manual_seed(0)
    start, gradients = torch.randn(4, 3, 3, 3, dtype=torch.float64), torch.randn(3, 4, 3, 3, 3, dtype=torch.float64)
    cycle = OneCycle(max_lr=0.2, initial_lr=0.1, final_lr=0.0, warmup=0.5)
    found, rates = [], []
    for lr in (0.0, torch.zeros((), dtype=torch.float64)):
        bank = nn.Parameter(start.clone())
        muon = MuonOptimizer([bank], 0.6, 3, torch.float64)
        muon.param_groups[0] |= {"lr": lr, "peak": 0.2, "until": 1.0}
        optimizer = ScheduledOptimizer([muon], cycle)
        for step, gradient in enumerate(gradients):
            rates.append(optimizer.set_progress(step / 4)[0])
            optimizer.scale_rates(0.5)
            bank.grad = gradient.clone()
            optimizer.step()
        assert muon.param_groups[0]["lr"] is lr or isinstance(lr, float)
        found.append(bank.detach())
    assert rates == pytest.approx(2 * [0.1, 0.15, 0.2])
    assert torch.allclose(*found, rtol=0, atol=1e-12)
    assert not torch.allclose(found[0], start)


def test_a_step_at_the_very_end_still_trains_all_but_what_is_frozen_early() -> None:
    """Over wall-clock time the end can come between the question whether there is a step left and that step."""
    early, whole = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    sgd = torch.optim.SGD(
        [{"params": [early], "until": 0.5, "peak": 1.0}, {"params": [whole], "until": 1.0, "peak": 1.0}], lr=0.0
    )
    optimizer = ScheduledOptimizer([sgd], OneCycle(max_lr=1.0, initial_lr=0.1, final_lr=0.0, warmup=0.3))
    optimizer.set_progress(1.0)
    assert (early.requires_grad, whole.requires_grad) == (False, True)
