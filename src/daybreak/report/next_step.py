"""What to do next with a run: one command that can be run as it stands, and why."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from daybreak.core.errors import DataError, one_line
from daybreak.core.extras import install_command
from daybreak.core.options import TrainOptions, lengthened
from daybreak.data.files import PHOTO_SIDE
from daybreak.data.sources import photo_side
from daybreak.report.verdict import Finding
from daybreak.runs.directory import RunDirectory

LONGER = 2  # times as long
WIDER = 2  # times as many channels


@dataclass(frozen=True)
class Step:
    why: str
    command: str


def next_step(run: RunDirectory, fit: Finding | None, *, leaks: bool, suspects: int) -> Step:
    """The step that promises most: the data first, then the training, then a closer look.

    Args:
        fit: the finding about the curves.
        leaks: whether test images that are in the training part, too, make the accuracy look better than it is.
        suspects: labels shown that look wrong.
    """
    recipe, options, fault = run.recipe, _options(run), fit.fault if fit else None
    if leaks:
        which = _said(["daybreak", "data", options.data])
        return Step("See which images are in both parts, and keep them in one", which)
    has_enough = options.budget is not None and not recipe.stretch  # it ended of its own accord
    if fault == "undertrained" and not has_enough:
        return Step(f"Train {LONGER} times as long", _said(_longer(run, options)))
    if fault and not recipe.features and _are_photos(options.data):
        started = TrainOptions(data=options.data, recipe="finetune", seed=options.seed, split_seed=options.split_seed)
        return Step(f"Start from a net that knows photos ({install_command('lite')})", _said(started.command()))
    if fault == "overfitted" and not recipe.augment.cutout and not recipe.features and "options" in run.config:
        hidden = replace(options, settings={**options.settings, "augment.cutout": 8})
        return Step("Hide a part of each training image", _said(hidden.command()))
    width = getattr(recipe.model, "width", None)
    if fault == "underfitted" and width and "options" in run.config:
        wider = replace(options, settings={**options.settings, "model.width": WIDER * width})
        return Step(f"Train a net {WIDER} times as wide", _said(wider.command()))
    if suspects:
        return Step("Check the training labels as well", _said(["daybreak", "suspects", run.path, "--folds", "4"]))
    closer = ["daybreak", "explain", run.path, "--class", "predicted", "--against", "true"]
    return Step("See what speaks for the wrong class in the worst mistakes", _said(closer))


def _are_photos(data: str | None) -> bool:
    """Whether that is what the data is before it is decoded, if it still is where it was."""
    if data is None or not Path(data).exists():
        return False
    with suppress(DataError):
        return (photo_side(data) or 0) >= PHOTO_SIDE
    return False


def _options(run: RunDirectory) -> TrainOptions:
    """The run's options, with the data and the recipe that it took where none was named."""
    options = run.options
    data, recipe = options.data or run.config["data"]["request"]["data"], options.recipe or run.recipe.name
    return replace(options, data=data, recipe=recipe)


def _longer(run: RunDirectory, options: TrainOptions) -> Sequence[object]:
    if options.budget is not None:
        length: dict[str, Any] = {"epochs": None, "budget": round(LONGER * options.budget, 1)}
    else:
        length = {"epochs": max(1, round(LONGER * run.summary["epochs"])), "budget": None}
    if "options" in run.config:
        return lengthened(options, **length).command()
    flag = "epochs" if length["epochs"] else "budget"
    # The recipe and the settings of a run of 0.1.0 stand only in its command.
    return [*_without(run.config["command"], "--epochs", "--budget"), f"--{flag}", length[flag]]


def _without(command: Sequence[str], *flags: str) -> list[str]:
    """The words without these flags and their values."""
    left_out = {at + n for at, word in enumerate(command) if word in flags for n in (0, 1)}
    return [word for at, word in enumerate(command) if at not in left_out]


def _said(words: Sequence[object]) -> str:
    return one_line(shlex.join(map(str, words)))
