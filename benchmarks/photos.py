"""How long a run on features takes: computing them for the first run, the same run again, and by net and size.

    python benchmarks/photos.py --photos 400 --out benchmarks/records/DATE_photos

Beside it, in turns, the loop that one writes first: the same net in evaluation mode and without gradients, batches of
32, norms and memory as they come; both on one set of pixels, with the memory of the process kept.

The photos are parts of the two photographs that come with scikit-learn, a class each: they say how long things take,
and nothing about accuracy. Every trial has a cache of its own; photos.json has seconds, and photos a second and view.
"""

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

from daybreak import api
from daybreak.core.device import compute_dtype, describe_hardware, kept_memory, versions
from daybreak.core.files import write_json
from daybreak.core.nets import net_config
from daybreak.models.cut import Cut
from daybreak.models.pretrained import pretrain
from daybreak.models.registry import build_net
from daybreak.runs.datasets import run_dataset
from daybreak.runs.transforms import Normalizer
from daybreak.training.features import Trunk

SIDE, TURNS, IN_LOOPS, PIXELS = 224, 5, 400, ((127 / 255,) * 3, (128 / 255,) * 3)
TRIALS: dict[str, dict[str, Any]] = {
    "lite0, head alone": {"settings": {"tune": "head"}},
    "lite0 at 224 px": {},
    "lite0 at 160 px": {"size": 160},
    "lite2 at 224 px": {"net": "lite2"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--only", nargs="+", choices=tuple(TRIALS), default=tuple(TRIALS), metavar="TRIAL")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = write_photos(Path(scratch) / "photos", arguments.photos)
        for name in arguments.only:
            options = TRIALS[name]
            os.environ["DAYBREAK_CACHE_DIR"] = f"{scratch}/cache of {name}"
            found[name] = {which: trial(data, Path(scratch), name, which, options) for which in ("first", "again")}
            print(name, found[name], flush=True)
    found["loops"] = loops(min(arguments.photos, IN_LOOPS))
    print("photos a second", found["loops"], flush=True)
    record = {"photos": arguments.photos, "hardware": describe_hardware(torch.device("cpu")), "versions": versions()}
    write_json(arguments.out / "photos.json", record | {"trials": found})


def write_photos(folder: Path, count: int) -> Path:
    """Parts of 256 px of two photographs, each at a place of its own."""
    rng = np.random.default_rng(0)
    for name, photograph in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        height, width, _ = photograph.shape
        for n in range(count // 2):
            top, left = rng.integers(height - 256), rng.integers(width - 256)
            Image.fromarray(photograph[top : top + 256, left : left + 256]).save(folder / name / f"{n}.jpg")
    return folder


def trial(data: Path, scratch: Path, name: str, which: str, options: dict[str, Any]) -> dict[str, float]:
    run = api.train(data, recipe="finetune", device="cpu", out=scratch / f"{name} {which}", report=False, **options)
    summary = run.directory.summary
    features, photos = summary["features_seconds"], len(run_dataset(run.directory).train.labels_N)
    return {
        "train_seconds": summary["train_seconds"],
        "features_seconds": features,
        "head_seconds": summary["train_seconds"] - features,
        "photos_a_second_and_view": summary["features"]["views"] * photos / features,
        "wall_seconds": summary["wall_seconds"],
    }


def loops(photos: int) -> dict[str, Any]:
    """Photos a second of the plain loop and of ours, in turns; and of ours over the plain one's, by pairs."""
    net = build_net(net_config("lite0"), 2, 3)
    pretrain(net, net_config("lite0"))
    cpu = torch.device("cpu")
    trunk = Trunk.of(Cut(net).below, SIDE, Normalizer(*PIXELS), cpu, compute_dtype("auto", cpu))
    images_NHWC = np.random.default_rng(0).integers(0, 256, (photos, SIDE, SIDE, 3), np.uint8)
    found: dict[str, list[float]] = {"plain": [], "ours": []}
    with kept_memory():
        for _ in range(TURNS):
            for name, loop in (
                ("plain", partial(plain_loop, Cut(net.eval()).below)),
                ("ours", lambda images: trunk.features(images, 0, 0)),
            ):
                begun = time.perf_counter()
                loop(images_NHWC)
                found[name].append(photos / (time.perf_counter() - begun))
    ratios = [ours / plain for ours, plain in zip(found["ours"], found["plain"], strict=True)]
    return found | {"ratio": float(np.median(ratios)), "ratios": ratios}


@torch.no_grad()
def plain_loop(below: nn.Module, images_NHWC: np.ndarray) -> torch.Tensor:
    batches = torch.from_numpy(images_NHWC).split(32)
    return torch.cat([below((batch.permute(0, 3, 1, 2).float() - 127) / 128) for batch in batches])


if __name__ == "__main__":
    main()
