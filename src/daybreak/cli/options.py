"""What the commands share: the app, common options, and how a result is printed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from daybreak.core.errors import UsageError

app = typer.Typer(
    name="daybreak",
    help="Train image classifiers in the least time your hardware allows, and see why they are wrong.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
stderr = Console(stderr=True, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.")]
DATA_HELP = "cifar10, cifar100, mnist, fashion-mnist, digits, or a folder, archive or .npz."


def data_names() -> list[str]:
    """What a shell offers for DATA besides files."""
    from daybreak.data.sources import NAMES

    return list(NAMES)


def recipe_names() -> list[str]:
    """What a shell offers for a recipe."""
    from daybreak.recipes import RECIPES

    return list(RECIPES)


Data = Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP, autocompletion=data_names)]
MovedData = Annotated[str | None, typer.Option("--data", help="New place of the run's data, if it has moved.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
NetOption = Annotated[
    str | None,
    typer.Option("--net", metavar="MODULE:FACTORY", help="What made the run's net, if it is a net of your own."),
]
SplitSeed = Annotated[int, typer.Option(min=0, help="Seed of the test split, for data without a test part.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read, and count them.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse data with identical images in two parts or with two labels.")
]
Size = Annotated[
    int | None, typer.Option(metavar="PX", min=8, help="Side length of the net's images; the data's own by default.")
]
TtaOption = Annotated[
    str | None, typer.Option("--tta", metavar="none|flip|full", help="Test-time augmentation; the recipe's by default.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe; repeatable.")
]
DEVICES = ("auto", "cpu", "cuda", "mps")
COMPILE = ("auto", "always", "never")


def print_result(values: dict[str, Any], as_json: bool, show: Callable[[], object]) -> None:
    """Print one JSON object, or call `show`, which prints for a person."""
    if as_json:
        print(json.dumps(values))
    else:
        show()


def choice(option: str, value: str, allowed: tuple[str, ...]) -> Any:
    """The value, if it is allowed.

    Raises:
        UsageError: it is not; lists the allowed values.
    """
    if value not in allowed:
        raise UsageError(f"{option} {value}", "not a valid value", f"one of {', '.join(allowed)}")
    return value


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
