"""How long a recipe and its anchor take, from steps of both in turn.

    python benchmarks/anchor_steps.py cifar10 --recipe sprint --recipe sprint-5 --out benchmarks/records/DATE_steps

On a machine that others use, whole runs of half an hour differ by a quarter of their time. Here every round takes a
few steps of the anchor, airbench94_muon at batch 2000, and steps of each recipe that see as many images, at each of
its image sizes and with the whitening's bias trained and frozen; a round is over in a minute or two, and rounds are
repeated. Each is a process of its own, as runs are: in one process a recipe's step takes a quarter longer, in memory
that the anchor has used before. A run's time is the sum over its steps. What a run does besides (whitening, resizing:
about a second) and the evaluation are left out on both sides. Both keep freed memory; the anchor's net and steps are
those of benchmarks/peers/airbench94_muon.py.

With `--accuracies RECORD` it also says how long the recipes take to the anchor's mean accuracy, on the line through
them over the logarithm of time. What was measured already is not measured again.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from anchor import time_at
from torch import nn

from daybreak.benchmarking.record import read_record
from daybreak.core.config import Muon, Recipe
from daybreak.core.device import compute_dtype, describe_hardware, kept_memory, versions
from daybreak.core.files import write_json
from daybreak.data import Dataset, open_dataset
from daybreak.recipes import get_recipe
from daybreak.training.compilation import choose_convolutions
from daybreak.training.session import Session, prepare
from daybreak.training.step import train_step

sys.path.append(str(Path(__file__).parent / "peers"))
import airbench94_muon as anchor  # a script beside this one

CPU = torch.device("cpu")
ANCHOR, EPOCHS = "airbench94_muon", 8
WARM, COUNTED = 1, 3  # steps of the anchor
Phase = tuple[str, int, Callable[[], object]]  # its name, how many steps of a run it stands for, a step of it
Took = dict[str, tuple[int, float]]  # steps and seconds a step by phase


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--recipe", action="append")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--accuracies", type=Path, help="a record of the recipes, with the anchor's in a file of its own"
    )
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one part of a round, in this process
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(part_of_round(arguments.only, arguments.data)))
        return
    if arguments.out is None:
        parser.error("--out is missing")
    path = arguments.out / "steps.json"
    record = json.loads(path.read_text()) if path.exists() else measure(arguments)
    if arguments.accuracies:
        record["equal_accuracy"] = at_equal_accuracy(record["runs"], arguments.accuracies)
    write_json(path, record)
    shown = {name: {k: v for k, v in row.items() if k != "phases"} for name, row in record["runs"].items()}
    print(json.dumps(shown | {"equal_accuracy": record.get("equal_accuracy")}))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    runs = [ANCHOR, *(arguments.recipe or ["sprint"])]
    found = summarize([{run: in_a_process(run, arguments.data) for run in runs} for _ in range(arguments.rounds)])
    precision = {name: str(compute_dtype(get_recipe(name).precision, CPU)).removeprefix("torch.") for name in runs[1:]}
    setting = {"hardware": describe_hardware(CPU), "versions": versions(), "rounds": arguments.rounds}
    return {"dataset": open_dataset(arguments.data).title, "precision": precision} | setting | {"runs": found}


def at_equal_accuracy(runs: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The recipes' time at the anchor's mean accuracy, as a share of the anchor's.

    Args:
        folder: a record of the recipes, and of the anchor's runs in airbench94_muon.jsonl, on whatever machine.
    """
    recipes = {row["recipe"]: row for row in read_record(folder)["recipes"]}
    anchors = [json.loads(line)["test_acc_tta"] for line in (folder / f"{ANCHOR}.jsonl").read_text().splitlines()]
    accuracy = statistics.fmean(anchors)
    points = [(recipes[run]["test_acc_tta"]["mean"], row["seconds"]) for run, row in runs.items() if run != ANCHOR]
    seconds = time_at(accuracy, points)
    found = {"accuracy": accuracy, "anchor_runs": len(anchors), "record": folder.name, "seconds": seconds}
    found["recipe_runs"] = {run: recipes[run]["n"] for run in runs if run != ANCHOR}
    return found | {"ratio": None if seconds is None else seconds / runs[ANCHOR]["seconds"]}


def in_a_process(run: str, data: str) -> Took:
    words = [sys.executable, __file__, data, "--only", run]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    took: Took = json.loads(done.stdout.splitlines()[-1])
    print(f"{run}: {took}", file=sys.stderr, flush=True)
    return took


def part_of_round(run: str, data: str) -> Took:
    """By phase: how many steps of a run it stands for, and seconds a step. The first steps are not counted."""
    dataset, found = open_dataset(data), {}
    with kept_memory():
        is_anchor = run == ANCHOR
        for name, steps, step in phases_of_anchor(dataset) if is_anchor else phases_of(get_recipe(run), dataset):
            as_many_images = 1 if is_anchor else max(1, anchor.BATCH // get_recipe(run).batch_size)
            for _ in range(WARM * as_many_images):
                step()
            count = COUNTED * as_many_images
            begun = time.perf_counter()
            for _ in range(count):
                step()
            found[name] = (steps, (time.perf_counter() - begun) / count)
    return found


def phases_of(recipe: Recipe, dataset: Dataset) -> Iterator[Phase]:
    """Of a run of the recipe: its image sizes, each with the whitening's bias trained or not."""
    session = prepare(recipe, dataset, 0, CPU)
    choose_convolutions(session)
    assert isinstance(recipe.optimizer, Muon)
    ends = sorted({0.0, recipe.optimizer.whiten_bias_until, *(stage.until for stage in recipe.resolution)})
    for start, end in pairwise(ends):
        progress, steps = (start + end) / 2, round(end * session.loader.steps) - round(start * session.loader.steps)
        name = f"{session.loader.size_at(progress)} px, {start:g} to {end:g}"
        yield name, steps, lambda progress=progress: step_at(session, progress)  # type: ignore[misc]


def step_at(session: Session, progress: float) -> None:
    session.optimizer.set_progress(progress)
    train_step(session, *session.loader.batch(0, progress))


def phases_of_anchor(dataset: Dataset) -> Iterator[Phase]:
    """Of its run: with the whitening's bias trained, then with it frozen."""
    images = torch.from_numpy(dataset.train.images_NHWC.copy()).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(dataset.train.labels_N.copy())
    steps = EPOCHS * (len(labels) // anchor.BATCH)
    trained = round(anchor.WHITEN_BIAS_UNTIL * steps)
    for name, count, at in (("bias trained", trained, 0), ("bias frozen", steps - trained, steps - 1)):
        net = anchor.Net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model = nn.Sequential(anchor.Normalize(images), net)
        with torch.no_grad():
            net.whiten.weight.copy_(anchor.whitening(model[0](images[:5000])))
        optimizers = anchor.Optimizers(net, anchor.BATCH, steps)
        net.whiten.bias.requires_grad = at == 0
        batches = anchor.batches(images, labels, anchor.BATCH)
        yield name, count, lambda model=model, opt=optimizers, b=batches, at=at: step_of_anchor(model, opt, next(b), at)  # type: ignore[misc]


def step_of_anchor(model: nn.Module, optimizers: Any, batch: tuple[torch.Tensor, torch.Tensor], at: int) -> None:
    images_B, labels_B = batch
    with anchor.autocast(CPU):
        logits = model(images_B)
    loss = F.cross_entropy(logits.float(), labels_B, label_smoothing=anchor.SMOOTHING, reduction="sum")
    loss.backward()
    optimizers.step(at)


def summarize(rounds: list[dict[str, Took]]) -> dict[str, Any]:
    """Seconds of whole runs, a value a round, their median, and what share of the anchor's they are."""
    totals = {run: [sum(n * seconds for n, seconds in r[run].values()) for r in rounds] for run in rounds[0]}
    found: dict[str, Any] = {}
    for run, seconds in totals.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds, totals[ANCHOR], strict=True)]
        found[run] = {"seconds": statistics.median(seconds), "ratio": statistics.median(ratios), "ratios": ratios}
        found[run]["phases"] = {
            name: {"steps": steps, "seconds": [r[run][name][1] for r in rounds]}
            for name, (steps, _) in rounds[0][run].items()
        }
    return found


if __name__ == "__main__":
    main()
