"""What minimal filtering gains, and what it costs in digits, on this machine.

    python benchmarks/winograd.py points                      errors of F(m×m, 3×3) by interpolation points
    python benchmarks/winograd.py step cifar10 --recipe sprint --out benchmarks/records/DATE_winograd

`step` takes the same training step with and without minimal filtering in turn, A B A B, at every image size of the
recipe, and weights the sizes by the recipe's share of steps. It also times every convolution of the step alone and
counts what it does in operations of the direct form: the rate is to be held against that of a large matrix product.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daybreak.core.config import Recipe, override
from daybreak.core.device import compute_dtype, describe_hardware, kept_memory, versions
from daybreak.core.files import write_json
from daybreak.core.speed import measure_speed
from daybreak.data import Dataset, open_dataset
from daybreak.models.minimal import Minimal
from daybreak.models.winograd.convolve import winograd
from daybreak.recipes import get_recipe
from daybreak.training.compilation import choose_convolutions
from daybreak.training.session import Session, prepare
from daybreak.training.step import train_step

CPU = torch.device("cpu")
CANDIDATES = {
    "F(2×2): ±1": (1.0,),
    "F(4×4): ±1, ±2": (1.0, 2.0),
    "F(4×4): ±1/2, ±1": (0.5, 1.0),
    "F(4×4): ±1/2, ±3/2": (0.5, 1.5),
    "F(4×4): ±5/8, ±3/2": (0.625, 1.5),
    "F(4×4): ±1/√2, ±√2": (0.5**0.5, 2**0.5),
    "F(6×6): ±1/2, ±1, ±2": (0.5, 1.0, 2.0),
    "F(6×6): ±1/2, ±1, ±3/2": (0.5, 1.0, 1.5),
    "F(6×6): ±1/2, ±9/8, ±7/4": (0.5, 1.125, 1.75),
    "F(6×6): ±5/8, ±9/8, ±15/8": (0.625, 1.125, 1.875),
    "F(6×6): ±3/5, ±1, ±7/4": (0.6, 1.0, 1.75),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("points")
    step = commands.add_parser("step")
    step.add_argument("data")
    step.add_argument("--recipe", default="sprint")
    step.add_argument("--pairs", type=int, default=15, help="of steps, at each image size")
    step.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "points":
        print(json.dumps({name: errors(Minimal(pairs)) for name, pairs in CANDIDATES.items()}, indent=2))
        return
    with kept_memory():
        found = measure(get_recipe(arguments.recipe), open_dataset(arguments.data), arguments.pairs)
    write_json(arguments.out / "winograd.json", found)
    print(json.dumps({key: found[key] for key in ("ratio", "gflops_of_convolutions", "gflops_of_a_product")}, indent=2))


# Digits


def errors(kind: Minimal, channels: int = 256, side: int = 8) -> dict[str, float]:
    """Relative errors of output and gradients against float64, of SiLU inputs and filters of unit gain."""
    generator = torch.Generator().manual_seed(0)
    x = F.silu(torch.randn(16, channels, side, side, generator=generator))
    weight = torch.randn(channels, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5
    dy = torch.randn(16, channels, side, side, generator=generator)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        exact = passes(lambda x, w: F.conv2d(x, w, padding=1), x.to(dtype).double(), weight.double(), dy.to(dtype))
        ours = passes(lambda x, w: winograd(x, w, kind), x.to(dtype), weight, dy.to(dtype))
        for name, a, b in zip(("y", "dx", "dw"), ours, exact, strict=True):
            found[f"{name} {dtype}".replace("torch.", "")] = relative(a.detach(), b.detach())
    return found


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def passes(convolve: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, dy: Tensor) -> list[Tensor]:
    x, weight = x.requires_grad_(), weight.detach().requires_grad_()
    y = convolve(x, weight)
    return [y, *torch.autograd.grad(y, (x, weight), dy.to(y.dtype))]


# Time


def measure(recipe: Recipe, dataset: Dataset, pairs: int) -> dict[str, Any]:
    """Both kinds of step in turn at every size of the recipe, and the convolutions of the step alone."""
    sessions = {way: session_of(recipe, dataset, way) for way in ("direct", "auto")}
    found: dict[str, Any] = {"recipe": recipe.name, "dataset": dataset.title, "pairs": pairs, "sizes": {}}
    found["compute_dtype"] = str(compute_dtype(recipe.precision, CPU)).removeprefix("torch.")
    found |= {"hardware": describe_hardware(CPU), "versions": versions()}
    work, seconds, weighted = 0.0, 0.0, {"direct": 0.0, "auto": 0.0}
    for share, progress in shares(recipe):
        size = sessions["auto"].loader.size_at(progress)
        took = in_turn(sessions, progress, pairs)
        operations, alone = convolutions_alone(sessions["auto"], progress)
        work, seconds = work + share * operations, seconds + share * alone
        ratios = [b / a for a, b in zip(took["direct"], took["auto"], strict=True)]
        found["sizes"][str(size)] = {"share": share, "seconds": took, "median_ratio": median(ratios)}
        for way, each in took.items():
            weighted[way] += share * median(each)
    found["convolutions"] = sessions["auto"].convolutions.chosen
    found |= {"ratio": weighted["auto"] / weighted["direct"], "seconds_a_step": weighted}
    found["gflops_of_convolutions"] = work / seconds / 1e9
    found["gflops_of_a_product"] = measure_speed(CPU, compute_dtype(recipe.precision, CPU))["matmul"]
    return found


def session_of(recipe: Recipe, dataset: Dataset, way: str) -> Session:
    session = prepare(override(recipe, {"convolution": way}), dataset, 0, CPU)
    choose_convolutions(session)
    return session


def shares(recipe: Recipe) -> Iterator[tuple[float, float]]:
    """For every image size of a recipe its share of the steps, and a progress in the middle of them."""
    ends = [0.0, *(stage.until for stage in recipe.resolution)]
    for start, end in pairwise(ends):
        yield end - start, (start + end) / 2


def in_turn(sessions: dict[str, Session], progress: float, pairs: int) -> dict[str, list[float]]:
    """Seconds of steps, first of one kind, then of the other, and so on; a first pair is not counted."""
    took: dict[str, list[float]] = {way: [] for way in sessions}
    for _ in range(pairs + 1):
        for way, session in sessions.items():
            session.optimizer.set_progress(progress)
            batch = session.loader.batch(0, progress)
            begun = time.perf_counter()
            train_step(session, *batch)
            took[way].append(time.perf_counter() - begun)
    return {way: seconds[1:] for way, seconds in took.items()}


def convolutions_alone(session: Session, progress: float) -> tuple[float, float]:
    """Operations of the direct form, and seconds, of all convolutions of a step, forward and backward."""
    images, _ = session.loader.batch(0, progress)
    layers = [module for module in session.net.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad(), inputs_of(layers) as seen:
        session.net(images)
    operations, seconds = 0.0, 0.0
    for layer in layers:
        x = seen[layer].detach()
        y = layer(x)
        learning = [p for p in (x.requires_grad_(layer is not layers[0]), layer.weight) if p.requires_grad]
        dy = torch.randn_like(y)
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            out = layer(x)
            if learning:
                torch.autograd.grad(out, learning, dy)
            times.append(time.perf_counter() - begun)
        operations += 2 * (1 + len(learning)) * y.numel() * prod(layer.weight.shape[1:])
        seconds += median(times)
    return operations, seconds


@contextmanager
def inputs_of(layers: list[nn.Conv2d]) -> Iterator[dict[nn.Module, Tensor]]:
    seen: dict[nn.Module, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda module, given: seen.__setitem__(module, given[0])) for layer in layers
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


if __name__ == "__main__":
    main()
