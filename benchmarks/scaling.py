"""What more processes would make of a training: a model of one step with its messages, and what messages cost here.

    python benchmarks/scaling.py model --recipe sprint --images-per-second 177696 --batch 1000
    python benchmarks/scaling.py messages --processes 2 --out benchmarks/records/DATE_messages
    python benchmarks/scaling.py update --recipe sprint

`model` prints the tables of docs/scale.md from one measured speed of one GPU. A step of N processes takes

    max(images / N / speed, launches) + gradients + 2 x norms x small message + host message

Every message is an all-reduce, by a ring or a tree, whichever is faster (Thakur, Rabenseifner & Gropp 2005):

    ring  2 (N - 1) latency + 2 (N - 1) / N x bytes / bandwidth        tree  2 log2(N) latency + 2 bytes / bandwidth

Up to eight processes are one machine with its fast links; more are machines of eight, whose ring is as fast as its
slowest link. Nothing overlaps: daybreak sends the gradients after the backward pass, in one message. What is assumed
(links, launches) are constants below. `messages` measures latency and bandwidth of Gloo between processes of this
machine, with which the same formula says what share of a step goes to messages here. `update` times the optimizer of a
recipe: what dividing its work among processes could save at most.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.modules.batchnorm import _BatchNorm

from daybreak.core.device import compute_dtype, describe_hardware, synchronizer, versions
from daybreak.core.files import write_json
from daybreak.models.registry import build_net
from daybreak.recipes import get_recipe
from daybreak.training.optim import build_optimizer

PROCESSES = (1, 2, 4, 8, 16, 32, 64)
LAUNCH_SECONDS = 2e-3  # of the operations of a step, recorded or not: a step is never shorter
SMALL_BYTES = 8 * 2 * 512  # moments of a norm of 512 channels, float64
IMAGE_BYTES = 32 * 32 * 3
SIZES = tuple(8 * 4**n for n in range(11))  # bytes, 8 to 8 Mi


@dataclass(frozen=True)
class Link:
    """Between two processes: seconds before the first byte, bytes a second."""

    latency: float
    bandwidth: float


# What their makers name for eight H100 or H200 of one machine (NVLink, 450 GB/s each way), and for one 400 Gb/s adapter
# a GPU between machines; three quarters of it are taken to arrive. A host message goes by TCP.
INSIDE, BETWEEN, HOSTS = Link(4e-6, 0.75 * 450e9), Link(10e-6, 0.75 * 50e9), Link(30e-6, 1e9)
A_MACHINE = 8


def message_seconds(size: float, processes: int, link: Link) -> float:
    """One all-reduce of so many bytes."""
    if processes == 1:
        return 0.0
    ring = 2 * (processes - 1) * link.latency + 2 * (processes - 1) / processes * size / link.bandwidth
    tree = 2 * math.log2(processes) * link.latency + 2 * size / link.bandwidth
    return min(ring, tree)


@dataclass(frozen=True)
class Net:
    parameters: int
    norms: int


def net_of(recipe: str) -> Net:
    net = build_net(get_recipe(recipe).model, 10, 3)
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return Net(trained, sum(isinstance(module, _BatchNorm) for module in net.modules()))


def step_seconds(net: Net, images: float, processes: int, speed: float) -> tuple[float, float]:
    """One step on so many images in all, and the part of it that goes to messages."""
    link = INSIDE if processes <= A_MACHINE else BETWEEN
    compute = max(images / processes / speed, LAUNCH_SECONDS)
    gradients = message_seconds(4 * net.parameters, processes, link)
    norms = 2 * net.norms * message_seconds(SMALL_BYTES, processes, link)
    messages = gradients + norms + message_seconds(8 * processes, processes, HOSTS)
    return compute + messages, messages


def model(recipe: str, speed: float, batch: int) -> None:
    net = net_of(recipe)
    print(f"{recipe}: {net.parameters:,} parameters, {net.norms} norms, {speed:,.0f} images/s on one\n")
    print(
        "| GPUs | same batch: images/s | of N times one | a batch for each: images/s | of N times one | 10^8 images |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for n in PROCESSES:
        cells = []
        for images in (batch, batch * n):
            rate = images / step_seconds(net, images, n, speed)[0]
            cells += [f"{rate:,.0f}", f"{rate / (n * speed):.0%}"]
        seconds = 1e8 / (batch * n) * step_seconds(net, batch * n, n, speed)[0]
        print(f"| {n} | {' | '.join(cells)} | {seconds / 60:,.1f} min |")
    rate = A_MACHINE * speed
    print(f"\na machine of {A_MACHINE} reads {rate:,.0f} images/s, {rate * IMAGE_BYTES / 1e9:.1f} GB/s at 32 px")


def messages(processes: int, out: Path) -> None:
    """Time all-reduces of Gloo, and fit latency and bandwidth."""
    manager = mp.get_context("spawn").Manager()
    times = manager.dict()
    mp.spawn(_time_messages, (processes, times), processes)  # type: ignore[no-untyped-call]
    sizes = np.array(SIZES, float)
    medians = np.array([float(np.median(times[size])) for size in SIZES])
    factor = 2 * (processes - 1)
    rows = np.stack([np.full(len(sizes), factor), factor / processes * sizes], 1) / medians[:, None]
    latency, per_byte = np.linalg.lstsq(rows, np.ones(len(sizes)), rcond=None)[0]  # least squares of relative errors
    found = {
        "processes": processes,
        "median_seconds": dict(zip(map(str, SIZES), medians.tolist(), strict=True)),
        "latency_seconds": float(latency),
        "bandwidth_bytes_per_second": float(1 / per_byte),
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": versions(),
    }
    write_json(out / "messages.json", found)
    print(json.dumps(found, indent=1))


def _time_messages(rank: int, processes: int, times: dict[int, list[float]]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:29417", rank=rank, world_size=processes)
    for size in SIZES:
        tensor, taken = torch.zeros(size // 4), []
        for _ in range(60):
            dist.barrier()
            begun = time.perf_counter()
            dist.all_reduce(tensor)
            taken.append(time.perf_counter() - begun)
        if rank == 0:
            times[size] = taken[10:]
    dist.destroy_process_group()


def update(recipe_name: str, device: torch.device) -> None:
    """Print the median milliseconds of an update of all parameters."""
    recipe = get_recipe(recipe_name)
    net = build_net(recipe.model, 10, 3).to(device)
    optimizer = build_optimizer(net, recipe, recipe.batch_size, compute_dtype(recipe.precision, device))
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
    wait, taken = synchronizer(device), []
    for _ in range(30):
        wait()
        begun = time.perf_counter()
        optimizer.step()
        wait()
        taken.append(time.perf_counter() - begun)
    print(f"{recipe_name} on {device}: {1e3 * float(np.median(taken[5:])):.2f} ms an update")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_model = commands.add_parser("model")
    of_model.add_argument("--recipe", default="sprint")
    of_model.add_argument("--images-per-second", type=float, required=True, help="of one GPU")
    of_model.add_argument("--batch", type=int, default=1000)
    of_messages = commands.add_parser("messages")
    of_messages.add_argument("--processes", type=int, default=2)
    of_messages.add_argument("--out", type=Path, required=True)
    of_update = commands.add_parser("update")
    of_update.add_argument("--recipe", default="sprint")
    of_update.add_argument("--device", default="cpu")
    given = parser.parse_args()
    if given.command == "model":
        model(given.recipe, given.images_per_second, given.batch)
    elif given.command == "update":
        update(given.recipe, torch.device(given.device))
    else:
        messages(given.processes, given.out)


if __name__ == "__main__":
    main()
