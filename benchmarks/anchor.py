"""sprint and its anchor, airbench94_muon in plain eager PyTorch, alternating in one series of runs.

    python benchmarks/anchor.py cifar10-jpeg --out benchmarks/records/DATE_sprint

Every run is a process of its own, one at a time. The anchor (benchmarks/peers/airbench94_muon.py) runs with default
settings, and on CPUs once more with the memory setting that daybreak uses there. Only that second anchor can be
compared with a recipe. Runs that are there already are not repeated. ratio.json has mean seconds over mean seconds of
the anchor.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from peers import open_record, setting_of, write_pixels

from daybreak.benchmarking.record import read_record, spread
from daybreak.core.files import write_json
from daybreak.data import open_dataset

ANCHOR = Path(__file__).parent / "peers" / "airbench94_muon.py"
# glibc's names for what daybreak.device.kept_memory sets: freed blocks stay in the process.
KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**63 - 1)}
PLAIN, KEPT = "airbench94_muon", "airbench94_muon, memory kept"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", action="append", help="recipe:runs, e.g. sprint:5; repeatable")
    parser.add_argument("--anchors", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    recipes = dict(pair.split(":") for pair in arguments.recipe or ["sprint:5", "sprint-5:3"])
    dataset = open_dataset(arguments.data)
    open_record(arguments.out, setting_of(dataset, arguments.device))
    with tempfile.TemporaryDirectory() as folder:
        pixels = Path(folder) / "pixels.npz"
        write_pixels(dataset, pixels)
        for name, seed in order(
            {name: int(runs) for name, runs in recipes.items()}, arguments.anchors, arguments.device
        ):
            if name in (PLAIN, KEPT):
                run_anchor(name, seed, pixels, arguments.out, arguments.device)
            else:
                run_recipe(name, seed, arguments.data, arguments.out, arguments.device)
    print(json.dumps(write_ratios(arguments.out), indent=2))


def order(recipes: dict[str, int], anchors: int, device: str = "cpu") -> list[tuple[str, int]]:
    """Runs as (name, seed): anchors first, last and evenly in between, the recipes in turn; the anchor with kept memory
    stands in the middle."""
    rounds = max(recipes.values())
    places = [round(i * rounds / max(1, anchors - 1)) for i in range(anchors)]
    found = []
    for seed in range(rounds + 1):
        found += [(PLAIN, anchor) for anchor, place in enumerate(places) if place == seed]
        found += [(KEPT, 0)] if seed == rounds // 2 and device == "cpu" else []
        found += [(name, seed) for name, runs in recipes.items() if seed < runs]
    return found


def run_recipe(name: str, seed: int, data: str, out: Path, device: str) -> None:
    words = ["bench", data, "--recipe", name, "--runs", "1", "--seed", str(seed), "--no-latency", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "daybreak", *words, "--device", device], check=True, stdout=sys.stderr)


def run_anchor(name: str, seed: int, pixels: Path, out: Path, device: str) -> None:
    raw = out / "anchor.jsonl"
    if any((row["name"], row["seed"]) == (name, seed) for row in rows(raw)):
        return
    print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
    words = [
        sys.executable,
        str(ANCHOR),
        "--pixels",
        str(pixels),
        "--epochs",
        "8",
        "--seed",
        str(seed),
        "--device",
        device,
    ]
    environment = os.environ | (KEPT_MEMORY if name == KEPT else {})
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    with raw.open("a") as file:
        file.write(json.dumps({"name": name} | json.loads(done.stdout.splitlines()[-1])) + "\n")


def rows(raw: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in raw.read_text().splitlines()] if raw.exists() else []


def write_ratios(out: Path) -> dict[str, Any]:
    anchors = rows(out / "anchor.jsonl")
    found: dict[str, Any] = {"anchors": {}, "recipes": {}}  # ratios: mean seconds over the anchor's mean seconds
    for name in (PLAIN, KEPT):
        mine = [row for row in anchors if row["name"] == name]
        figures = {key: spread([row[key] for row in mine]) for key in ("train_seconds", "test_acc", "test_acc_tta")}
        found["anchors"][name] = {"n": len(mine), **figures}
    for row in read_record(out)["recipes"]:
        seconds = row["train_seconds"]["mean"]
        ratios = {name: seconds / a["train_seconds"]["mean"] for name, a in found["anchors"].items() if a["n"]}
        found["recipes"][row["recipe"]] = {"n": row["n"], "test_acc_tta": row["test_acc_tta"], "ratio_to": ratios}
    write_json(out / "ratio.json", found)
    return found


if __name__ == "__main__":
    main()
