"""What our backward pass of depthwise convolutions is worth: steps of lite0 above a cut, with it and without, in turns.

    python benchmarks/depthwise.py --out benchmarks/records/DATE_depthwise

Forward and backward in bfloat16 on batches of 32 maps, as `finetune` takes them; beside them float32, which has the
library's own backward pass in either case. depthwise.json has milliseconds of every step.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from daybreak.core.device import describe_hardware, kept_memory, versions
from daybreak.core.files import write_json
from daybreak.core.nets import LiteConfig
from daybreak.models import lite
from daybreak.models.cut import Cut
from daybreak.models.registry import build_net, place

ROUNDS, STEPS, BATCH = 5, 3, 32
CUTS, SIDES = ("stage6", "stage4"), (160, 224)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    with kept_memory():
        for cut in CUTS:
            for side in SIDES:
                found.append({"cut": cut, "side": side} | compare(cut, side))
                print({key: value for key, value in found[-1].items() if key != "milliseconds"}, flush=True)
    record = {"batch": BATCH, "hardware": describe_hardware(torch.device("cpu")), "versions": versions()}
    write_json(arguments.out / "depthwise.json", record | {"results": found})


def compare(cut: str, side: int) -> dict[str, Any]:
    """Milliseconds of steps of each kind, in turns, and the medians."""
    step = step_above(cut, side)
    seconds: dict[str, list[float]] = {"library": [], "ours": [], "float32": []}
    for _ in range(ROUNDS):
        with patch.object(lite, "depthwise_conv", of_the_library):
            seconds["library"] += timed(step, torch.bfloat16)
        seconds["ours"] += timed(step, torch.bfloat16)
        seconds["float32"] += timed(step, torch.float32)
    medians = {kind: round(1000 * median(values), 1) for kind, values in seconds.items()}
    milliseconds = {kind: [round(1000 * value, 1) for value in values] for kind, values in seconds.items()}
    return medians | {"ratio": round(medians["ours"] / medians["library"], 3), "milliseconds": milliseconds}


def of_the_library(x_NCHW: Tensor, weight_C1KK: Tensor, bias_C: Tensor | None, stride: int, padding: int) -> Tensor:
    return F.conv2d(x_NCHW, weight_C1KK, bias_C, stride, padding, groups=len(weight_C1KK))


def step_above(cut: str, side: int) -> Callable[[torch.dtype], None]:
    """Forward and backward through what lies above a cut."""
    torch.manual_seed(0)
    net = place(build_net(LiteConfig(name="lite0", folded=True), 10, 3), torch.device("cpu"))
    parts, labels_B = Cut(net, cut), torch.arange(BATCH) % 10
    with torch.no_grad():
        maps = parts.below(torch.randn(BATCH, 3, side, side).contiguous(memory_format=torch.channels_last))
    net.requires_grad_(False)
    for module in (*parts.learning, net.head):
        module.requires_grad_(True)

    def step(dtype: torch.dtype) -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = parts.logits(maps)
        net.zero_grad()
        F.cross_entropy(logits.float(), labels_B).backward()

    return step


def timed(step: Callable[[torch.dtype], None], dtype: torch.dtype) -> list[float]:
    """Seconds of steps, after one that is not timed."""
    step(dtype)
    found = []
    for _ in range(STEPS):
        begun = time.perf_counter()
        step(dtype)
        found.append(time.perf_counter() - begun)
    return found


if __name__ == "__main__":
    main()
