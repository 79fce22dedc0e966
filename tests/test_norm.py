"""Max-pool, batch norm and activation as one operation: what the three modules do one after the other."""

import copy
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from daybreak.models import norm as norm_module
from daybreak.models.layers import Chain, named
from daybreak.models.native.build import library

SHAPES = [(5, 33, 9, 7), (4, 16, 8, 8), (9, 1, 4, 5), (8, 20, 3, 2)]


def chain(channels: int, act: nn.Module, pool: bool) -> Chain:
    """With scales and shifts of either sign, and statistics that have seen something."""
    norm = nn.BatchNorm2d(channels, momentum=0.3)
    generator = torch.Generator().manual_seed(channels)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        assert tensor is not None
        tensor.copy_(torch.randn(channels, generator=generator))
    return named(**({"pool": nn.MaxPool2d(2)} if pool else {}), norm=norm, act=act)


def one_by_one(modules: Chain, x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x


def is_one(y: Tensor) -> bool:
    return "PoolNormAct" in str(y.grad_fn)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("act", "pool"), [*product([nn.ReLU, nn.SiLU], [False, True])])
def test_values_gradients_and_statistics_are_those_of_the_modules(
    act: type[nn.Module], pool: bool, dtype: torch.dtype
) -> None:
    assert library() is not None, "needs a C compiler"
    close = 1e-2 if dtype == torch.bfloat16 else 2e-6
    for seed, shape in enumerate(SHAPES):
        generator = torch.Generator().manual_seed(seed)
        x = (torch.randn(*shape, generator=generator) * 3 + 5).to(dtype)
        mine, theirs = chain(shape[1], act(), pool), chain(shape[1], act(), pool).double()
        x_mine, x_theirs = x.clone().requires_grad_(), x.double().requires_grad_()
        y, expected = mine(x_mine), one_by_one(theirs, x_theirs)
        assert is_one(y)
        assert y.dtype == dtype
        dy = torch.randn(y.shape, generator=generator).to(dtype)
        found = torch.autograd.grad(y, (x_mine, *mine.parameters()), dy)
        exact = torch.autograd.grad(expected, (x_theirs, *theirs.parameters()), dy.double())
        for a, b in zip((y, *found, *mine.buffers()), (expected, *exact, *theirs.buffers()), strict=True):
            assert a.shape == b.shape
            assert (a.double() - b.double()).norm() <= close * max(b.double().norm(), 0.01 * exact[0].norm()), shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("act", "pool"), [*product([nn.ReLU, nn.SiLU], [False, True])])
def test_in_evaluation_too(
    act: type[nn.Module], pool: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the running statistics, which stay as they are; with gradients it is PyTorch's own modules."""
    called: list[str] = []
    original = norm_module.call
    monkeypatch.setattr(norm_module, "call", lambda name, *rest: (called.append(name), original(name, *rest))[1])
    close = 1e-2 if dtype == torch.bfloat16 else 2e-6
    for seed, shape in enumerate(SHAPES):
        x = (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3 + 5).to(dtype)
        mine, theirs = chain(shape[1], act(), pool).eval(), chain(shape[1], act(), pool).double().eval()
        before = copy.deepcopy(mine.state_dict())
        with torch.no_grad():
            y, expected = mine(x), one_by_one(theirs, x.double())
        assert len(called) == seed + 1
        assert y.dtype == dtype
        assert (y.double() - expected).norm() <= close * expected.norm()
        assert all(torch.equal(before[name], tensor) for name, tensor in mine.state_dict().items())
    mine(x.requires_grad_())
    traced = torch.jit.trace(mine, (x.detach(),), check_trace=False)
    assert "batch_norm" in str(traced.inlined_graph)
    assert len(called) == len(SHAPES)


def test_the_first_of_equal_values_gets_the_gradient() -> None:
    x, modules = torch.zeros(2, 8, 4, 4), chain(8, nn.SiLU(), True)
    x[0, 0, 0, 0] = 1.0  # else every value is the mean
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    dy = torch.randn(2, 8, 2, 2)
    (found,) = torch.autograd.grad(modules(a), a, dy)
    (expected,) = torch.autograd.grad(one_by_one(modules, b), b, dy)
    assert torch.equal(found != 0, expected != 0)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    """The sum of squares alone would: 1000² has no digits left for a variance of one in float32."""
    x = 1000 + torch.randn(16, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    modules = chain(8, nn.SiLU(), False)
    y, expected = modules(x.requires_grad_()), one_by_one(copy.deepcopy(modules).double(), x.double())
    assert is_one(y)
    assert (y - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_hidden(bad: float) -> None:
    for act, pool in product((nn.ReLU, nn.SiLU), (False, True)):
        x = torch.randn(2, 8, 4, 4)
        x[1, 3, 2, 1] = bad
        modules = chain(8, act(), pool)
        y = modules(x.requires_grad_())
        assert is_one(y)
        hidden = pool and bad == -float("inf")  # by the pool, as torch's hides it
        assert bool(y[:, 3].isfinite().all()) == hidden
        assert bool(y[:, 4].isfinite().all())


def test_activations_are_exact_over_their_whole_range() -> None:
    """By way of a norm that changes nothing: mean 0 and variance 1 of ±1, beside the values under test."""
    z = torch.cat([torch.linspace(-120, 120, 4001), torch.tensor([0.0, -0.0, 1e-30, -1e-30])])
    for act in (nn.SiLU(), nn.ReLU()):
        norm = nn.BatchNorm2d(1, eps=1e-12)
        x = z.double().view(1, 1, 1, -1)
        norm.weight.data, norm.bias.data = x.var(unbiased=False).sqrt().float().view(1), x.mean().float().view(1)
        given = torch.cat([z.view(1, 1, 1, -1)] * 2, 2).requires_grad_()
        y = named(norm=norm, act=act)(given)
        assert is_one(y)
        expected = act(given.double())
        assert (y - expected).abs().max() < 1e-4
        (slope,) = torch.autograd.grad(y, given, torch.zeros_like(y).index_fill_(3, torch.tensor([2000]), 1.0))
        assert slope.isfinite().all()


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.eval(),
        lambda c: setattr(c.norm, "momentum", None),
        lambda c: setattr(c, "act", nn.GELU()),
        lambda c: c.norm.register_forward_hook(lambda *_: None),
        lambda c: c.act.register_full_backward_hook(lambda *_: None),
        lambda c: c.double(),
    ],
    ids=["evaluation", "no momentum", "gelu", "hook", "backward hook", "float64"],
)
def test_modules_that_are_not_as_usual_are_called_one_by_one(change: Callable[[Chain], object]) -> None:
    modules = chain(16, nn.SiLU(), True)
    other = copy.deepcopy(modules)
    change(modules), change(other)
    x = torch.randn(2, 16, 9, 9, dtype=next(modules.parameters()).dtype).requires_grad_()
    y, expected = modules(x), one_by_one(other, x)
    assert not is_one(y)
    assert torch.equal(y, expected)
    assert all(torch.equal(a, b) for a, b in zip(modules.buffers(), other.buffers(), strict=True))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, stride=1)])
def test_another_pool_stays_by_itself(pool: nn.Module) -> None:
    modules = chain(16, nn.SiLU(), True)
    modules.pool = pool
    x = torch.randn(2, 16, 9, 9)
    expected = one_by_one(copy.deepcopy(modules), x)
    assert (modules(x) - expected).norm() < 1e-5 * expected.norm()


def test_a_hook_on_the_pool_is_called() -> None:
    modules, seen = chain(16, nn.SiLU(), True), []
    modules.pool.register_forward_hook(lambda *_: seen.append(1))
    modules(torch.randn(2, 16, 9, 9))
    assert seen == [1]


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    before, found = torch.get_num_threads(), []
    x, dy = torch.randn(7, 24, 8, 8), torch.randn(7, 24, 4, 4)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            modules, given = chain(24, nn.SiLU(), True), x.clone().requires_grad_()
            y = modules(given)
            found.append([y, *torch.autograd.grad(y, (given, *modules.parameters()), dy)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))
