"""Whether a sweep finds what plain Optuna code finds, and what pruning saves: in turn, with several seeds.

    python benchmarks/sweeps.py digits --repeats 3 --out benchmarks/records/DATE_sweep

Each repeat searches the same space three times: by `daybreak sweep`, by the same without pruning, and by a dozen lines
of Optuna around `daybreak.train` (its default sampler, no pruning). The best accuracy of a sweep is partly luck, so
each best recipe is trained again with fresh seeds; "fresh" is their mean. Evaluated on held-out training images.
trials.jsonl has a line for each sweep, sweeps.json the differences, paired by repeat. What a sweep takes is counted in
seconds of the processor, all of it included (drawing, evaluation), so that other programs on the machine matter little;
its wall-clock time is there too. It takes one thread: with more, threads that wait would count.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna
import torch
from scipy import stats
from series import append, open_record, read, setting_of

import daybreak as db
from daybreak.benchmarking.record import spread
from daybreak.core.config import Recipe, override
from daybreak.core.files import write_json
from daybreak.data import open_dataset
from daybreak.recipes import get_recipe, read_toml
from daybreak.sweeping.setting import HELD_OUT
from daybreak.sweeping.space import with_settings

SPACE = {
    "schedule.max_lr": {"low": 0.005, "high": 1.0, "log": True},
    "batch_size": {"choices": [64, 128, 256]},
    "label_smoothing": {"low": 0.0, "high": 0.3},
    "optimizer.momentum": {"low": 0.3, "high": 0.95},
}
SHORT = {"model.width": 0.1, "min_steps": 0, "epochs": 9}
WAYS, FRESH_SEEDS, ROWS = ("pruned", "whole", "plain"), range(1000, 1003), "trials.jsonl"
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    dataset = open_dataset(arguments.data, validate=HELD_OUT)
    asked = {"recipe": arguments.recipe, "trials": arguments.trials, "space": SPACE, "settings": SHORT}
    folder = open_record(arguments.out, setting_of(dataset) | asked)
    done = {(row["way"], row["seed"]) for row in read(folder, ROWS)}
    base = override(get_recipe(arguments.recipe), SHORT)
    with tempfile.TemporaryDirectory() as scratch:  # what is imported and made once is not the first sweep's
        db.sweep(arguments.data, SPACE, 2, recipe=override(base, {"epochs": 1}), out=Path(scratch) / "sweep")
    for seed in range(arguments.repeats):
        for way in WAYS[seed % 3 :] + WAYS[: seed % 3]:
            if (way, seed) not in done:
                row = search(way, arguments.data, base, arguments.trials, seed)
                append(folder, {"way": way, "seed": seed} | row, ROWS)
    found = summary(read(folder, ROWS))
    write_json(folder / "sweeps.json", {"asked": asked, **found})
    print(json.dumps(found, indent=1))


def search(way: str, data: str, base: Recipe, trials: int, seed: int) -> Row:
    """One sweep: the best accuracy, seconds of training in all, and what the best recipe reaches with fresh seeds."""
    with tempfile.TemporaryDirectory() as scratch:
        begun, wall = time.process_time(), time.perf_counter()
        if way == "plain":
            best, row = plain(data, base, trials, seed, Path(scratch))
        else:
            found = db.sweep(
                data, SPACE, trials, recipe=base, seed=seed, prune=way == "pruned", out=Path(scratch) / "sweep"
            )
            best = read_toml(Path(found["recipe"]))
            row = {"best": found["best"]["val_acc"], "settings": found["best"]["settings"], **found["counts"]}
            row |= {"train_seconds": found["train_seconds"]}
            row["epochs"] = sum(trial["epochs"] or 0.0 for trial in found["trials"])
        row |= {"cpu_seconds": time.process_time() - begun, "wall_seconds": time.perf_counter() - wall}
        fresh = [train(data, best, fresh_seed, Path(scratch))["val_acc"] for fresh_seed in FRESH_SEEDS]
    return row | {"fresh": fresh}


def plain(data: str, base: Recipe, trials: int, seed: int, scratch: Path) -> tuple[Recipe, Row]:
    """The same search as anyone would write it with Optuna."""
    seconds = []

    def objective(trial: optuna.Trial) -> float:
        settings = {
            "schedule.max_lr": trial.suggest_float("schedule.max_lr", 0.005, 1.0, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [64, 128, 256]),
            "label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.3),
            "optimizer.momentum": trial.suggest_float("optimizer.momentum", 0.3, 0.95),
        }
        summary = train(data, with_settings(base, settings), seed, scratch)
        seconds.append(summary["train_seconds"])
        return float(summary["val_acc"])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=trials)
    row = {"best": study.best_value, "settings": study.best_params, "complete": trials, "train_seconds": sum(seconds)}
    row["epochs"] = float(trials * base.epochs)
    return with_settings(base, study.best_params), row


def train(data: str, recipe: Recipe, seed: int, scratch: Path) -> Row:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        run = db.train(
            data, recipe=recipe, seed=seed, validate=HELD_OUT, report=False, checkpoint_every="never",
            out=Path(folder) / "run",
        )  # fmt: skip
        return run.directory.summary


def summary(rows: list[Row]) -> Row:
    """Each way's figures, and the other two ways against the whole sweep, repeat by repeat."""
    by = {(row["way"], row["seed"]): row for row in rows}
    seeds = sorted(seed for way, seed in by if all((other, seed) in by for other in WAYS) and way == WAYS[0])
    figures = {
        "best": lambda row: row["best"],
        "fresh": lambda row: sum(row["fresh"]) / len(row["fresh"]),
        "cpu_seconds": lambda row: row["cpu_seconds"],
        "train_seconds": lambda row: row["train_seconds"],
        "epochs": lambda row: row["epochs"],
    }
    found: Row = {"seeds": seeds}
    for way in WAYS:
        found[way] = {name: spread([read_off(by[way, seed]) for seed in seeds]) for name, read_off in figures.items()}
    for way in ("pruned", "plain"):
        found[f"{way} - whole"] = {
            name: difference(*([figures[name](by[one, seed]) for seed in seeds] for one in (way, "whole")))
            for name in ("best", "fresh")
        }
    for name in ("cpu_seconds", "train_seconds", "epochs"):
        saved = [1 - by["pruned", seed][name] / by["whole", seed][name] for seed in seeds]
        found[f"share of {name} saved by pruning"] = spread(saved)
    return found


def difference(mine: list[float], others: list[float]) -> Row:
    """Mean of the paired differences with Student's 95 % interval, and p."""
    deltas = spread([a - b for a, b in zip(mine, others, strict=True)])
    p = float(stats.ttest_rel(mine, others).pvalue) if len(mine) > 1 and deltas["std"] else None
    return {"mean": deltas["mean"], "ci95": deltas["ci95"], "p": p}


if __name__ == "__main__":
    main()
