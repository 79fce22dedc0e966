"""The documentation as a site: it builds without a warning, has every command, option and function, loads nothing of
others, and can be searched without a server."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser
from typer.main import get_command

import daybreak as db
from daybreak import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLE = re.compile(r"(<!-- not run: [^>]+-->\n)?```python\n(.*?)```", re.DOTALL)


def examples() -> list[tuple[str, str]]:
    """The examples of the API with the remark before each: why it is not run."""
    return EXAMPLE.findall((DOCS / "api.md").read_text(encoding="utf-8"))


def test_every_public_name_has_an_example() -> None:
    code = "\n".join(text for _, text in examples())
    assert [name for name in db.__all__ if not re.search(rf"\bdb\.{name}\b", code)] == []
    public = [name for name, _ in inspect.getmembers(db.Run) if not name.startswith("_")]
    assert [name for name in public if not re.search(rf"\brun\.{name}\b", code)] == []
    assert len([remark for remark, _ in examples() if remark]) == 1


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom, in one process."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "orange").save("cat.jpg")
    names: dict[str, Any] = {}
    for remark, code in examples():
        if not remark:
            exec(code, names)
    assert names["heat"].ndim == 2
    assert names["longer"].summary.epochs == 3
    assert (tmp_path / "bundle" / "model.safetensors").is_file()
    assert (tmp_path / "compare.html").is_file()
    monkeypatch.syspath_prepend(str(DOCS))
    figures = {path.stem for path in (tmp_path / "runs" / "two-epochs" / "figures").glob("*.png")}
    assert figures == set(importlib.import_module("gallery").FIGURES)  # which docs/gallery.md shows


def test_the_gallery_shows_every_figure_of_a_run() -> None:
    """What its script draws is on the page, and what is on the page is there."""
    text = (DOCS / "gallery.md").read_text(encoding="utf-8")
    drawn = {f"gallery/{path.name}" for path in (DOCS / "gallery").iterdir()}
    assert drawn == set(re.findall(r"\((gallery/[^)]+)\)", text))
    shown = set(re.findall(r"\]\(([^)]+\.(?:png|svg))\)", text))
    pictures = {path.name for path in DOCS.iterdir() if path.suffix in (".png", ".svg")}
    twins = {
        "house.svg",
        "report-dark-1280.png", "report-dark-390.png", "report-light-390.png",
        "serve-dark-1280.png", "serve-light-390.png",
    }  # the house is of the code, the others in the other theme or on a phone  # fmt: skip
    assert pictures - shown == twins


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def text_of(page: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", sorted(get_command(cli.app).commands))  # type: ignore[attr-defined]
def test_every_command_has_a_page_with_its_options(name: str, site: Path) -> None:
    command = get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    text = text_of(site / "commands" / f"{name}.html").replace("&lt;", "<").replace("&#x27;", "'").replace("&amp;", "&")
    for parameter in command.params:
        for option in [o for o in parameter.opts if o.startswith("-")]:
            assert option in text
        words = " ".join((getattr(parameter, "help", None) or "").split()).replace("`", "")
        assert words in text, parameter.name
    assert command.epilog.removeprefix("Example: ") in text
    assert f'href="commands/{name}.html"' in (site / "commands.html").read_text(encoding="utf-8")


def test_every_function_is_there_with_what_it_takes(site: Path) -> None:
    page = site / "api.html"
    for function in ("train", "resume", "find_lr", "load", "samples", "compare", "inspect"):
        assert f'id="daybreak.api.{function}"' in page.read_text(encoding="utf-8")
    assert 'id="daybreak.run.Run.cam"' in page.read_text(encoding="utf-8")
    text = "Seconds of training, or a time such as 5m, instead of epochs: one cycle over wall-clock time"
    assert text in text_of(page)


def test_every_page_of_the_docs_can_be_reached(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    pages = [page.stem for page in DOCS.glob("*.md") if page.stem != "index"]
    assert len(pages) >= 15
    linked = set(re.findall(r'href="([\w-]+)\.html"', start))
    for page in list(linked):  # a tab of the navigation leads to the first page of its group, which lists the others
        linked |= set(re.findall(r'href="([\w-]+)\.html"', (site / f"{page}.html").read_text(encoding="utf-8")))
    assert set(pages) - linked == set()


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img)[^>]+src="([^"]+)"|<link[^>]+stylesheet[^>]+href="([^"]+)"', html)
        assert not [a or b for a, b in loaded if (a or b).startswith(("http", "//"))], page


def test_search_and_themes_work_from_a_file(site: Path, browser: Browser) -> None:
    """Without a server and the network: an option is found on its command's page, and the theme can be switched."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / "index.html").as_uri())
    page.locator(".md-search__input").click()
    page.locator(".md-search__input").press_sequentially("nonfinite")
    found = page.locator(".md-search-result__item").first
    found.wait_for()
    links = page.locator(".md-search-result__link").evaluate_all("all => all.map(one => one.href)")
    assert any("commands/train.html" in link for link in links), links
    page.keyboard.press("Escape")
    before = page.locator("body").get_attribute("data-md-color-scheme")
    for _ in range(2):
        page.locator("label.md-header__button[for^=__palette]:not([hidden])").click()
    assert {before, page.locator("body").get_attribute("data-md-color-scheme")} == {"default", "slate"}
    assert not [url for url in asked if url.startswith("http")]
    context.close()
