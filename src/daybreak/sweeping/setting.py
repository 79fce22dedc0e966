"""What all trials of a sweep have in common: data, base recipe, space, and how a trial is trained and evaluated."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import to_jsonable_python

from daybreak.core.clock import check_budget
from daybreak.core.config import Balance, Device, Recipe
from daybreak.core.device import pick_device
from daybreak.core.errors import UsageError, nearest
from daybreak.core.options import TrainOptions, train_options
from daybreak.data import Dataset, open_dataset
from daybreak.data.advice import is_uneven
from daybreak.recipes import get_recipe
from daybreak.sweeping.space import Space, read_space
from daybreak.training import recipe_choice
from daybreak.training.balance import balance_for

SAMPLERS: tuple[str, ...] = ("tpe", "cmaes", "random", "grid")
HELD_OUT = 0.1  # of the training images, where the data has no validation part


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a sweep is asked to do. See `daybreak.sweep`."""

    data: str
    space: str | Mapping[str, Any]
    trials: int | None = None
    recipe: str | Recipe | None = None
    epochs: int | None = None
    budget: float | None = None
    settings: Mapping[str, Any] | None = None
    sampler: str = "tpe"
    prune: bool = True
    seeds: int = 1
    seed: int = 0
    validate: float | None = None
    split_seed: int = 0
    size: int | None = None
    skip_bad: bool = False
    device: Device = "auto"

    def check(self) -> None:
        """
        Raises:
            UsageError: a value makes no sense.
        """
        if self.sampler not in SAMPLERS:
            raise UsageError(f"--sampler {self.sampler}", "no such sampler", nearest(self.sampler, SAMPLERS))
        if self.trials is None and self.sampler != "grid":
            raise UsageError(
                "daybreak sweep", "--trials is missing", "--trials 40, or --sampler grid for all of a grid"
            )
        if min(1 if self.trials is None else self.trials, self.seeds) < 1 or self.seed < 0:
            raise UsageError(
                "daybreak sweep", "--trials and --seeds are counts, and no seed is negative", "--trials 40"
            )
        if self.validate == 0:
            raise UsageError("--validate 0", "trials are evaluated on the validation part", "--validate 0.1")
        if self.budget is not None and self.epochs is not None:
            raise UsageError("--budget and --epochs", "both say how long a trial trains", "one of them")
        if self.budget is not None:
            check_budget(self.budget)

    def as_json(self) -> dict[str, Any]:
        """As plain values, from which `of` makes the same again."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if isinstance(self.recipe, Recipe):
            values["recipe"] = self.recipe.model_dump(mode="json", exclude_none=True)
        found: dict[str, Any] = to_jsonable_python(values)
        return found

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Asked":
        recipe = values["recipe"]
        whole = Recipe.model_validate(recipe) if isinstance(recipe, Mapping) else recipe
        return cls(**{**values, "recipe": whole})


@dataclass(frozen=True)
class Setting:
    """A sweep, ready to train: everything that its trials share.

    Attributes:
        dataset: with a validation part, which also stands in the place of the test part: no trial can look at that.
        base: the recipe that the space changes.
        size: how many trials are asked for.
    """

    asked: Asked
    dataset: Dataset
    base: Recipe
    space: Space
    size: int

    @cached_property
    def study(self) -> str:
        """The name under which processes meet in a storage: who is asked for the same gets the same. (How many trials
        are asked for, and by how many workers on which devices, is not part of it.)"""
        facts = {
            name: getattr(self.asked, name) for name in ("budget", "sampler", "prune", "seeds", "seed", "split_seed")
        }
        facts |= {"data": self.dataset.fingerprint, "validate": self.dataset.request.validate, "size": self.asked.size}
        facts |= {"recipe": self.base.model_dump(mode="json", exclude={"summary", "expected"})}
        facts |= {"space": to_jsonable_python(self.space.tables)}
        code = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.dataset.name}-{self.base.name}-{code}"

    @property
    def seeds(self) -> range:
        return range(self.asked.seed, self.asked.seed + self.asked.seeds)

    def options(self, seed: int) -> TrainOptions:
        """How a trial is trained."""
        return TrainOptions(
            seed=seed, budget=self.asked.budget, device=self.asked.device, checkpoint_every="never", report=False
        )

    def repeats(self, recipe: Path, balance: Balance) -> TrainOptions:
        """The training that repeats the best trial, with the test part.

        Args:
            balance: the trial's, which is said where a training left to itself would even classes out.
        """
        request = self.dataset.request
        is_said = balance == "none" and is_uneven(np.bincount(self.dataset.train.labels_N))
        return TrainOptions(
            data=request.data, recipe=str(recipe), seed=self.asked.seed, budget=self.asked.budget,
            balance="none" if is_said else "auto",
            validate=request.validate, split_seed=request.split_seed, size=self.asked.size, skip_bad=request.skip_bad,
        )  # fmt: skip


def settle(asked: Asked) -> Setting:
    """Open the data, choose the base recipe and read the space.

    Raises:
        UsageError: what is asked for makes no sense, or does not go together.
        DataError: the data cannot be had.
    """
    asked.check()
    pick_device(asked.device)
    recipe = asked.recipe
    if isinstance(recipe, str):
        recipe = get_recipe(recipe)
    if recipe is None:
        told = recipe_choice.for_photos(asked.data, train_options(size=asked.size, settings=dict(asked.settings or {})))
        recipe = get_recipe(told.recipe) if told and told.recipe else None
    dataset = _open(asked, recipe)
    base = recipe_choice.named_or_default(recipe, dataset, asked.epochs, asked.settings)
    base, _ = balance_for(base, dataset, TrainOptions())
    assert dataset.validation is not None
    space = read_space(asked.space, base)
    size = asked.trials or 0
    if asked.sampler == "grid":
        size = min(asked.trials or len(space.grid()), len(space.grid()))
    return Setting(asked, replace(dataset, test=dataset.validation), base, space, size)


def _open(asked: Asked, recipe: Recipe | None) -> Dataset:
    """The data with a validation part: its own, or a share of the training images."""
    size = asked.size or recipe_choice.size_for(asked.data, recipe, asked.settings)

    def opened(validate: float | None) -> Dataset:
        return open_dataset(
            asked.data, size=size, split_seed=asked.split_seed, skip_bad=asked.skip_bad, validate=validate
        )

    dataset = opened(asked.validate)
    return dataset if dataset.validation is not None else opened(HELD_OUT)
