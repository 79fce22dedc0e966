"""The anchor's own file on a GPU: airbench94_muon.py (Jordan 2024, github.com/KellerJordan/cifar10-airbench), unchanged
but for the number of its runs.

    python benchmarks/anchor_original.py cifar10 airbench94_muon.py --runs 20 --out benchmarks/records/DATE_cuda

It needs torchvision, and is given our pixels in the form it keeps. Its clock begins with the whitening, when images are
on the GPU, and ends with its six-view evaluation; both ends are kept. `--choices ATEN` leaves Triton's kernels out
of the compiler's search. On an H200 with torch 2.11 the search was not over after three minutes either way, so this has
not been run to its end there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daybreak.benchmarking.record import spread
from daybreak.core.device import describe_hardware, versions
from daybreak.core.files import write_json
from daybreak.data import Dataset, open_dataset

RUNS = "range(200)"  # in the file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("file", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--choices", help="backends for the compiler to choose from, such as ATEN; its own by default")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data)
    with tempfile.TemporaryDirectory() as folder:
        write_tensors(dataset, Path(folder) / "cifar10")
        code = arguments.file.read_text(encoding="utf-8")
        assert RUNS in code, f"{arguments.file} does not say {RUNS}"
        (Path(folder) / "run.py").write_text(code.replace(RUNS, f"range({arguments.runs})"), encoding="utf-8")
        choices = {f"TORCHINDUCTOR_MAX_AUTOTUNE_{what}_BACKENDS": arguments.choices for what in ("GEMM", "CONV")}
        environment = os.environ | (choices if arguments.choices else {})
        done = subprocess.run(
            [sys.executable, "run.py"], cwd=folder, check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
    rows = finished(done.stdout)
    keys = ("train_seconds", "seconds_with_evaluation", "test_acc", "test_acc_tta")
    found: dict[str, Any] = {
        "name": arguments.file.stem,
        "choices": arguments.choices,
        "fingerprint": dataset.fingerprint,
    }
    found |= {"hardware": describe_hardware(torch.device("cuda")), "versions": versions(), "n": len(rows)}
    found |= {key: spread([row[key] for row in rows]) for key in keys}
    write_json(arguments.out / "original.json", found | {"runs": rows})
    print(json.dumps({key: found[key] for key in ("n", *keys)}, indent=2))


def write_tensors(dataset: Dataset, folder: Path) -> None:
    """Pixels and labels in the files that it looks for."""
    folder.mkdir()
    for name, part in (("train", dataset.train), ("test", dataset.test)):
        images, labels = torch.from_numpy(np.array(part.images_NHWC)), torch.from_numpy(np.array(part.labels_N)).long()
        torch.save({"images": images, "labels": labels, "classes": list(dataset.classes)}, folder / f"{name}.pt")


def finished(text: str) -> list[dict[str, float]]:
    """The runs of its printed table, the first of which is a warm-up on made-up labels."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    rows, last = [], cells[0]
    for row in cells[1:]:
        if row[1] == "eval":
            times = {"train_seconds": float(last[5]), "seconds_with_evaluation": float(row[5])}
            rows.append(times | {"test_acc": float(last[3]), "test_acc_tta": float(row[4])})
        last = row
    return rows[1:]


if __name__ == "__main__":
    main()
