"""Times of single parts on this machine: decoding, augmentation, class activation maps.

    python benchmarks/parts.py cifar10-jpeg

writes benchmarks/records/DATE_parts/parts.json. Every pair is measured side by side, A B A B.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from captum.attr import LayerGradCam

from daybreak.config import ModelConfig, override
from daybreak.data import Dataset, open_dataset
from daybreak.device import describe_hardware, versions
from daybreak.explain import grad_cam
from daybreak.models import build_net, stages_of
from daybreak.recipes import get_recipe
from daybreak.session import Session, prepare
from daybreak.training import train_step

RECORDS = Path(__file__).parent / "records"
CPU = torch.device("cpu")
OPEN = "import json, sys; from daybreak.data import open_dataset; print(json.dumps(open_dataset(sys.argv[1]).seconds))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    data = parser.parse_args().data
    dataset = open_dataset(data)
    found = {
        "dataset": dataset.title,
        "opening": opening(data),
        "augmentation": [augmentation(dataset, name) for name in ("sprint", "page")],
        "maps": [maps(name) for name in ("sprint", "page")],
        "hardware": describe_hardware(CPU),
        "versions": versions(),
    }
    folder = RECORDS / f"{time.strftime('%Y-%m-%d')}_parts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "parts.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def opening(data: str) -> dict[str, Any]:
    """Seconds of the first start, with an empty cache, and of the second, each in a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"DAYBREAK_CACHE_DIR": cache}
        command = [sys.executable, "-c", OPEN, data]
        first, second = (
            json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
            for _ in range(2)
        )
    return {"first_start": first, "second_start": second}


def augmentation(dataset: Dataset, name: str, steps: int = 12) -> dict[str, Any]:
    """The share of a training step that making its batch takes, at each resolution, and preparing a resolution."""
    session = prepare(override(get_recipe(name), {"epochs": 1}), dataset, 0, CPU)
    loader, rows = session.loader, []
    starts = [s for s in range(loader.steps) if s == 0 or size_at(session, s) != size_at(session, s - 1)]
    for start in starts:
        session.optimizer.set_progress(session.pace.progress(start))
        prepared, _ = timed(lambda start=start: loader.batch(start, session.pace.progress(start)))
        pairs = [step_seconds(session, start + 1 + i) for i in range(min(steps, loader.steps - start - 1))]
        make, whole = median(p[0] for p in pairs[2:]), median(p[1] for p in pairs[2:])
        row = {
            "size": size_at(session, start),
            "prepare_seconds": prepared,
            "batch_ms": make * 1e3,
            "step_ms": whole * 1e3,
        }
        rows.append(row | {"share": make / whole})
    return {"recipe": name, "batch_size": loader.batch_size, "resolutions": rows}


def size_at(session: Session, step: int) -> int:
    return session.loader.size_at(session.pace.progress(step))


def step_seconds(session: Session, step: int) -> tuple[float, float]:
    make, batch = timed(lambda: session.loader.batch(step, session.pace.progress(step)))
    rest, _ = timed(lambda: train_step(session, *batch))
    return make, make + rest


def maps(name: str, repeats: int = 5) -> dict[str, Any]:
    """Grad-CAM of 25 images at all stages, ours and Captum's in turn; and ours of 1,000 images at the last stage."""
    torch.manual_seed(0)
    net = build_net(ModelConfig(name=name), 10, 3).eval()
    images, targets = torch.randn(25, 3, 32, 32), torch.arange(25) % 10
    many, last = torch.randn(1000, 3, 32, 32), list(stages_of(net))[-1]

    def captum() -> None:
        for module in stages_of(net).values():
            LayerGradCam(net, module).attribute(images, targets, relu_attributions=True)

    def thousand() -> None:
        for part in many.split(100):
            grad_cam(net, part, torch.zeros(len(part), dtype=torch.long), [last])

    def daybreak() -> None:
        grad_cam(net, images, targets, list(stages_of(net)))

    for p in net.parameters():
        p.requires_grad_(True)  # Captum needs a gradient that reaches the first stage
    pairs = [(timed(daybreak)[0], timed(captum)[0]) for _ in range(repeats + 1)][1:]
    return {
        "net": name,
        "images": 25,
        "stages": len(stages_of(net)),
        "daybreak_ms": median(p[0] for p in pairs) * 1e3,
        "captum_ms": median(p[1] for p in pairs) * 1e3,
        "ratio": float(np.median([b / a for a, b in pairs])),
        "thousand_images_last_stage_seconds": median(timed(thousand)[0] for _ in range(3)),
    }


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    value = call()
    return time.perf_counter() - begun, value


if __name__ == "__main__":
    main()
