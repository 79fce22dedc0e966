"""What the site says and no page: a page for every command, from the parser, and blocks of the README."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from typer import Context
from typer.core import TyperArgument, TyperCommand
from typer.main import get_command

from daybreak.cli import app

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)]+)\)")
BLOCK = re.compile(r"<!-- readme: (\w+) -->")
MARKUP = re.compile(r"\[/?bold\]")
NO_CONTEXT = Context(get_command(app))  # of which a parameter only asks how names are written


def on_config(config: Any) -> Any:
    """Called by mkdocs first: every command gets its place in the navigation."""
    (reference,) = (entry["Reference"] for entry in config["nav"] if "Reference" in entry)
    pages = [{f"daybreak {name}": page_of(name)} for name in commands()]
    if {"Commands": "commands.md"} in reference:  # else `mkdocs serve` calls a second time
        at = reference.index({"Commands": "commands.md"})
        reference[at] = {"Commands": ["commands.md", *pages]}
    return config


def on_files(files: Files, config: Any) -> Files:
    """Called by mkdocs with all pages: those of the commands are added."""
    for name, command in commands().items():
        files.append(File.generated(config, page_of(name), content=page(name, command)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    markdown = BLOCK.sub(lambda found: readme_block(found[1]), markdown)
    return markdown.replace("<!-- commands -->", overview())


def readme_block(name: str) -> str:
    """A generated block of the README, its links as the site has them; what lies outside docs/ is named and not
    linked."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", text, re.DOTALL)
    if found is None:
        raise ValueError(f"README.md has no block {name}")
    return LINK.sub(_as_on_the_site, found[1])


def _as_on_the_site(link: re.Match[str]) -> str:
    picture, text, target = link.groups()
    if target.startswith(("http", "#")):
        return link[0]
    return (
        f"{picture}[{text}]({target.removeprefix('docs/')})" if target.startswith("docs/") else f"{text} (`{target}`)"
    )


def commands() -> dict[str, TyperCommand]:
    """All commands, in the order of the help."""
    found: dict[str, TyperCommand] = get_command(app).commands  # type: ignore[attr-defined]
    return found


def page_of(name: str) -> str:
    """The path of a command's page below docs/."""
    return f"commands/{name}.md"


def overview() -> str:
    """The commands in their groups, each linked to its page."""
    groups: dict[str, list[str]] = {}
    for name, command in commands().items():
        line = f"| [`daybreak {name}`]({page_of(name)}) | {_cell(command.help)} |"
        groups.setdefault(str(command.rich_help_panel), []).append(line)
    tables = ("\n".join([f"## {group}", "", "| command | |", "| --- | --- |", *rows]) for group, rows in groups.items())
    return "\n\n".join(tables)


def page(name: str, command: TyperCommand) -> str:
    """A command's page: what it does, an example, and its arguments and options in the groups of its help."""
    parameters = [p for p in command.get_params(NO_CONTEXT) if p.name != "help"]
    example = (command.epilog or "").removeprefix("Example: ")
    usage = " ".join([f"daybreak {name}", "[OPTIONS]", *(_metavar(p) for p in parameters if _is_argument(p))])
    head = [f"# daybreak {name}", _text(command.help), f"```sh\n{example}\n```", f"Usage: `{usage}`"]
    return "\n\n".join([*head, *_groups(parameters)]) + "\n"


def _groups(parameters: Iterable[Any]) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for parameter in parameters:
        group = "Arguments" if _is_argument(parameter) else parameter.rich_help_panel or "Options"
        groups.setdefault(group, []).append(_row(parameter))
    for group, rows in groups.items():
        yield "\n".join([f"## {group}", "", "| | |", "| --- | --- |", *rows])


def _row(parameter: Any) -> str:
    if _is_argument(parameter):
        return f"| `{_metavar(parameter)}` | {_cell(parameter.help)} |"
    names = [*reversed(parameter.opts), *parameter.secondary_opts]
    value = "" if parameter.is_flag else f" {_metavar(parameter)}"
    spelled = " or ".join(f"`{name}{value}`" for name in names)
    return f"| {spelled} | {_cell(parameter.help)}{_default(parameter)} |"


def _default(parameter: Any) -> str:
    shown = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    if parameter.is_flag or shown in (None, "", [], ()) or parameter.show_default is False:
        return ""
    return f" Default: `{shown}`."


def _metavar(parameter: Any) -> str:
    """What a value is called, else its kind."""
    return str(parameter.metavar or parameter.display_type(NO_CONTEXT))


def _is_argument(parameter: Any) -> bool:
    return isinstance(parameter, TyperArgument)


def _text(words: str | None) -> str:
    return " ".join(MARKUP.sub("", words or "").split())


def _cell(words: str | None) -> str:
    return _text(words).replace("|", "\\|")
