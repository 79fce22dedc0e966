"""How well `daybreak suspects` finds wrong labels among photos: some are made wrong, and looked for.

    python benchmarks/planted.py photos/ --share 0.05 --seeds 3 --out benchmarks/records/DATE_planted

Of the training photos a share gets the label of another class at random. A head is trained on features, then one for
each fold; planted.json has, of the photos in the order of suspicion, how many of the first 10, 50 and 100 were made
wrong, the average precision, the share of the wrong ones that is named at all, and seconds. (Photos that were labelled
wrong before count as mistakes of the search.)
"""

import argparse
import csv
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from daybreak import api
from daybreak.benchmarking.record import spread
from daybreak.core.device import describe_hardware, versions
from daybreak.core.files import write_json
from daybreak.data import Dataset, open_dataset
from daybreak.runs.datasets import run_dataset

FIRST, FOLDS = (10, 50, 100), 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder of class folders with train/ and test/")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data, size=224, validate=0)
    rows = []
    for seed in range(arguments.seeds):
        rows.append(search(arguments.data, dataset, arguments.share, seed))
        print(rows[-1], flush=True)
    keys = [key for key in rows[0] if key != "seed"]
    record = {"share": arguments.share, "folds": FOLDS, "runs": rows}
    record |= {"results": {key: spread([row[key] for row in rows]) for key in keys}}
    record |= {"images": len(dataset.train.labels_N), "fingerprint": dataset.fingerprint}
    write_json(
        arguments.out / "planted.json",
        record | {"hardware": describe_hardware(torch.device("cpu")), "versions": versions()},
    )


def search(data: Path, dataset: Dataset, share: float, seed: int) -> dict[str, Any]:
    """One search among labels of which some were made wrong."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        table, wrong = planted(data, dataset, share, seed)
        stack.callback(table.unlink)
        run = api.train(table, recipe="finetune", validate=0, seed=seed, out=Path(scratch) / "run", report=False)
        begun = time.perf_counter()
        found = run.suspects(folds=FOLDS)["train"]
        seconds = time.perf_counter() - begun
        names = run_dataset(run.directory).train.names
    hits = [row["file"] in wrong for row in found]
    rank = {row["file"]: len(found) - n for n, row in enumerate(found)}
    scores = [rank.get(name, 0) for name in names]
    precision = {f"precision_at_{k}": float(np.mean(hits[:k])) for k in FIRST}
    named = sum(hits) / len(wrong)
    ap = float(average_precision_score([name in wrong for name in names], scores))
    return {"seed": seed, **precision, "average_precision": ap, "named": named, "seconds": seconds}


def planted(data: Path, dataset: Dataset, share: float, seed: int) -> tuple[Path, set[str]]:
    """A table beside the folder of photos, and the names of those whose label is wrong in it."""
    rng, train = np.random.default_rng(seed), dataset.train
    labels_N = np.array(train.labels_N)
    chosen = rng.choice(len(labels_N), round(share * len(labels_N)), replace=False)
    labels_N[chosen] = (labels_N[chosen] + rng.integers(1, len(dataset.classes), len(chosen))) % len(dataset.classes)
    parts = (("train", train.names, labels_N), ("test", dataset.test.names, dataset.test.labels_N))
    with (data.resolve().parent / f"planted-{seed}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "split"])
        for part, names, labels in parts:
            writer.writerows(
                [f"{data.name}/{name}", dataset.classes[k], part] for name, k in zip(names, labels, strict=True)
            )
    return Path(file.name), {f"{data.name}/{train.names[n]}" for n in chosen}


if __name__ == "__main__":
    main()
