"""The documentation as a site: it builds without a warning, has every command and function, loads nothing of others."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from daybreak import cli

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow  # what the pages say is checked by test_docs.py


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def text_of(page: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_every_command_is_there_with_its_options(site: Path) -> None:
    parts = re.split(r'<h2 id="daybreak-([\w-]+)">', (site / "commands" / "index.html").read_text(encoding="utf-8"))
    helps = dict(zip(parts[1::2], parts[2::2], strict=True))
    for name, command in get_command(cli.app).commands.items():
        options = [max(p.opts, key=len) for p in command.params if p.opts[0].startswith("-")]
        assert [option for option in options if option not in helps[name]] == []


def test_every_function_is_there_with_what_it_takes(site: Path) -> None:
    page = site / "api" / "index.html"
    for function in ("train", "resume", "find_lr", "load", "samples", "compare", "inspect"):
        assert f'id="daybreak.api.{function}"' in page.read_text(encoding="utf-8")
    assert 'id="daybreak.run.Run.cam"' in page.read_text(encoding="utf-8")
    text = "Seconds of training, or a time such as 5m, instead of epochs: one cycle over wall-clock time"
    assert text in text_of(page)


def test_every_page_of_the_docs_can_be_reached(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    pages = [page.stem for page in (ROOT / "docs").glob("*.md") if page.stem != "index"]
    assert len(pages) >= 10
    for page in pages:
        assert f'href="{page}/"' in start, page


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img)[^>]+src="([^"]+)"|<link[^>]+stylesheet[^>]+href="([^"]+)"', html)
        assert not [a or b for a, b in loaded if (a or b).startswith(("http", "//"))], page
