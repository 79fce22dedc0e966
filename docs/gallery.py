"""Draw the pictures of docs/gallery/ from two finished runs: python docs/gallery.py runs/RUN runs/OTHER

The first run has a report. Photographs of pages are taken by Debian's Chromium (docs/screenshots.py takes those of the
report and of the served run).
"""

import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import daybreak as db
from daybreak.core.files import write_picture
from daybreak.data import contact_sheet, open_dataset
from daybreak.explain.sheet import SHEET
from daybreak.runs.datasets import data_of

FOLDER = Path(__file__).parent / "gallery"
FIGURES = ("curves", "schedule", "confusion", "reliability", "embeddings")  # of a run's figures/
WIDTH = 1000  # px of a picture at most
COLOURS = 128  # of the palette: a third of the bytes, and no difference to be seen


def main(first: str, second: str) -> None:
    run = db.load(first)
    for name in FIGURES:
        keep(run.path / "figures" / f"{name}.png", name)
    run.explain(n=3, target="predicted", against="true")
    keep(run.path / SHEET, "explain")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        data, recipe = data_of(run.directory), run.summary.recipe
        db.find_lr(data, recipe, seeds=3, out=made)
        keep(made / "lr-find.png", "lr-find")
        db.inspect(recipe, picture=made / "inspect.png")
        keep(made / "inspect.png", "inspect")
        keep(contact_sheet(open_dataset(data), made / "data.png"), "data")
        db.compare(first, second, out=made / "compare.html")
        photograph(made / "compare.html", made / "compare.png")
        keep(made / "compare.png", "compare")


def keep(picture: Path, name: str) -> None:
    """A picture of moderate size, as docs/gallery/NAME.png."""
    image = Image.open(picture).convert("RGB")
    image.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
    write_picture(FOLDER / f"{name}.png", image.quantize(COLOURS))


def photograph(page: Path, picture: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": WIDTH, "height": 1100})
        opened.goto(page.resolve().as_uri())
        opened.wait_for_timeout(500)  # until the charts are drawn
        opened.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
