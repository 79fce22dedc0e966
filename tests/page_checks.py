"""What a page must keep to at any width: words stay whole, and nothing is cut without a cue that there is more."""

from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

LOOK = (Path(__file__).parent / "page_checks.js").read_text(encoding="utf-8")


def layout_faults(page: Page) -> list[str]:
    """What does not fit: words in pieces, and boxes cut off where no cue says that there is more."""
    found: list[str] = page.evaluate(LOOK)
    return found


def axe_faults(page: Page) -> list[tuple[Any, ...]]:
    """What axe-core finds, of any impact."""
    return [(f["id"], f["nodes"][0]["html"][:200]) for f in Axe().run(page).response["violations"]]
