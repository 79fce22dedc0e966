"""The options of `daybreak train`, made from `TrainOptions`: names, defaults and help stand there and nowhere else."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from daybreak.core.options import OPTIONS, cli_of, flag_of


def takes_train_options(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb that takes every train option besides its own; it is called with those that stand on the command line."""
    own = [p for p in inspect.signature(verb).parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [_parameter(name) for name in OPTIONS]

    @wraps(verb)
    def run(**values: Any) -> None:
        given = {name: value for name, value in values.items() if name not in OPTIONS or value not in (None, [])}
        verb(**given)

    parameters = [*options, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _parameter(name: str) -> inspect.Parameter:
    """An option as typer wants it; its value stays text, which `TrainOptions` reads."""
    field, cli = OPTIONS[name], cli_of(name)
    default = field.get_default(call_default_factory=True)
    text = " ".join((field.description or "").split())
    is_worth_showing = not isinstance(default, bool | tuple | dict) and (default == 0 or bool(default))
    text += f" Default: {default}." if is_worth_showing else ""
    annotation: Any
    if name == "data":
        annotation = Annotated[str | None, typer.Argument(metavar=cli.metavar, help=text)]
    elif isinstance(default, bool):
        flags = f"{flag_of(name)}/{flag_of(name).replace('--', '--no-', 1)}" if default else flag_of(name)
        annotation = Annotated[
            bool | None, typer.Option(flags, help=text, show_default=False, rich_help_panel=cli.panel)
        ]
    elif isinstance(default, tuple | dict):
        annotation = Annotated[
            list[str] | None, typer.Option(flag_of(name), metavar=cli.metavar, help=text, rich_help_panel=cli.panel)
        ]
    else:
        common: dict[str, Any] = {"help": text, "show_default": False, "rich_help_panel": cli.panel}
        annotation = Annotated[str | None, typer.Option(flag_of(name), metavar=cli.metavar or "N", **common)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
