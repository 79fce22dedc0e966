"""What the site says and no page: the README as its first page, and the help of every command."""

import re
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from daybreak.cli import app

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    markdown = markdown.replace("<!-- readme -->", readme())
    return markdown.replace("<!-- commands -->", commands())


def readme() -> str:
    """The README with its links as the site has them; what lies outside docs/ is named and not linked."""
    return LINK.sub(_as_on_the_site, (ROOT / "README.md").read_text(encoding="utf-8"))


def _as_on_the_site(link: re.Match[str]) -> str:
    picture, text, target = link.groups()
    if target.startswith(("http", "#")):
        return link[0]
    return (
        f"{picture}[{text}]({target.removeprefix('docs/')})" if target.startswith("docs/") else f"{text} (`{target}`)"
    )


def commands() -> str:
    """The help of every verb, as a terminal of 100 columns shows it."""
    runner = CliRunner(env={"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"})
    verbs = sorted(get_command(app).commands)  # type: ignore[attr-defined]
    helps = {verb: runner.invoke(app, [verb, "--help"]).output.strip() for verb in verbs}
    return "\n\n".join(f"## daybreak {verb}\n\n```text\n{text}\n```" for verb, text in helps.items())
