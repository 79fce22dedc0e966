"""Take the README's pictures of a report, in both themes, with Debian's Chromium.

python docs/screenshots.py runs/RUN
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent


def main(run: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        light, dark = (
            browser.new_page(viewport={"width": 1180, "height": 1500}, color_scheme=theme)
            for theme in ("light", "dark")
        )
        for page in (light, dark):
            page.goto((Path(run).resolve() / "report.html").as_uri())
            page.wait_for_selector("#gallery canvas")
        light.screenshot(path=DOCS / "report-light.png")
        dark.get_by_role("button", name="cat taken for dog").first.click()
        dark.wait_for_timeout(300)  # until the canvases are drawn
        dark.screenshot(path=DOCS / "report-cell-dark.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
