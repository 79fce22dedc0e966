"""Recipes and their anchor, airbench94_muon in plain eager PyTorch, alternating in one series of runs.

    python benchmarks/anchor.py cifar10 --out benchmarks/records/DATE_sprint --recipe sprint:10 --anchors 3

Every run is a process of its own, one at a time. On CPUs the anchor (benchmarks/peers/airbench94_muon.py) keeps freed
memory in the process, as daybreak does there; with `--plain N` it also runs with the C library's own setting, which is
a footnote. Runs that are there already are not repeated. What counts is the time to equal accuracy: ratio.json has, for
the anchor's mean accuracy, the time on the line through the recipes' means (over the logarithm of time), as a share
of the anchor's mean time; once for training alone and once with the evaluation of the finished net.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from series import KEPT_MEMORY, open_record, setting_of, write_pixels

from daybreak.benchmarking.record import read_record, spread
from daybreak.core.files import write_json
from daybreak.data import open_dataset

ANCHOR = Path(__file__).parent / "peers" / "airbench94_muon.py"
EPOCHS = 8
PLAIN, KEPT = "airbench94_muon", "airbench94_muon, memory kept"
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", action="append", help="recipe:runs, e.g. sprint:10; repeatable")
    parser.add_argument("--anchors", type=int, default=3)
    parser.add_argument("--plain", type=int, default=0, help="anchors with the C library's own memory setting")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    recipes = dict(pair.split(":") for pair in arguments.recipe or ["sprint:10"])
    dataset = open_dataset(arguments.data)
    open_record(arguments.out, setting_of(dataset, arguments.device))
    runs = {name: int(count) for name, count in recipes.items()}
    with tempfile.TemporaryDirectory() as folder:
        pixels = Path(folder) / "pixels.npz"
        write_pixels(dataset, pixels)
        for name, seed in order(runs, arguments.anchors, arguments.plain, arguments.device):
            if name in (PLAIN, KEPT):
                run_anchor(name, seed, pixels, arguments.out, arguments.device)
            else:
                run_recipe(name, seed, arguments.data, arguments.out, arguments.device)
            print(json.dumps(write_ratios(arguments.out)), file=sys.stderr, flush=True)
    print(json.dumps(write_ratios(arguments.out), indent=2))


def order(recipes: Mapping[str, int], anchors: int, plain: int = 0, device: str = "cpu") -> list[tuple[str, int]]:
    """Runs as (name, seed): the fair anchors first, last and evenly in between, the recipes in turn; the anchors with
    the C library's own setting follow the first fair ones."""
    fair = KEPT if device == "cpu" else PLAIN
    rounds = max(recipes.values())
    places = [round(i * rounds / max(1, anchors - 1)) for i in range(anchors)]
    found = []
    for seed in range(rounds + 1):
        here = [anchor for anchor, place in enumerate(places) if place == seed]
        for anchor in here:
            found += [(fair, anchor)] + [(PLAIN, anchor)] * (device == "cpu" and anchor < plain)
        found += [(name, seed) for name, runs in recipes.items() if seed < runs]
    return found


def run_recipe(name: str, seed: int, data: str, out: Path, device: str) -> None:
    words = [
        "bench",
        data,
        "--recipe",
        name,
        "--runs",
        "1",
        "--seed",
        str(seed),
        "--latency",
        "none",
        "--out",
        str(out),
    ]
    subprocess.run([sys.executable, "-m", "daybreak", *words, "--device", device], check=True, stdout=sys.stderr)


def run_anchor(name: str, seed: int, pixels: Path, out: Path, device: str) -> None:
    raw = out / "anchor.jsonl"
    if any((row["name"], row["seed"]) == (name, seed) for row in rows(raw)):
        return
    print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
    words = [sys.executable, str(ANCHOR), "--pixels", str(pixels), "--epochs", str(EPOCHS), "--seed", str(seed)]
    environment = os.environ | (KEPT_MEMORY if name == KEPT else {})
    done = subprocess.run([*words, "--device", device], check=True, stdout=subprocess.PIPE, text=True, env=environment)
    with raw.open("a") as file:
        file.write(json.dumps({"name": name} | json.loads(done.stdout.splitlines()[-1])) + "\n")


def rows(raw: Path) -> list[Row]:
    return [json.loads(line) for line in raw.read_text().splitlines()] if raw.exists() else []


def write_ratios(out: Path) -> Row:
    """ratio.json from what is there so far."""
    recipes = read_record(out)["recipes"] if (out / "record.json").exists() else []
    found: Row = {"anchors": {}, "recipes": {}, "equal_accuracy": {}}
    for name in (KEPT, PLAIN):
        mine = [row for row in rows(out / "anchor.jsonl") if row["name"] == name]
        if mine:
            found["anchors"][name] = anchor_figures(mine)
            found["equal_accuracy"][name] = at_equal_accuracy(found["anchors"][name], recipes)
    for row in recipes:
        seconds = row["train_seconds"]["mean"]
        ratios = {name: seconds / a["train_seconds"]["mean"] for name, a in found["anchors"].items()}
        found["recipes"][row["recipe"]] = {"n": row["n"], "test_acc_tta": row["test_acc_tta"], "ratio_to": ratios}
    write_json(out / "ratio.json", found)
    return found


def anchor_figures(mine: Sequence[Row]) -> Row:
    keys = ("train_seconds", "test_acc", "test_acc_tta", "judge_seconds")
    return {"n": len(mine), **{key: spread([row[key] for row in mine if key in row]) for key in keys}}


def at_equal_accuracy(anchor: Row, recipes: Sequence[Row]) -> Row:
    """The recipes' seconds at the anchor's mean accuracy, and their share of the anchor's; None where its accuracy is
    not between those of two recipes."""
    accuracy, found = anchor["test_acc_tta"]["mean"], {}
    clocks = {"train": (("train_seconds",), ("train_seconds",))}
    clocks["train and evaluate"] = (("train_seconds", "final_evaluate_seconds"), ("train_seconds", "judge_seconds"))
    for clock, (ours, theirs) in clocks.items():
        points = [(row["test_acc_tta"]["mean"], total(row, ours)) for row in recipes if row["n"]]
        seconds = time_at(accuracy, [(a, s) for a, s in points if s is not None])
        other = total(anchor, theirs)
        ratio = seconds / other if seconds is not None and other is not None else None
        found[clock] = {"seconds": seconds, "anchor_seconds": other, "ratio": ratio}
    return {"accuracy": accuracy, **found}


def total(row: Row, keys: Sequence[str]) -> float | None:
    """The sum of the means of these figures; None where one was not measured."""
    means = [row.get(key, {}).get("mean") for key in keys]
    return sum(means) if None not in means else None


def time_at(accuracy: float, points: Sequence[tuple[float, float]]) -> float | None:
    """Seconds at an accuracy on the line through (accuracy, seconds), straight over the logarithm of the seconds; None
    outside. Of two points the slower one has to be the better one."""
    for (a, fast), (b, slow) in pairwise(sorted(points, key=lambda point: point[1])):
        if a <= accuracy <= b and a < b:
            share = (accuracy - a) / (b - a)
            return math.exp(math.log(fast) + share * (math.log(slow) - math.log(fast)))
    return None


if __name__ == "__main__":
    main()
