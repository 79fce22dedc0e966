"""How long a recipe and its anchor take, from steps of both in turn.

    python benchmarks/anchor_steps.py cifar10 --recipe sprint --recipe sprint-5 --out benchmarks/records/DATE_steps

On a machine that others use, whole runs of half an hour differ by a quarter of their time. Here every round takes a
step of the anchor, airbench94_muon at batch 2000, and as many steps of each recipe as see as many images, at each of
its image sizes and with the whitening's bias trained and frozen; a round is over in half a minute, and rounds are
repeated. A run's time is the sum over its steps. What a run does besides (whitening, resizing: about a second) and the
evaluation are left out on both sides. Both keep freed memory; the anchor's net and steps are those of
benchmarks/peers/airbench94_muon.py.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

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
EPOCHS = 8  # of the anchor
Phase = tuple[str, int, Callable[[], object]]  # its name, how many steps of a run it stands for, a step of it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--recipe", action="append")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    names = arguments.recipe or ["sprint"]
    dataset = open_dataset(arguments.data)
    with kept_memory():
        phases = {"airbench94_muon": list(phases_of_anchor(dataset))}
        phases |= {name: list(phases_of(get_recipe(name), dataset)) for name in names}
        found = summarize(in_turn(phases, arguments.rounds), phases)
    setting = {"dataset": dataset.title, "hardware": describe_hardware(CPU), "versions": versions()}
    precision = {name: str(compute_dtype(get_recipe(name).precision, CPU)).removeprefix("torch.") for name in names}
    write_json(arguments.out / "steps.json", setting | {"precision": precision, "rounds": arguments.rounds} | found)
    print(json.dumps({name: {k: v for k, v in row.items() if k != "phases"} for name, row in found["runs"].items()}))


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


def in_turn(phases: dict[str, list[Phase]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds a step by run and phase, a value a round; the first round is not counted."""
    took: dict[str, dict[str, list[float]]] = {run: {name: [] for name, _, _ in those} for run, those in phases.items()}
    for round_ in range(rounds + 1):
        for run, those in phases.items():
            for name, _, step in those:
                count = 1 if run == "airbench94_muon" else anchor.BATCH // 500
                if count > 1:
                    step()  # not counted: where the image size changes, all images are resized, once a run
                begun = time.perf_counter()
                for _ in range(count):
                    step()
                took[run][name].append((time.perf_counter() - begun) / count)
        print(f"round {round_} of {rounds}", file=sys.stderr, flush=True)
    return {run: {name: seconds[1:] for name, seconds in those.items()} for run, those in took.items()}


def summarize(took: dict[str, dict[str, list[float]]], phases: dict[str, list[Phase]]) -> dict[str, Any]:
    """Seconds of whole runs, a value a round and their median; and what share of the anchor's they are."""
    counts = {run: {name: count for name, count, _ in those} for run, those in phases.items()}
    rounds = len(next(iter(took["airbench94_muon"].values())))
    totals = {
        run: [sum(counts[run][name] * seconds[i] for name, seconds in those.items()) for i in range(rounds)]
        for run, those in took.items()
    }
    rows: dict[str, Any] = {}
    for run, seconds in totals.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds, totals["airbench94_muon"], strict=True)]
        spread = statistics.stdev(ratios) if rounds > 1 else None
        rows[run] = {
            "seconds": statistics.median(seconds),
            "ratio": statistics.median(ratios),
            "ratio_std": spread,
            "phases": {name: {"steps": counts[run][name], "seconds": took[run][name]} for name in took[run]},
        }
    return {"runs": rows}


if __name__ == "__main__":
    main()
