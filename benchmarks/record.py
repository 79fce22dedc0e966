"""Keep what proves a result: configuration, raw log and summary of finished runs, with mean and spread over seeds.

    daybreak train DATA --recipe sprint --seed 0     # once a seed
    python benchmarks/record.py sprint runs/*-sprint-s*

writes benchmarks/records/DATE_NAME/: record.json and a folder a seed. Runs that differ in recipe, machine or versions
do not belong into one record and are refused.
"""

import argparse
import json
import math
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from scipy import stats  # comes with scikit-learn

from daybreak.run import RunDirectory

RECORDS = Path(__file__).parent / "records"
FIGURES = ("test_acc", "test_acc_tta", "train_seconds", "wall_seconds", "images_per_second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("runs", nargs="+", type=RunDirectory.open)
    arguments = parser.parse_args()
    folder = RECORDS / f"{time.strftime('%Y-%m-%d')}_{arguments.name}"
    record = make_record(arguments.runs)
    for run in arguments.runs:
        target = folder / f"seed-{run.config['seed']}"
        target.mkdir(parents=True)
        for file in ("summary.json", "metrics.jsonl"):
            shutil.copy(run.path / file, target)
        (target / "config.json").write_text(json.dumps(without_paths(run.config), indent=2) + "\n")
    (folder / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


def make_record(runs: list[RunDirectory]) -> dict[str, Any]:
    """What the runs have in common, and the figures over their seeds."""
    shared = [{k: run.config[k] for k in ("recipe", "hardware", "versions", "compute_dtype")} for run in runs]
    if any(one != shared[0] for one in shared):
        raise SystemExit("error: the runs differ in recipe, hardware or versions; try: one record for each")
    finished = [run.summary for run in runs if not run.summary["interrupted"]]
    return {
        "dataset": runs[0].summary["dataset"],
        "command": runs[0].config["command"],
        "seeds": [run.config["seed"] for run in runs],
        "n": len(finished),
        "failed": len(runs) - len(finished),
        **{figure: spread([s[figure] for s in finished]) for figure in FIGURES},
        **shared[0],
    }


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the data's file name in place of its path on this machine."""
    data = config["data"]
    return config | {"data": data | {"request": data["request"] | {"data": Path(data["request"]["data"]).name}}}


def spread(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation and the 95 % interval of the mean (Student's t); the last two need two values."""
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return {"mean": mean, "std": None, "ci95": None, "values": values}
    std = statistics.stdev(values)
    half = float(stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n)
    return {"mean": mean, "std": std, "ci95": [mean - half, mean + half], "values": values}


if __name__ == "__main__":
    main()
