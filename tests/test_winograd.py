"""Convolutions by minimal filtering: the same values and gradients as direct ones, and the same bits each time."""

import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from daybreak.models.minimal import KNOWN, Minimal, min_products
from daybreak.models.native.build import library
from daybreak.models.winograd import convolve, native, plain
from daybreak.models.winograd import whole as one_loop
from daybreak.models.winograd.convolve import winograd
from daybreak.models.winograd.fixed import fixed_weights

SIDES = (2, 4, 6)
# Relative error of a value in float32 and bfloat16 by m: twice what was measured (benchmarks/winograd.py points).
FLOAT32 = {2: 5e-7, 4: 2e-6, 6: 8e-6}
BFLOAT16 = {2: 1.2e-2, 4: 3e-2}


@pytest.fixture(params=["native", "plain", "whole"])
def whole(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """In blocks, with either kind of transforms, or in one native loop; a machine without a C compiler cannot vouch for
    the native ones, and says so by failing."""
    if request.param != "plain":
        assert library() is not None, "needs a C compiler"
    monkeypatch.setattr(convolve, "transforms_for", lambda kind, x: plain if request.param == "plain" else native)
    return bool(request.param == "whole")


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def passes(
    x: Tensor, weight: Tensor, dy: Tensor, kind: Minimal | None, whole: bool = False, pools: bool = False
) -> list[Tensor]:
    """Output and both gradients; direct in float64 without a kind. With a pool, `dy` is cut to its size."""
    x, weight = (t.detach().requires_grad_() for t in ((x, weight) if kind else (x.double(), weight.double())))
    if kind:
        y = winograd(x, weight, kind, whole, pools)
        assert ("Whole" in str(y.grad_fn)) == (whole and x.dtype == torch.float32 and kind in KNOWN.values())
    else:
        y = F.conv2d(x, weight, padding=1)
        y = F.max_pool2d(y, 2) if pools else y
    dy = dy[:, :, : y.shape[2], : y.shape[3]].to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), dy)]


# The numbers


@given(st.lists(st.floats(0.2, 3), min_size=1, max_size=3, unique_by=lambda p: round(p, 1)), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_any_distinct_points_give_the_convolution(pairs: list[float], seed: int) -> None:
    kind, rng = Minimal(tuple(pairs)), np.random.default_rng(seed)
    d, g = rng.normal(size=kind.side), rng.normal(size=3)
    expected = [sum(d[i + k] * g[k] for k in range(3)) for i in range(kind.m)]
    found = kind.output @ ((kind.filter @ g) * (kind.input @ d))
    assert np.allclose(found, expected, atol=1e-5)  # points a tenth apart lose up to nine digits


def test_the_textbook_has_the_same_f2() -> None:
    """Lavin & Gray 2015, equation 7, up to signs that cancel between Bᵀ and G."""
    kind = Minimal((1.0,))
    assert kind.output.tolist() == [[1, 1, 1, 0], [0, 1, -1, 1]]
    assert np.abs(kind.filter).tolist() == [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0, 0, 1]]
    assert np.abs(kind.input).tolist() == [[1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 0, 1]]


def test_multiplications_are_counted_with_what_overhangs() -> None:
    assert [KNOWN[4].products(side, side) for side in (8, 7, 4, 3, 1)] == [144, 144, 36, 36, 36]
    assert KNOWN[6].products(12, 12) == 256
    assert (min_products(8, 8).m, min_products(6, 6, (4, 6, 2)).m, min_products(2, 2).m) == (4, 6, 2)


# The convolution


@pytest.mark.parametrize("pools", [False, True])
@pytest.mark.parametrize("m", SIDES)
def test_values_and_gradients_are_those_of_a_direct_convolution(whole: bool, m: int, pools: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = range(1 + pools, 10)
    shapes = [*((h, w) for h, w in product(sizes, sizes) if (h + w) % 3 == 0), (13, 6), (17, 32)]
    for height, width in shapes:
        channels = (1, 3, 16, 17, 33)[(height + width) % 5], (33, 8, 1, 5, 16)[(height * width) % 5]
        x = torch.randn(3, channels[0], height, width, generator=generator)
        weight = torch.randn(channels[1], channels[0], 3, 3, generator=generator)
        dy = torch.randn(3, channels[1], height, width, generator=generator)
        found, expected = (passes(x, weight, dy, kind, whole, pools) for kind in (KNOWN[m], None))
        for name, mine, direct in zip(("y", "dx", "dw"), found, expected, strict=True):
            assert mine.shape == direct.shape
            assert relative(mine, direct) < FLOAT32[m], (name, height, width, channels)


@pytest.mark.parametrize("m", BFLOAT16)
def test_bfloat16_loses_what_its_products_lose(whole: bool, m: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(4, c, 9, 7, generator=generator).bfloat16() for c in (64, 32))
    weight = torch.randn(32, 64, 3, 3, generator=generator)
    found, expected = passes(x, weight, dy, KNOWN[m], whole), passes(x, weight, dy, None)
    assert [t.dtype for t in found] == [torch.bfloat16, torch.bfloat16, torch.float32]
    for mine, direct in zip(found, expected, strict=True):
        assert relative(mine, direct) < BFLOAT16[m]


@pytest.mark.parametrize("m", SIDES)
def test_gradients_are_the_derivatives_of_the_output(m: int) -> None:
    x, weight = torch.randn(2, 3, 5, 7).double().requires_grad_(), torch.randn(4, 3, 3, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: winograd(a, b, KNOWN[m]), (x, weight))


@pytest.mark.parametrize("pools", [False, True])
def test_many_blocks_give_what_one_gives(whole: bool, pools: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, dy = torch.randn(7, 16, 8, 8), torch.randn(24, 16, 3, 3), torch.randn(7, 24, 8, 8)
    module, name = (one_loop, "ROOM") if whole else (convolve, "BLOCK")
    monkeypatch.setattr(module, name, 10**7)
    at_once = passes(x, weight, dy, KNOWN[4], whole, pools)
    for tiles in (3 * 4, 1, 3 * 2):  # three images at a time, then one is left; one row of tiles; three rows
        monkeypatch.setattr(module, name, tiles * 36 * (16 + 24))
        for found, expected in zip(passes(x, weight, dy, KNOWN[4], whole, pools), at_once, strict=True):
            assert relative(found, expected.double()) < 1e-6


def test_any_layout_in_memory_is_taken(whole: bool) -> None:
    x, weight, dy = torch.randn(2, 9, 8, 8), torch.randn(10, 9, 3, 3), torch.randn(2, 10, 8, 8)
    last = [t.contiguous(memory_format=torch.channels_last) for t in (x, weight, dy)]
    flipped = (x.flip(3).flip(3), weight, dy.expand(2, 10, 8, 8))
    for found, expected in zip(passes(*last, KNOWN[4], whole), passes(*flipped, KNOWN[4], whole), strict=True):
        assert torch.equal(found, expected)


def test_what_is_not_finite_stays_not_finite(whole: bool) -> None:
    for dtype, bad in product((torch.float32, torch.bfloat16), (float("nan"), float("inf"))):
        x = torch.zeros(1, 8, 8, 8, dtype=dtype)
        x[0, 3, 4, 4] = bad
        y = winograd(x, torch.ones(8, 8, 3, 3), KNOWN[4], whole)
        assert not y[0, :, 3:6, 3:6].isfinite().any()
        pooled = winograd(x, torch.ones(8, 8, 3, 3), KNOWN[4], whole, pools=True)
        assert not pooled[0, :, 1:3, 1:3].isfinite().any()


def test_the_first_of_equal_values_gets_the_gradient(whole: bool) -> None:
    """As in torch; a constant output has all four of a window equal. Bᵀ d B of ones is exact in F(2×2)."""
    x, weight, dy = torch.ones(1, 1, 6, 6), torch.zeros(1, 1, 3, 3), torch.rand(1, 1, 6, 6)
    weight[0, 0, 1, 1] = 1.0
    for kind in (KNOWN[2], KNOWN[4]):
        found, expected = passes(x, weight, dy, kind, whole, pools=True), passes(x, weight, dy, None, pools=True)
        close = 1e-6 if kind is KNOWN[2] else 1.0  # where values are equal but for their rounding, any may be first
        assert (found[1] - expected[1]).abs().max() < close
        assert abs(float(found[1].sum() - expected[1].sum())) < 1e-5


def test_only_what_is_asked_for_is_computed(whole: bool) -> None:
    x, weight, dy = torch.randn(3, 9, 8, 8), torch.randn(10, 9, 3, 3), torch.randn(3, 10, 8, 8)
    _, dx, dw = passes(x, weight, dy, KNOWN[4], whole)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    (alone,) = torch.autograd.grad(winograd(x, weight.detach(), KNOWN[4], whole), (x,), dy)
    assert torch.equal(alone, dx)
    (alone,) = torch.autograd.grad(winograd(x.detach(), weight, KNOWN[4], whole), (weight,), dy)
    assert torch.equal(alone, dw)


@pytest.mark.parametrize("pairs", [(1.0, 2.0), (0.5, 1.0, 1.5)])
def test_points_that_are_not_compiled_in_give_the_convolution_too(pairs: tuple[float, ...]) -> None:
    x, weight, dy = torch.randn(2, 8, 9, 9), torch.randn(8, 8, 3, 3), torch.randn(2, 8, 9, 9)
    for found, expected in zip(passes(x, weight, dy, Minimal(pairs)), passes(x, weight, dy, None), strict=True):
        assert relative(found, expected) < 2e-5


# The native transforms


@pytest.mark.parametrize("m", SIDES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_native_transforms_are_the_plain_ones(m: int, dtype: torch.dtype) -> None:
    kind, maps = KNOWN[m], (3, 11, 9, 21)
    down, across = kind.tiles(11, 9)
    points = (kind.side**2, 3 * down * across, 21)
    generator = torch.Generator().manual_seed(m)
    for name in ("input", "input_transposed", "output", "output_transposed"):
        takes_maps = name in ("input", "output_transposed")
        given_ = torch.randn(*(maps if takes_maps else points), generator=generator).to(dtype)
        found, exact = torch.empty(points if takes_maps else maps, dtype=dtype), given_.double()
        getattr(native, name)(kind, given_, found)
        expected = torch.empty(found.shape, dtype=torch.float64)
        getattr(plain, name)(kind, exact, expected)
        assert relative(found, expected) < (3e-3 if dtype == torch.bfloat16 else 1e-6), name


def test_rounding_to_bfloat16_is_that_of_torch() -> None:
    """F(2×2) of one pixel in a corner: Bᵀ d B is d or -d there, so that what comes out is d, widened and rounded."""
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    values[:6] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3e38])
    x_BHWC = torch.zeros(1, 1, 1, 1000, dtype=torch.bfloat16)
    x_BHWC[0, 0, 0] = values
    found = torch.empty(16, 1, 1000, dtype=torch.bfloat16)
    native.input(KNOWN[2], x_BHWC, found)
    exact = torch.empty(16, 1, 1000)
    native.input(KNOWN[2], x_BHWC.float(), exact)
    expected = exact.bfloat16()
    same = (found == expected) | (found.isnan() & expected.isnan())
    assert bool(same.all())


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    x_NCHW, weight, dy = torch.randn(21, 12, 9, 7), torch.randn(20, 12, 3, 3), torch.randn(21, 20, 9, 7)
    kind, x = KNOWN[4], torch.randn(5, 8, 8, 40)
    down, across = kind.tiles(8, 8)
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            at_points, back = torch.empty(36, 5 * down * across, 40), torch.empty_like(x)
            native.input(kind, x, at_points)
            native.input_transposed(kind, at_points, back)
            found.append((at_points, back, *passes(x_NCHW, weight, dy, kind, whole=True)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for pair in found[1:] for a, b in zip(pair, found[0], strict=True))


NO_COMPILER = """
import torch
from daybreak.models.native.build import library
from daybreak.models.winograd import convolve, native, plain
from daybreak.models.minimal import KNOWN
x = torch.randn(2, 8, 8, 8)
assert library() is None and convolve.transforms_for(KNOWN[4], x) is plain
y = convolve.winograd(x, torch.ones(8, 8, 3, 3), KNOWN[4])
assert torch.allclose(y, torch.nn.functional.conv2d(x, torch.ones(8, 8, 3, 3), padding=1), atol=1e-4)
"""


@pytest.mark.parametrize(
    "environment",
    [{"CC": "/bin/false"}, {"CC": "no-such-compiler"}, {"DAYBREAK_NATIVE": "0"}, {"DAYBREAK_NATIVE": "/proc/none"}],
    ids=lambda value: "=".join(*value.items()),
)
def test_without_a_compiler_the_plain_transforms_do(tmp_path: Path, environment: dict[str, str]) -> None:
    import os

    environment = os.environ | {"DAYBREAK_NATIVE": str(tmp_path)} | environment
    subprocess.run([sys.executable, "-c", NO_COMPILER], env=environment, check=True)
    assert not list(tmp_path.glob("*.so"))


# Fixed weights


def test_filters_of_fixed_weights_are_transformed_once(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three batches forward and backward give the same bits, by one transform each; behind the block there is none."""
    torch.manual_seed(0)
    batches = [torch.randn(2, 8, 9, 7) for _ in range(3)]
    weights = [torch.randn(12, 8, 3, 3), torch.randn(12, 8, 3, 3)]
    dy, kind, asked = torch.randn(2, 12, 9, 7), KNOWN[4], []

    def counted(kind: Minimal, weight: Tensor, of: Callable[[Minimal, Tensor], Tensor] = plain.filters) -> Tensor:
        asked.append(weight.data_ptr())
        return of(kind, weight)

    monkeypatch.setattr(plain, "filters", counted)
    expected = [passes(x, weight, dy, kind, whole) for x in batches for weight in weights]
    assert len(asked) == 2 * 6  # forward and backward
    asked.clear()
    with fixed_weights():
        with fixed_weights():  # the outer block's filters
            found = [passes(x, weight, dy, kind, whole) for x in batches for weight in weights]
        found.append(passes(batches[0], weights[0], dy, kind, whole))
    assert len(asked) == 2 * 2
    for one, other in zip([*expected, expected[0]], found, strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a, b)
    weights[0].neg_()
    assert torch.equal(passes(batches[0], weights[0], dy, kind, whole)[0], -expected[0][0])
