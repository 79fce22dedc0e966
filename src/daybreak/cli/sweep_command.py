"""`daybreak sweep`: the best settings of a recipe, by many trainings."""

from pathlib import Path
from typing import Annotated

import typer

from daybreak.cli import output
from daybreak.cli.options import (
    DEVICES,
    TRAIN,
    Data,
    Debug,
    Json,
    Quiet,
    Settings,
    Size,
    SkipBad,
    SplitSeed,
    app,
    choice,
    print_result,
    recipe_names,
    stderr,
)

MANY = "Many processes"


@app.command(rich_help_panel=TRAIN, epilog="Example: daybreak sweep digits --space space.toml --trials 40 --workers 2")
def sweep(
    data: Data,
    space: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="TOML with a table a key: low, high and, if wanted, log or step; or choices."
        ),
    ],
    trials: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="How many results; by default all of a grid.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="What is changed; by default what suits the data.", autocompletion=recipe_names
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of a trial, instead of the recipe's.")] = None,
    budget: Annotated[str | None, typer.Option(metavar="TIME", help="Train a trial for this long, e.g. 2m.")] = None,
    settings: Settings = None,
    sampler: Annotated[
        str,
        typer.Option(metavar="tpe|cmaes|random|grid", help="What proposes settings; grid: all combinations, in order."),
    ] = "tpe",
    prune: Annotated[
        bool, typer.Option("--prune/--no-prune", help="End trials early that have no prospects.", show_default=False)
    ] = True,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each trial; their mean counts.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The first seed of every trial's training, and the sampler's.")] = 0,
    validate: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Training images to hold out; 0.1 where the data has no validation part."),
    ] = None,
    split_seed: SplitSeed = 0,
    size: Size = None,
    skip_bad: SkipBad = False,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps")] = "auto",
    workers: Annotated[
        int, typer.Option(min=1, rich_help_panel=MANY, help="Processes on this machine; they share its cores.")
    ] = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL",
            envvar="DAYBREAK_STORAGE",
            rich_help_panel=MANY,
            help="Where trials are kept, to share them: a file on a shared folder, postgresql://… or redis://…; by "
            "default a file in the result's folder.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The result's folder; by default runs/sweep-… after its study.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search recipe keys for the best accuracy on the validation part. The same command again goes on."""
    from daybreak.cli.progress_bar import TrainingProgress
    from daybreak.core.clock import parse_seconds
    from daybreak.core.config import parse_settings
    from daybreak.sweeping import sweep as sweeping

    with TrainingProgress(stderr, quiet) as on_event:
        found = sweeping.sweep(
            data, space, trials, recipe=recipe, epochs=epochs, sampler=sampler, prune=prune, seeds=seeds, seed=seed,
            budget=None if budget is None else parse_seconds(budget, "--budget"),
            settings=parse_settings(settings or []), validate=validate, split_seed=split_seed, size=size,
            skip_bad=skip_bad, device=choice("--device", device, DEVICES), workers=workers, storage=storage, out=out,
            on_event=on_event,
        )  # fmt: skip
    print_result(found, as_json, lambda: output.sweep(found))
