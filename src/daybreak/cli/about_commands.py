"""Verbs about what there is to train with: recipes, nets, data, and the machine."""

from pathlib import Path
from typing import Annotated

import typer

from daybreak import __version__
from daybreak.cli import output
from daybreak.cli.options import (
    ABOUT,
    Data,
    Debug,
    Json,
    Quiet,
    Settings,
    Size,
    SkipBad,
    SplitSeed,
    Strict,
    announce,
    app,
    print_result,
    recipe_names,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"daybreak {__version__}")
        raise typer.Exit


@app.callback()
def daybreak(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Options of the program itself; its help text is the app's."""


@app.command(rich_help_panel=ABOUT, epilog="Example: daybreak recipes sprint")
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="Print this recipe whole, as TOML: a file for --recipe.", autocompletion=recipe_names),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The recipes, with what they reached when they were last measured."""
    from daybreak.recipes import all_recipes, get_recipe, to_toml

    if name:
        chosen = get_recipe(name)
        print_result(chosen.model_dump(mode="json"), as_json, lambda: print(to_toml(chosen), end=""))
        return
    found = all_recipes().values()
    listed = {"recipes": [recipe.model_dump(mode="json") for recipe in found]}
    print_result(listed, as_json, lambda: output.recipes(found))


@app.command(rich_help_panel=ABOUT, epilog="Example: daybreak inspect page --picture page.png")
def inspect(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|NET|RUN", help="Such as page, vgg or timm:resnet18.", autocompletion=recipe_names
        ),
    ],
    size: Size = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw the net and what its stages see, as PNG.")
    ] = None,
    settings: Settings = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The layers of a net: shape, parameters, multiply-adds, memory, receptive field, effective stride."""
    from daybreak import api
    from daybreak.core.config import parse_settings

    found = api.inspect(what, size, settings=parse_settings(settings or []), picture=picture)
    facts = found.as_json() | ({"picture": str(picture)} if picture else {})
    print_result(facts, as_json, lambda: output.inspection(found, picture))


@app.command(rich_help_panel=ABOUT, epilog="Example: daybreak data my-photos/ --sheet sheet.png")
def data(
    data: Data,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a contact sheet of every class as PNG.")
    ] = None,
    size: Size = None,
    split_seed: SplitSeed = 0,
    skip_bad: SkipBad = False,
    strict: Strict = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all of the decoded copy, however large: is it what was written?")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Describe and check a data set: counts, sizes, mean and deviation, duplicates across splits, and what to do."""
    announce(f"opening data {data}", quiet)
    from daybreak.core.options import train_options
    from daybreak.data import check_strictly, contact_sheet, describe, open_dataset
    from daybreak.training.recipe_choice import for_photos, size_for

    told = for_photos(data, train_options(data=data, size=size))
    size = size or size_for(data, told.recipe if told else None)  # what `train` will look for in the cache
    opened = open_dataset(data, size=size, split_seed=split_seed, skip_bad=skip_bad, verify=verify)
    if strict:
        check_strictly(opened)
    facts = describe(opened) | ({"sheet": str(contact_sheet(opened, sheet))} if sheet else {})
    if told:
        facts["advice"].append(told.why)
    print_result(facts, as_json, lambda: output.data_set(facts, opened.notes))


@app.command(rich_help_panel=ABOUT, epilog="Example: daybreak doctor")
def doctor(as_json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Describe this machine: what daybreak would use and why, and any problems. Takes a few seconds."""
    announce("looking at this machine", quiet)
    from daybreak.doctor import doctor as diagnose

    found = diagnose()
    print_result(found.as_json(), as_json, lambda: output.diagnosis(found))
