"""The first losses of a training, in float64 where they are to be compared between processors or numbers of processes.

    python tests/golden.py OUT DATA RECIPE STEPS [KEY=VALUE…]

writes them as JSON, by the first of the processes that a launcher started.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from daybreak.core.config import Recipe, override, parse_settings
from daybreak.data import Dataset, open_dataset
from daybreak.models.sprint import SprintNet
from daybreak.recipes import RECIPES
from daybreak.training.extensions import Extensions
from daybreak.training.session import ALONE, prepare, spread
from daybreak.training.step import train_step
from daybreak.training.team import Team, joined

CPU = torch.device("cpu")


def losses(
    recipe: Recipe,
    dataset: Dataset,
    steps: int,
    seed: int = 0,
    double: bool = False,
    team: Team = ALONE,
    extensions: Extensions = Extensions(),
) -> list[float]:
    session = prepare(recipe, dataset, seed, CPU, team=team, extensions=extensions)
    if double:
        session.net.double()
        if isinstance(session.net, SprintNet):  # in float32 its smallest eigenvalues follow processor and threads
            images, normalize = session.loader.images, session.loader.normalize
            session.net.fit_data(lambda n: normalize(images.take(spread(len(images), n))).double(), 32)
        for group in (g for o in session.optimizer.optimizers for g in o.param_groups if "dtype" in g):
            group["dtype"] = torch.float64
        session.weights_K = None if session.weights_K is None else session.weights_K.double()
    found = []
    for _ in range(steps):
        session.optimizer.set_progress(session.progress)
        images, labels = session.batch(session.progress)
        found.append(train_step(session, images.double() if double else images, labels).item())
        session.step += 1
    return found


def few_images_recipe(name: str) -> Recipe:
    return override(RECIPES[name], {"batch_size": 32, "epochs": 1, "precision": "float32"})


def few_images(cifar: Dataset) -> Dataset:
    return subset(cifar, np.concatenate([np.flatnonzero(cifar.train.labels_N == k)[:200] for k in range(10)]))


def subset(dataset: Dataset, index: np.ndarray) -> Dataset:
    train = dataset.train
    part = replace(train, images_NHWC=train.images_NHWC[index], labels_N=train.labels_N[index])
    return replace(dataset, train=part)


def mixed(images_BCHW: Tensor, labels_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """An augmentation that looks at the whole batch."""
    order = torch.randperm(len(images_BCHW), generator=generator)
    return (images_BCHW + images_BCHW[order]) / 2, labels_B


def main(out: str, data: str, name: str, steps: str, *settings: str) -> None:
    mixes = "mixed" in settings
    chosen = override(few_images_recipe(name), parse_settings([pair for pair in settings if pair != "mixed"]))
    with joined("cpu") as team:
        dataset = open_dataset(data)
        dataset = few_images(dataset) if data.startswith("cifar10") else dataset
        extensions = Extensions(augment=mixed) if mixes else Extensions()
        found = losses(chosen, dataset, int(steps), double=True, team=team, extensions=extensions)
        if team.is_first:
            Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
