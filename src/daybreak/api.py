"""What `import daybreak` offers, but for `bench` and `sweep`. The command line calls these functions."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from daybreak import notebook
from daybreak.core.clock import Stopwatch
from daybreak.core.config import Device, Recipe
from daybreak.core.device import pick_device, synchronizer
from daybreak.core.errors import StoppedError, UsageError
from daybreak.core.events import OnEvent
from daybreak.core.files import write_json, write_picture, write_text
from daybreak.core.lr_curve import LrFindResult
from daybreak.core.nets import is_from_library
from daybreak.core.options import TrainOptions, resumed_options, takes_options, train_options
from daybreak.core.plugins import Factory, imported, is_path
from daybreak.core.sections import validate
from daybreak.core.signals import StopRequest
from daybreak.data import Dataset, check_strictly, open_dataset
from daybreak.evaluation.compare import Comparison
from daybreak.evaluation.compare import compare as compare_runs
from daybreak.explain.inspection import Inspection, inspect_net
from daybreak.models.registry import build_net
from daybreak.notebook import Gallery
from daybreak.recipes import get_recipe
from daybreak.report import anatomy, figures
from daybreak.report.comparison_page import write_comparison
from daybreak.report.report import write_report
from daybreak.run import Run
from daybreak.runs.datasets import run_dataset
from daybreak.runs.directory import RunDirectory, default_paths
from daybreak.training import recipe_choice
from daybreak.training.callbacks import Callback
from daybreak.training.expectation import about_target, with_expectation
from daybreak.training.extensions import BatchAugment, Extensions, Given, Loss, check_given
from daybreak.training.lr_finder import lr_find
from daybreak.training.onlooker import begun
from daybreak.training.team import Team, joined
from daybreak.training.tracking import tracked
from daybreak.training.train import resume as resume_run
from daybreak.training.train import train as train_run

__all__ = ["Run", "compare", "find_lr", "inspect", "load", "open_dataset", "resume", "samples", "train"]


@takes_options
def train(
    data: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    net: str | nn.Module | Factory | None = None,
    loss: str | Loss | None = None,
    augment: str | BatchAugment | None = None,
    callbacks: Sequence[str | Callback] = (),
    on_event: OnEvent = lambda event: None,
    **options: Any,
) -> Run:
    """Train a classifier and write its run directory, report included.

    Args:
        data: a name (`cifar10`, `digits`, …) or a path: folder of class folders, archive, .npz.
        recipe: a name, a file or an object.
        net: a name, `package.module:factory`, a class or function of (num_classes, in_channels), or a module. A module
            is copied: training leaves yours as it is.
        loss: (logits_BK, labels_B) to the mean over the batch, instead of the recipe's loss.
        augment: (images_BCHW, labels_B, generator) to images and labels, after the recipe's augmentation.
        callbacks: see `daybreak.training.callbacks`.
        on_event: called with progress; see docs/run-directory.md for the rows.
        options: see `TrainOptions`.

    Raises:
        DaybreakError: with the exit code the command line would return; nothing that existed is changed.
    """
    given = Given(net, loss, augment, callbacks)
    name = recipe.name if isinstance(recipe, Recipe) else recipe
    chosen = train_options(data=data, recipe=name, **given.names(), **options)
    with joined(chosen.device) as team:
        run = begun(chosen, team)
        if run is not None:
            return _resume(run, given, {}, team, on_event)
        return _train(data, recipe, given, chosen, team, on_event)


def _train(
    data: str | Path,
    recipe: str | Path | Recipe | None,
    given: Given,
    chosen: TrainOptions,
    team: Team,
    on_event: OnEvent,
) -> Run:
    extensions = given.extensions()
    told = recipe_choice.for_photos(data, chosen) if recipe is None else None
    if told and told.recipe:
        recipe, chosen = told.recipe, replace(chosen, recipe=told.recipe)  # so that its command repeats it
    dataset = open_dataset(
        data,
        size=chosen.size or recipe_choice.size_for(data, recipe, chosen.settings),
        split_seed=chosen.split_seed,
        skip_bad=chosen.skip_bad,
        validate=chosen.validate,
    )
    if chosen.strict:
        check_strictly(dataset)
    with _told(chosen, team, on_event) as send:
        if told:
            send(told.as_event())
        watch = Stopwatch(synchronizer(pick_device(chosen.device)))
        named = recipe if isinstance(recipe, Recipe) or recipe is None else str(recipe)
        meant = _recipe(dataset, named, chosen, extensions, watch, team, send)
        if why := about_target(chosen, dataset):
            send({"event": "note", "why": why})
        send = with_expectation(chosen, meant, dataset, send)
        out = Path(chosen.out) if chosen.out else default_paths(dataset.name, meant.name, chosen.seed)
        directory = train_run(meant, dataset, out, chosen, extensions=extensions, watch=watch, team=team, on_event=send)
    return _reported(directory, chosen, team, on_event=on_event)


def _told(options: TrainOptions, team: Team, on_event: OnEvent) -> AbstractContextManager[OnEvent]:
    """Where events go: those of the first process, which are those of all, to whoever looks on and keeps them."""
    return tracked(options.track, on_event) if team.is_first else nullcontext(lambda event: None)


def _recipe(
    dataset: Dataset,
    named: str | Recipe | None,
    options: TrainOptions,
    extensions: Extensions,
    watch: Stopwatch,
    team: Team,
    on_event: OnEvent,
) -> Recipe:
    """The recipe that a training means, chosen by the first process for all: it may depend on what is timed."""
    if team.size == 1:
        return recipe_choice.recipe_for(dataset, named, options, extensions, watch, on_event)
    # One process times steps alone, and so many will take them together.
    shared = replace(options, budget=options.budget and options.budget * team.size)

    def choose() -> dict[str, Any]:
        found = recipe_choice.recipe_for(dataset, named, shared, extensions, watch, on_event)
        return found.model_dump(mode="json")

    return validate(Recipe, team.say(choose), "recipe")


@takes_options
def resume(
    run: str | Path | Run,
    *,
    net: str | nn.Module | Factory | None = None,
    loss: str | Loss | None = None,
    augment: str | BatchAugment | None = None,
    callbacks: Sequence[str | Callback] = (),
    on_event: OnEvent = lambda event: None,
    **options: Any,
) -> Run:
    """Go on with a run that was stopped, or make a finished one longer.

    A finished one that is not to be longer stays as it is, and gets the report that a kill may have prevented.

    A longer `epochs` or `budget` is that of the whole run: its cycle is then that of so many epochs, entered where the
    steps so far put it. A net, loss, augmentation or callbacks of your own have to be given again.

    Args:
        options: those that may be given anew; for the others the run has its own.

    Raises:
        DaybreakError: with the exit code the command line would return; nothing that existed is changed.
    """
    path, known = (run.path, run.directory.net_factory) if isinstance(run, Run) else (run, None)
    given = Given(known if net is None else net, loss, augment, callbacks)
    with joined(options.get("device") or "auto") as team:
        return _resume(path, given, options, team, on_event)


def _resume(path: str | Path, given: Given, options: Mapping[str, Any], team: Team, on_event: OnEvent) -> Run:
    extensions = given.extensions()
    directory = RunDirectory.open(path, extensions.net)
    own, changed = directory.options, {**options, **given.names()}
    check_given(own, given, directory.path)
    length = train_options(**{name: options[name] for name in ("epochs", "budget") if options.get(name) is not None})
    kept = {name: value for name, value in changed.items() if name not in ("epochs", "budget") and value is not None}
    if kept.get("device", "auto") == "auto" and directory.config["hardware"].get("device") == "cpu":
        # It was trained there by choice or for want of another; on another device its bits would differ.
        kept["device"] = "cpu"
    chosen = resumed_options(own, **kept)
    data = kept.get("data")
    with _told(chosen, team, on_event) as send:
        directory = resume_run(
            directory.path,
            run_dataset(directory, data),
            chosen,
            epochs=length.epochs,
            budget=length.budget,
            extensions=extensions,
            command=[*train_options(**changed).command(), "--resume", str(directory.path)],
            team=team,
            on_event=send,
        )
    return _reported(directory, chosen, team, data, on_event)


def _reported(
    directory: RunDirectory,
    options: TrainOptions,
    team: Team,
    data: str | Path | None = None,
    on_event: OnEvent = lambda event: None,
) -> Run:
    """The run, with its report where it is finished. A signal meanwhile leaves a finished run without a report."""
    if not team.is_first:
        return Run(RunDirectory.open(directory.path, directory.net_factory))
    has_report = (directory.path / "report.html").exists()  # of a run that was finished before
    if options.report and not has_report and not directory.summary["interrupted"]:
        on_event({"event": "phase", "what": "writing the report"})
        with StopRequest() as stop:
            stop.unless_stopped(lambda: write_report(directory, data=data, device=options.device))
        if stop.signal:
            raise StoppedError(stop.signal, f"trained, without a report; daybreak report {directory.path} writes it")
    return Run(directory)


def find_lr(
    data: str | Path,
    recipe: str | Recipe | None = None,
    *,
    seeds: int = 3,
    steps: int = 100,
    lowest: float | None = None,
    highest: float | None = None,
    device: Device = "auto",
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    on_event: OnEvent = lambda event: None,
) -> LrFindResult:
    """The learning-rate range test of a recipe on a data set; no state is left behind.

    Args:
        seeds: how many tests, from seed 0 on.
        steps: of a test, at most.
        lowest: the rate to begin with; by default what is usual for the recipe's optimizer.
        highest: the rate to end with.
        settings: dotted recipe keys to override.
        out: a folder for `lr-find.json`, `lr-find.svg` and `lr-find.png`.
        on_event: called with progress; see `daybreak.training.lr_finder.lr_find`.

    Raises:
        UsageError: recipe, settings or range make no sense, or the loss diverges within ten steps.
        DataError: the data cannot be had.
        StorageError: `out` cannot be written.
    """
    told = recipe_choice.for_photos(data, TrainOptions(settings=dict(settings or {}))) if recipe is None else None
    recipe = told.recipe if told else recipe
    dataset = open_dataset(data, size=recipe_choice.size_for(data, recipe, settings))
    chosen = recipe_choice.named_or_default(recipe, dataset, None, settings)
    found = lr_find(
        chosen, dataset, seeds=range(seeds), steps=steps, lowest=lowest, highest=highest, device=device,
        on_event=on_event,
    )  # fmt: skip
    if out is not None:
        folder, figure = Path(out), figures.rates(found)
        write_json(folder / "lr-find.json", found.as_json())
        write_text(folder / "lr-find.svg", figures.svg(figure))
        write_picture(folder / "lr-find.png", figures.png(figure, 150))
    return found


def load(path: str | Path, net: str | nn.Module | Factory | None = None) -> Run:
    """A run made earlier, here or on another machine.

    Args:
        net: what made the run's net, where that is neither daybreak's nor an installed package's: nothing that a run
            directory names is imported unless you name it too.

    Raises:
        RunError: there is no run at this path, or it is damaged.
        UsageError: `net` cannot be imported.
    """
    return Run(RunDirectory.open(path, Given(net).extensions().net))


def samples(data: str | Path | Dataset, recipe: str | Recipe | None = None, n: int = 12, seed: int = 0) -> Gallery:
    """Training images as pictures, for a notebook: a few of every class, or with a recipe as its augmentation shows
    them to the net.

    Raises:
        DataError: the data cannot be had.
        UsageError: there is no such recipe.
    """
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    if recipe is None:
        return notebook.of_dataset(dataset)
    return notebook.of_augmented(dataset, get_recipe(recipe) if isinstance(recipe, str) else recipe, n, seed)


def compare(*runs: "Run | str | Path", out: str | Path | None = None) -> Comparison:
    """Two runs or more side by side: what differs, what each gets right alone, and whether that is chance.

    Args:
        out: also write the comparison there, as one HTML file.
    """
    found = compare_runs([run.directory if isinstance(run, Run) else RunDirectory.open(run) for run in runs])
    if out is not None:
        write_comparison(found, out)
    return found


def inspect(
    what: str | Path,
    image_size: int | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    picture: str | Path | None = None,
) -> Inspection:
    """A net taken apart: that of a recipe or of a run, or one by its name (`vgg`, `timm:resnet18`).

    Args:
        image_size: px; by default 32, or what the run's net sees.
        settings: dotted recipe keys to override, e.g. `{"model.width": 0.5}`.
        picture: also draw the net there, as PNG.
    """
    if (Path(what) / "config.json").is_file():
        if settings:
            raise UsageError("--set", "a run's net is as it was trained", "a recipe or a net, to change it")
        directory = RunDirectory.open(what)
        card, net = directory.card, directory.classifier("cpu").net
        found = inspect_net(card.net.name, net, card.decode.channels, image_size or card.size)
    else:
        config = recipe_choice.net_named(str(what), settings)
        factory = imported(str(what), "inspect") if is_path(str(what)) and not is_from_library(str(what)) else None
        found = inspect_net(str(what), build_net(config, 10, 3, factory), 3, image_size or 32)
    if picture is not None:
        write_picture(picture, figures.png(anatomy.draw(found), 130))
    return found
