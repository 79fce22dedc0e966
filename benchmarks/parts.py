"""Times of single parts on this machine: decoding, augmentation, logging, latency, class activation maps, matrix rates.

    python benchmarks/parts.py cifar10-jpeg
    python benchmarks/parts.py --run runs/RUN     only the report of this run, five times

writes benchmarks/records/DATE_parts/parts.json, or …/DATE_report/report.json. Every pair is measured side by side,
A B A B.
"""

import argparse
import json
import math
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
from rich.console import Console

from daybreak.benchmarking.latency import timings, torch_makers, working
from daybreak.cli.progress_bar import TrainingProgress
from daybreak.core.config import override
from daybreak.core.device import describe_hardware, kept_memory, versions
from daybreak.core.files import write_json
from daybreak.core.nets import net_config
from daybreak.core.options import TrainOptions
from daybreak.core.signals import StopRequest
from daybreak.data import Dataset, open_dataset
from daybreak.explain.cam import class_maps
from daybreak.models.anatomy.trace import trace
from daybreak.models.registry import build_net, stages_of
from daybreak.recipes import get_recipe
from daybreak.runs.directory import RunDirectory
from daybreak.training.loop import Loop, train_epoch
from daybreak.training.session import Session, prepare
from daybreak.training.state import Saver
from daybreak.training.step import train_step
from daybreak.training.step_log import StepLog

RECORDS = Path(__file__).parent / "records"
CPU = torch.device("cpu")
REPORTS = 5
NEVER = TrainOptions(checkpoint_every="never")
OPEN = "import json, sys; from daybreak.data import open_dataset; print(json.dumps(open_dataset(sys.argv[1]).seconds))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("data", nargs="?")
    what.add_argument("--run", type=Path, help="time the report of this run")
    arguments = parser.parse_args()
    if arguments.run:
        kept("report", {"reports": [report(arguments.run) for _ in range(REPORTS)]})
        return
    data, dataset = arguments.data, open_dataset(arguments.data)
    found = {
        "dataset": dataset.title,
        "opening": opening(data),
        "augmentation": augmentations(dataset),
        "whole_run": whole_run(dataset),
        "checkpoint": saving(dataset),
        "rooflines": rooflines(dataset),
        "latency": latency(dataset),
        "maps": [maps(name) for name in ("sprint", "page")],
    }
    kept("parts", found)


def kept(name: str, found: dict[str, Any]) -> None:
    """Write a record, with the machine it is of."""
    found |= {"hardware": describe_hardware(CPU), "versions": versions()}
    folder = RECORDS / f"{time.strftime('%Y-%m-%d')}_{name}"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", found)
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


def augmentations(dataset: Dataset) -> list[dict[str, Any]]:
    with kept_memory():
        return [augmentation(dataset, name) for name in ("sprint", "page")]


def augmentation(dataset: Dataset, name: str, steps: int = 12) -> dict[str, Any]:
    """The share of a training step that making its batch takes, at each resolution, and preparing a resolution."""
    session = prepare(override(get_recipe(name), {"epochs": 1}), dataset, 0, CPU)
    loader, rows = session.loader, []
    starts = [s for s in range(loader.steps) if s == 0 or size_at(session, s) != size_at(session, s - 1)]
    for start in starts:
        session.optimizer.set_progress(session.horizon.progress(start))
        prepared, _ = timed(lambda start=start: loader.batch(start, session.horizon.progress(start)))
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
    return session.loader.size_at(session.horizon.progress(step))


def step_seconds(session: Session, step: int) -> tuple[float, float]:
    make, batch = timed(lambda: session.loader.batch(step, session.horizon.progress(step)))
    rest, _ = timed(lambda: train_step(session, *batch))
    return make, make + rest


def latency(dataset: Dataset) -> dict[str, Any]:
    """How long the sprint net takes to answer, in every form that PyTorch runs; its weights do not matter."""
    pool_NHWC = np.array(dataset.test.images_NHWC[:64])
    classifier = prepare(get_recipe("sprint"), dataset, 0, CPU).classifier
    forms, unavailable = working(torch_makers(classifier, pool_NHWC), pool_NHWC)
    return {"rows": timings(forms, pool_NHWC), "unavailable": unavailable}


class TimedLog(StepLog):
    """Counts the seconds that rows, their file and the progress display take."""

    seconds = 0.0

    def add(self, *arguments: Any) -> None:
        taken, _ = timed(lambda: super(TimedLog, self).add(*arguments))
        self.seconds += taken


def whole_run(dataset: Dataset) -> dict[str, float]:
    """The shares of a run of sprint that augmentation (with drawing its numbers and preparing each resolution) and
    logging with progress take. One epoch that goes through all resolutions is timed, and what is prepared once a run
    is counted once for all epochs of the recipe. Metrics are off the clock, at the end of an epoch."""
    epochs = get_recipe("sprint").epochs
    session = prepare(override(get_recipe("sprint"), {"epochs": 1}), dataset, 0, CPU)
    seconds, make = {"prepare": 0.0, "batch": 0.0}, session.loader.batch

    def timed_batch(step: int, progress: float, *rows: slice) -> Any:
        is_first = step == 0 or size_at(session, step) != size_at(session, step - 1)
        taken, batch = timed(lambda: make(step, progress, *rows))
        seconds["prepare" if is_first else "batch"] += taken
        return batch

    session.loader.batch = timed_batch  # type: ignore[method-assign]
    console = Console(stderr=True, force_terminal=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        RunDirectory.create(Path(folder) / "run") as run,
        TrainingProgress(console, False) as on_event,
        kept_memory(),
    ):
        on_event({"event": "start", "epochs": 1, "notes": []})
        log = TimedLog(session, run, on_event)
        before = session.watch.seconds("train")
        with session.watch.timed("train"):
            train_epoch(Loop(session, run, StopRequest(), NEVER, log, Saver(session, run, log, NEVER)))
    epoch = session.watch.seconds("train") - before - seconds["prepare"]
    whole = epochs * epoch + seconds["prepare"]
    return {
        "epochs": epochs,
        "epoch_seconds": epoch,
        "prepare_seconds": seconds["prepare"],
        "augmentation_share": (epochs * seconds["batch"] + seconds["prepare"]) / whole,
        "logging_share": epochs * log.seconds / whole,
    }


def saving(dataset: Dataset, repeats: int = 9) -> dict[str, float]:
    """What a checkpoint of sprint costs: seconds of one, flushed to the disk, as a share of the minute between two."""
    session = prepare(get_recipe("sprint"), dataset, 0, CPU)
    session.optimizer.set_progress(0.0)
    train_step(session, *session.loader.batch(0, 0.0))
    with tempfile.TemporaryDirectory(dir=RECORDS) as folder, RunDirectory.create(Path(folder) / "run") as run:
        saver, taken = Saver(session, run, StepLog(session, run, lambda event: None), NEVER), []
        for _ in range(repeats):
            session.step += 1
            taken.append(timed(saver.save)[0])
        size = sum(file.stat().st_size for file in max(run.checkpoints.iterdir()).iterdir())
    return {"seconds": median(taken), "share_of_a_minute": median(taken) / 60, "bytes": size}


def rooflines(dataset: Dataset, repeats: int = 15) -> dict[str, Any]:
    """How far a step of sprint is from what the machine can do: its operations over the rate of a large bfloat16
    product, and its bytes over the rate of a large copy (every activation written and read once each way)."""
    flops, copied = matrix_rate(), copy_rate()
    session = prepare(override(get_recipe("sprint"), {"epochs": 1}), dataset, 0, CPU)
    rows = []
    with kept_memory():
        for progress in (0.1, 0.3, 0.9):
            batch = session.loader.batch(0, progress)
            size, images = batch[0].shape[3], len(batch[1])
            session.optimizer.set_progress(progress)
            step = median([timed(lambda batch=batch: train_step(session, *batch))[0] for _ in range(repeats)][8:])
            layers = trace(session.net, size, 3)
            work = 6 * images * sum(layer.macs for layer in layers)
            moved = 4 * 2 * images * sum(math.prod(layer.output_shape) for layer in layers)
            rows.append(
                {
                    "size": size,
                    "step_ms": step * 1e3,
                    "compute_ms": work / flops * 1e3,
                    "memory_ms": moved / copied * 1e3,
                }
            )
    return {"matrix_gflops": flops / 1e9, "copy_gb_per_s": copied / 1e9, "batch_size": images, "sizes": rows}


def matrix_rate(side: int = 4096) -> float:
    """Floating-point operations a second of a bfloat16 product."""
    a = torch.randn(side, side, dtype=torch.bfloat16)
    return 2 * side**3 / min(timed(lambda: a @ a)[0] for _ in range(5))


def copy_rate(mebibytes: int = 512) -> float:
    """Bytes a second, read and written."""
    source = torch.zeros(mebibytes << 20, dtype=torch.uint8)
    target = torch.zeros_like(source)
    return 2 * len(source) / min(timed(lambda: target.copy_(source))[0] for _ in range(5))


def maps(name: str, repeats: int = 5) -> dict[str, Any]:
    """Grad-CAM of 25 images at all stages, ours and Captum's in turn; and ours of 1,000 images at the last stage."""
    torch.manual_seed(0)
    net = build_net(net_config(name=name), 10, 3).eval()
    images, targets = torch.randn(25, 3, 32, 32), torch.arange(25) % 10
    many, last = torch.randn(1000, 3, 32, 32), list(stages_of(net))[-1]

    def captum() -> None:
        for module in stages_of(net).values():
            LayerGradCam(net, module).attribute(images, targets, relu_attributions=True)

    def thousand() -> None:
        for part in many.split(100):
            class_maps(net, part, torch.zeros(len(part), dtype=torch.long), [last])

    def daybreak() -> None:
        class_maps(net, images, targets, list(stages_of(net)))

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


def report(run: Path) -> dict[str, Any]:
    """Seconds and peak memory of `daybreak report` on a finished run, process start included, and the page's size."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "daybreak", "report", str(run)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, "daybreak report failed"
    return {
        "test_images": len(RunDirectory.open(run).predictions().labels),
        "seconds": time.perf_counter() - begun,
        "peak_rss_bytes": 1024 * usage.ru_maxrss,
        "page_bytes": (run / "report.html").stat().st_size,
    }


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    value = call()
    return time.perf_counter() - begun, value


if __name__ == "__main__":
    main()
