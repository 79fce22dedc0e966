"""Take the documentation's pictures of pages, with Debian's Chromium: of a report, and of a served run.

python docs/screenshots.py runs/RUN
"""

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

DOCS = Path(__file__).parent
WIDTHS = (390, 1280)


def main(run: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        report(browser, Path(run))
        served(browser, Path(run))
        browser.close()


def report(browser: Browser, run: Path) -> None:
    light, dark = (
        browser.new_page(viewport={"width": 1180, "height": 1500}, color_scheme=theme) for theme in ("light", "dark")
    )
    for page in (light, dark):
        page.goto((run.resolve() / "report.html").as_uri())
        page.wait_for_selector("#gallery canvas")
    light.screenshot(path=DOCS / "report-light.png")
    dark.get_by_role("button", name="cat taken for dog").first.click()
    dark.wait_for_timeout(300)  # until the canvases are drawn
    dark.screenshot(path=DOCS / "report-cell-dark.png")


def served(browser: Browser, run: Path) -> None:
    """Three test images asked about, in both themes, on a phone and on a screen."""
    command = [sys.executable, "-m", "daybreak", "serve", run, "--port", "0", "--reject", "0.6"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        address = process.stdout.readline().strip()
        for theme in ("light", "dark"):
            for width in WIDTHS:
                page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=theme)
                page.goto(address)
                for n, example in enumerate((0, 3, 5)):
                    page.locator("#examples button").nth(example).click()
                    page.locator("#asked li").nth(n).wait_for()
                page.evaluate("scrollTo(0, 0)")
                page.screenshot(path=DOCS / f"serve-{theme}-{width}.png", full_page=True)
    finally:
        process.terminate()


if __name__ == "__main__":
    main(sys.argv[1])
