"""How long a run on features takes: computing them for the first run, the same run again, and by net and size.

    python benchmarks/photos.py --photos 400 --out benchmarks/records/DATE_photos

The photos are parts of the two photographs that come with scikit-learn, a class each: they say how long things take,
and nothing about accuracy. Every trial has a cache of its own; photos.json has seconds, and photos a second and view.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from daybreak import api
from daybreak.core.device import describe_hardware, versions
from daybreak.core.files import write_json
from daybreak.runs.datasets import run_dataset

TRIALS: dict[str, dict[str, Any]] = {
    "lite0 at 224 px": {},
    "lite0 at 160 px": {"size": 160},
    "lite2 at 224 px": {"net": "lite2"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = write_photos(Path(scratch) / "photos", arguments.photos)
        for name, options in TRIALS.items():
            os.environ["DAYBREAK_CACHE_DIR"] = f"{scratch}/cache of {name}"
            found[name] = {which: trial(data, Path(scratch), name, which, options) for which in ("first", "again")}
            print(name, found[name], flush=True)
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


if __name__ == "__main__":
    main()
