"""What the commands share: the app, common options, and how a result is printed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperOption

from daybreak.core.config import Compile, Device
from daybreak.core.errors import UsageError
from daybreak.core.options import DATA as DATA_PANEL
from daybreak.core.options import OUTPUT

TRAIN, LOOK, USE, ABOUT = "Train", "Look at a run", "Use a run", "Data, nets and this machine"  # groups of commands

# What a value is called where an option does not say.
VALUES: dict[Any, str] = {int: "N", float: "NUMBER", str: "NAME", list[str]: "NAME", Path: "PATH"}
Verb = TypeVar("Verb", bound=Callable[..., Any])


class _Command(TyperCommand):
    """A command that lists its --help with the other options about output, and calls values what a person would."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = [*super().get_params(ctx)]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
            elif parameter.metavar is None:
                parameter.metavar = VALUES.get(parameter.type_descriptor.annotation)
        return parameters

    def get_help_option(self, ctx: Any) -> TyperOption | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = OUTPUT
        return option


class _App(typer.Typer):
    def command(self, *arguments: Any, **more: Any) -> Callable[[Verb], Verb]:
        return super().command(*arguments, **{"cls": _Command} | more)


app = _App(
    name="daybreak",
    help="Train image classifiers in the least time your hardware allows, and see why they make their mistakes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
stderr = Console(stderr=True, soft_wrap=True)

Json = Annotated[
    bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print one JSON object on stdout, and nothing else.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=OUTPUT, help="Show no progress.")]
Debug = Annotated[bool, typer.Option("--debug", rich_help_panel=OUTPUT, help="Show a traceback on errors.")]
DATA_HELP = "cifar10, cifar100, mnist, fashion-mnist, digits, or a folder, archive, table, .npz or URL."


def data_names() -> list[str]:
    """What a shell offers for DATA besides files."""
    from daybreak.data.sources import NAMES

    return list(NAMES)


def recipe_names() -> list[str]:
    """What a shell offers for a recipe."""
    from daybreak.recipes import RECIPES

    return list(RECIPES)


Data = Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP, autocompletion=data_names)]
MovedData = Annotated[
    str | None,
    typer.Option("--data", rich_help_panel=DATA_PANEL, help="New place of the run's data, if it has moved."),
]
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
DEVICES, COMPILE = get_args(Device), get_args(Compile)


def announce(work: str, quiet: bool = False) -> None:
    """Tell whoever is watching what the command is doing, before anything that takes seconds is even imported. In a log
    an error stays the only line."""
    if stderr.is_terminal and not quiet:
        stderr.print(f"{work} …", highlight=False, markup=False)


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
