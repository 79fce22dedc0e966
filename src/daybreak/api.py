"""What `import daybreak` offers, but for `bench`. The command line calls these functions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from daybreak import notebook
from daybreak.core.clock import Stopwatch, check_budget
from daybreak.core.config import Device, OnNonfinite, Recipe
from daybreak.core.device import pick_device, synchronizer
from daybreak.core.errors import StoppedError, UsageError
from daybreak.core.events import OnEvent
from daybreak.core.files import write_json, write_picture, write_text
from daybreak.core.lr_curve import FoundRate
from daybreak.core.signals import StopRequest
from daybreak.data import Dataset, check_strictly, open_dataset
from daybreak.evaluation.compare import Comparison
from daybreak.evaluation.compare import compare as compare_runs
from daybreak.explain.inspection import Inspection, inspect_net
from daybreak.models.registry import build_net
from daybreak.notebook import Gallery
from daybreak.recipes import get_recipe
from daybreak.report import anatomy, figures, write_comparison, write_report
from daybreak.run import Run
from daybreak.runs.datasets import run_dataset
from daybreak.runs.directory import RunDirectory, default_paths
from daybreak.training import recipe_choice
from daybreak.training.lr_finder import find_rate
from daybreak.training.state import Every
from daybreak.training.tracking import tracked
from daybreak.training.train import resume as resume_run
from daybreak.training.train import train as train_run

__all__ = ["Run", "compare", "find_lr", "inspect", "load", "open_dataset", "resume", "samples", "train"]

USUAL = {"device": "auto", "checkpoint_every": "1m"}  # what a command line need not say


def train(
    data: str | Path,
    *,
    recipe: str | Recipe | None = None,
    epochs: int | None = None,
    budget: float | None = None,
    target: float | None = None,
    dawn_rule: bool = False,
    lr: float | Literal["auto"] | None = None,
    seed: int = 0,
    device: Device = "auto",
    size: int | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    split_seed: int = 0,
    skip_bad: bool = False,
    strict: bool = False,
    on_nonfinite: OnNonfinite = "stop",
    deterministic: bool = False,
    checkpoint_every: str = "1m",
    track: Sequence[str] = (),
    report: bool = True,
    on_event: OnEvent = lambda event: None,
) -> Run:
    """Train a classifier and write its run directory, report included.

    Args:
        data: a name (`cifar10`, `digits`, …) or a path: folder of class folders, archive, .npz.
        recipe: name or object. By default what fits the budget or promises the target; with neither `sprint`, or
            `small` below 10,000 training images.
        epochs: instead of the recipe's.
        budget: seconds of training, instead of epochs: one cycle over wall-clock time.
        target: test accuracy in [0, 1] that the run should reach; the summary says whether it did.
        dawn_rule: stop at the first epoch whose test accuracy reaches the target: DAWNBench's rule, under which the
            test images choose when to stop.
        lr: the peak of the cycle instead of the recipe's; `auto` finds it by a range test, on the run's clock.
        size: side in px at which images are decoded and seen by the net; see `open_dataset`.
        settings: dotted recipe keys to override, e.g. `{"schedule.max_lr": 0.1}`.
        out: the run directory; by default a new one below `runs/`.
        split_seed: of the stratified split, for data without a test part.
        skip_bad: leave out images that cannot be used, and count them; by default they are an error.
        strict: refuse data with the same pixels in both parts or under two labels.
        on_nonfinite: what a loss or gradient that is not finite does: `stop` the run with the weights before that
            step, or `skip` the step; the third stops.
        deterministic: the same bits each time on the same machine, at a price on CUDA.
        checkpoint_every: seconds or steps between checkpoints, such as `1m` or `40steps`, or `never`.
        track: `tensorboard` and `mlflow` get the metrics too, where they are installed.
        on_event: called with progress; see docs/run-directory.md for the rows.

    Raises:
        DaybreakError: with the exit code the command line would return; nothing that existed is changed.
    """
    check_options(epochs, budget, target, dawn_rule, min(seed, split_seed))
    every = Every.parse(checkpoint_every)
    dataset = open_dataset(data, size=size, split_seed=split_seed, skip_bad=skip_bad)
    if strict:
        check_strictly(dataset)
    name = recipe.name if isinstance(recipe, Recipe) else recipe
    options = {"recipe": name, "epochs": epochs, "budget": budget, "target": target, "dawn_rule": dawn_rule}
    options |= {"lr": lr, "size": size, "device": device, "split_seed": split_seed or None, "seed": seed}
    options |= {"skip_bad": skip_bad, "strict": strict, "deterministic": deterministic}
    options |= {"checkpoint_every": checkpoint_every, "on_nonfinite": None if on_nonfinite == "stop" else on_nonfinite}
    with tracked(track, on_event) as send:
        watch = Stopwatch(synchronizer(pick_device(device)))
        chosen = recipe_choice.recipe_for(
            dataset, recipe, epochs=epochs, budget=budget, target=target, lr=lr, seed=seed, settings=settings,
            device=device, deterministic=deterministic, watch=watch, on_event=send,
        )  # fmt: skip
        directory = train_run(
            chosen,
            dataset,
            Path(out) if out else default_paths(dataset.name, chosen.name, seed),
            seed=seed,
            device=device,
            budget=budget,
            target=target,
            dawn_rule=dawn_rule,
            on_nonfinite=on_nonfinite,
            deterministic=deterministic,
            every=every,
            watch=watch,
            command=command_line(data, options, settings),
            on_event=send,
        )
    return _reported(directory, report, device)


def resume(
    run: str | Path | Run,
    *,
    epochs: int | None = None,
    budget: float | None = None,
    data: str | Path | None = None,
    device: Device = "auto",
    on_nonfinite: OnNonfinite | None = None,
    checkpoint_every: str = "1m",
    track: Sequence[str] = (),
    report: bool = True,
    on_event: OnEvent = lambda event: None,
) -> Run:
    """Go on with a run that was stopped, or make a finished one longer.

    Args:
        epochs: of the whole run, above what it had: its cycle is then that of so many epochs, entered where the steps
            so far put it. `budget` does the same for a run over wall-clock time.
        data: where the run's data is now, if it has moved.
        on_nonfinite: instead of what the run had.
        checkpoint_every: as for `train`.
        track: as for `train`.
        report: as for `train`.
        on_event: as for `train`.

    Raises:
        DaybreakError: with the exit code the command line would return; nothing that existed is changed.
    """
    directory = RunDirectory.open(run.path if isinstance(run, Run) else run)
    if device == "auto" and directory.config["hardware"].get("device") == "cpu":
        device = "cpu"  # it was trained there by choice or for want of another; on another its bits would differ
    check_options(None, budget, None, False, 0)
    every = Every.parse(checkpoint_every)
    options: dict[str, Any] = {"resume": directory.path, "epochs": epochs, "budget": budget, "device": device}
    options |= {"on_nonfinite": on_nonfinite, "checkpoint_every": checkpoint_every}
    with tracked(track, on_event) as send:
        directory = resume_run(
            directory.path,
            run_dataset(directory, data),
            epochs=epochs,
            budget=budget,
            device=device,
            on_nonfinite=on_nonfinite,
            every=every,
            command=command_line(data, options, None),
            on_event=send,
        )
    return _reported(directory, report, device, data)


def _reported(directory: RunDirectory, report: bool, device: Device, data: str | Path | None = None) -> Run:
    """The run, with its report where it is finished. A signal meanwhile leaves a finished run without a report."""
    if report and not directory.summary["interrupted"]:
        with StopRequest() as stop:
            stop.unless_stopped(lambda: write_report(directory, data=data, device=device))
        if stop.signal:
            raise StoppedError(stop.signal, f"trained, without a report; daybreak report {directory.path} writes it")
    return Run(directory)


def command_line(data: str | Path | None, options: Mapping[str, Any], settings: Mapping[str, Any] | None) -> list[str]:
    """The command that repeats a training, with what differs from the defaults. (A recipe of one's own has only its
    name in it; config.json holds it whole.)"""
    words = ["daybreak", "train", *([] if data is None else [str(data)])]
    for option, value in options.items():
        if value is not None and value is not False and value != USUAL.get(option):
            words += [f"--{option.replace('_', '-')}", *([] if value is True else [str(value)])]
    pairs = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in (settings or {}).items()]
    return [*words, *(text for pair in pairs for text in ("--set", pair))]


def check_options(epochs: int | None, budget: float | None, target: float | None, dawn_rule: bool, seed: int) -> None:
    """Refuse what cannot be meant before anything is opened."""
    if budget is not None:
        check_budget(budget)
    if budget is not None and epochs is not None:
        raise UsageError("--budget and --epochs", "both say how long to train", "one of them")
    if target is not None and not 0 < target <= 1:
        raise UsageError(f"--target {target}", "not an accuracy", "a number such as 0.94")
    if dawn_rule and target is None:
        raise UsageError("--dawn-rule", "there is no target to stop at", "--target 0.94 with it")
    if seed < 0:
        raise UsageError(f"seed {seed}", "negative", "0 or more")


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
) -> FoundRate:
    """The learning-rate range test of a recipe on a data set; no state is left behind.

    Args:
        seeds: how many tests, from seed 0 on.
        steps: of a test, at most.
        lowest: the rate to begin with; by default what is usual for the recipe's optimizer.
        highest: the rate to end with.
        settings: dotted recipe keys to override.
        out: a folder for `lr-find.json`, `lr-find.svg` and `lr-find.png`.
    """
    dataset = open_dataset(data)
    chosen = recipe_choice.named_or_default(recipe, dataset, None, settings)
    found = find_rate(chosen, dataset, seeds=range(seeds), steps=steps, lowest=lowest, highest=highest, device=device)
    if out is not None:
        folder, figure = Path(out), figures.rates(found)
        write_json(folder / "lr-find.json", found.as_json())
        write_text(folder / "lr-find.svg", figures.svg(figure))
        write_picture(folder / "lr-find.png", figures.png(figure, 150))
    return found


def load(path: str | Path) -> Run:
    """A run made earlier, here or on another machine."""
    return Run(RunDirectory.open(path))


def samples(data: str | Path | Dataset, recipe: str | Recipe | None = None, n: int = 12, seed: int = 0) -> Gallery:
    """Training images as pictures, for a notebook: a few of every class, or with a recipe as its augmentation shows
    them to the net."""
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
        found = inspect_net(str(what), build_net(config, 10, 3), 3, image_size or 32)
    if picture is not None:
        write_picture(picture, figures.png(anatomy.draw(found), 130))
    return found
