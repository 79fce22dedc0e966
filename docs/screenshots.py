"""Take the documentation's pictures of pages, with Debian's Chromium: of a report, and of a served run.

python docs/screenshots.py runs/RUN
"""

import io
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

DOCS = Path(__file__).parent
THEMES = ("light", "dark")
WIDTHS = (390, 1280)
LARGEST = 300_000  # bytes of a picture; a larger one gets a palette


def main(run: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        report(browser, Path(run))
        served(browser, Path(run))
        browser.close()


def report(browser: Browser, run: Path) -> None:
    """Its beginning in both themes, on a phone and on a screen, and a cell of the confusion matrix opened."""
    for theme in THEMES:
        for width in WIDTHS:
            page = browser.new_page(viewport={"width": width, "height": 1500}, color_scheme=theme)
            page.goto((run.resolve() / "report.html").as_uri())
            page.wait_for_selector("#gallery canvas")
            take(page, f"report-{theme}-{width}")
            if (theme, width) == ("dark", 1280):
                page.locator(".matrix").get_by_role("button", name="cat taken for dog").click()
                page.wait_for_timeout(300)  # until the canvases are drawn
                take(page, "report-cell-dark")
            page.close()


def served(browser: Browser, run: Path) -> None:
    """Three test images asked about, in both themes, on a phone and on a screen."""
    command = [sys.executable, "-m", "daybreak", "serve", run, "--port", "0", "--reject", "0.6"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        address = process.stdout.readline().strip()
        for theme in THEMES:
            for width in WIDTHS:
                page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=theme)
                page.goto(address)
                for n, example in enumerate((0, 3, 5)):
                    page.locator("#examples button").nth(example).click()
                    page.locator("#asked li").nth(n).wait_for()
                page.evaluate("scrollTo(0, 0)")
                take(page, f"serve-{theme}-{width}", full_page=True)
                page.close()
    finally:
        process.terminate()


def take(page: Page, name: str, *, full_page: bool = False) -> None:
    """A picture of the page, small enough for a repository."""
    picture, path = Image.open(io.BytesIO(page.screenshot(full_page=full_page))).convert("RGB"), DOCS / f"{name}.png"
    picture.save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        picture.quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
