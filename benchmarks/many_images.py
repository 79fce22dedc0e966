"""How much memory and time a training on many small images takes: held in memory, and read from the cache as it goes.

    python benchmarks/many_images.py --images 10000 100000 1000000 --out benchmarks/records/DATE_many-images

The images are noise of 32 px in ten classes, made here. Each number of images is trained on for one epoch by a small
net, in processes of their own: with `--memory` for none of them, and where they fit with memory for all.
many_images.json has the largest memory of each beside that of an interpreter with daybreak and torch, seconds an epoch,
and images a second. Run nothing else meanwhile.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daybreak.core.device import describe_hardware, versions
from daybreak.core.files import write_json

SIDE, CLASSES, BLOCK = 32, 10, 10_000
MEMORY = {"streamed": "0", "resident": "100GB"}
SETTINGS = ("epochs=1", "min_steps=0", "batch_size=1000", "model.width=0.25", "tta=none")
BARE = "import daybreak.api, resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--recipe", default="sprint")
    parser.add_argument("--resident-up-to", type=int, default=1_000_000, help="images that are also held in memory")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    bare = int(subprocess.run([sys.executable, "-c", BARE], capture_output=True, check=True, text=True).stdout)
    rows = []
    for images in arguments.images:
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["DAYBREAK_CACHE_DIR"] = f"{scratch}/cache"
            data = written(Path(scratch) / "images.npz", images)
            for way in MEMORY if images <= arguments.resident_up_to else ["streamed"]:
                rows.append({"images": images, "way": way} | trained(data, arguments.recipe, way, bare))
                print(json.dumps(rows[-1]), flush=True)
    record = {"recipe": arguments.recipe, "settings": SETTINGS, "bare_bytes": bare, "rows": rows}
    record |= {"hardware": describe_hardware(torch.device("cpu")), "versions": versions()}
    write_json(arguments.out / "many_images.json", record)


def written(path: Path, images: int) -> Path:
    """An .npz with so many training images and a hundredth as many test images, written a block at a time."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for part, count in (("train", images), ("test", max(1000, images // 100))):
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, SIDE, SIDE, 3)}
            with archive.open(f"x_{part}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
                for start in range(0, count, BLOCK):
                    block = min(BLOCK, count - start)
                    file.write(rng.integers(0, 256, (block, SIDE, SIDE, 3), dtype=np.uint8).tobytes())
            with archive.open(f"y_{part}.npy", "w") as file:
                np.lib.format.write_array(file, rng.integers(0, CLASSES, count), allow_pickle=False)
    return path


def trained(data: Path, recipe: str, way: str, bare: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        settings = [word for pair in SETTINGS for word in ("--set", pair)]
        line = [sys.executable, "-m", "daybreak", "train", str(data), "--recipe", recipe, *settings, "--validate", "0"]
        line += ["--memory", MEMORY[way], "--device", "cpu", "--no-report", "--quiet", "--out", str(out)]
        opened = [sys.executable, "-c", f"import daybreak; daybreak.open_dataset({str(data)!r}, validate=0)"]
        subprocess.run(opened, check=True)  # decoding has a process, and a memory, of its own
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        summary = json.loads((out / "summary.json").read_text())
    return {
        "train_seconds": summary["train_seconds"],
        "images_per_second": summary["images_per_second"],
        "peak_bytes": summary["peak_rss_bytes"],
        "peak_beside_bare_bytes": summary["peak_rss_bytes"] - bare,
    }


if __name__ == "__main__":
    main()
