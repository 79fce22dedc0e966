"""How fast one training is in several processes, beside one process with all cores: whole runs in turn, same seeds.

    python benchmarks/processes.py cifar10 --recipe sprint-2 --pairs 3 --out benchmarks/records/DATE_processes

Every pair trains a seed in one process and in so many processes, and every second pair begins with the other;
accuracies and seconds of training are paired by seed. Run nothing else meanwhile. runs.jsonl has a line for each run,
processes.json the ratio of speeds and the difference of accuracies with their 95 % intervals.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from series import append, open_record, read

from daybreak.core.device import describe_hardware, versions
from daybreak.core.files import write_json

ROWS = "runs.jsonl"
KEPT = ("seed", "processes", "train_seconds", "wall_seconds", "images_per_second", "test_acc", "test_acc_tta")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--recipe", default="sprint-2")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    machine = {"hardware": describe_hardware(torch.device("cpu")), "versions": versions()}
    asked = {"data": arguments.data, "recipe": arguments.recipe, "device": arguments.device}
    folder = open_record(arguments.out, machine | asked)
    done = {(row["processes"], row["seed"]) for row in read(folder, ROWS)}
    for seed in range(arguments.pairs):
        for processes in (1, arguments.processes)[:: -1 if seed % 2 else 1]:
            if (processes, seed) not in done:
                append(folder, trained(arguments, processes, seed), ROWS)
    found = summary(read(folder, ROWS), arguments.processes)
    write_json(folder / "processes.json", machine | asked | found)
    print(json.dumps(found, indent=1))


def trained(arguments: argparse.Namespace, processes: int, seed: int) -> dict[str, Any]:
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"] if processes > 1 else []
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        line = [sys.executable, "-m", *launcher, "daybreak", "train", arguments.data, "--recipe", arguments.recipe]
        line += ["--seed", str(seed), "--device", arguments.device, "--no-report", "--out", str(out), "--quiet"]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        run = json.loads((out / "summary.json").read_text())
    row = {key: run[key] for key in KEPT}
    print(json.dumps(row), flush=True)
    return row


def summary(rows: list[dict[str, Any]], processes: int) -> dict[str, Any]:
    """Means, the ratio of speeds (above 1: several processes are faster), and points of accuracy gained by them."""
    by_kind = {n: {row["seed"]: row for row in rows if row["processes"] == n} for n in (1, processes)}
    seeds = sorted(by_kind[1].keys() & by_kind[processes].keys())
    seconds = {n: np.array([by_kind[n][seed]["train_seconds"] for seed in seeds]) for n in by_kind}
    accuracy = {n: np.array([by_kind[n][seed]["test_acc_tta"] for seed in seeds]) for n in by_kind}
    return {
        "n": len(seeds),
        "train_seconds": {str(n): float(values.mean()) for n, values in seconds.items()},
        "test_acc_tta": {str(n): float(values.mean()) for n, values in accuracy.items()},
        "speed": interval(seconds[1] / seconds[processes]),
        "points": interval(100 * (accuracy[processes] - accuracy[1])),
    }


def interval(values: np.ndarray) -> dict[str, Any]:
    """The mean with its 95 % interval by Student's t."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return {"mean": mean, "ci95": None}
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5)
    return {"mean": mean, "ci95": [mean - half, mean + half]}


if __name__ == "__main__":
    main()
