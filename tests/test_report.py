"""The report: every section there, images pixel for pixel, names escaped, nothing loaded from elsewhere."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daybreak.config import override
from daybreak.data import Dataset, open_dataset
from daybreak.errors import one_line
from daybreak.evaluate import evaluate
from daybreak.recipes import RECIPES
from daybreak.report import figures, write_report
from daybreak.run import RunDirectory
from daybreak.training import train

HOSTILE = '<img src=x onerror="alert(1)">&\n$x$'


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str]:
        return [str(found[attribute]) for _, found in self.tags if attribute in found]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A net that errs often, so that there is something to show."""
    recipe = override(RECIPES["small"], {"model.width": 0.1, "epochs": 1, "min_steps": 0})
    return train(recipe, open_dataset("digits", size=24), tmp_path_factory.mktemp("runs") / "run", command=["daybreak"])


@pytest.fixture(scope="module")
def page(bare: RunDirectory) -> Page:
    return Page(write_report(bare).read_text())


@pytest.fixture(scope="module")
def run(bare: RunDirectory, page: Page) -> RunDirectory:
    """The same run once its report is written."""
    assert page.tags
    return bare


def test_every_section_is_there(page: Page) -> None:
    assert page.values("id") == ["curves", "schedule", "confusion", "mistakes", "maps", "repeat"]
    for words in (
        "Accuracy and loss",
        "Learning rate",
        "Most confused",
        "Per class",
        "Misclassified images",
        "Grad-CAM",
    ):
        assert words in page.text


def test_it_stands_alone(page: Page) -> None:
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object")]
    assert all(src.startswith("data:") for src in page.values("src"))
    policy = next(found["content"] for tag, found in page.tags if "http-equiv" in found)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert all(found.get("alt") for tag, found in page.tags if tag == "img")


def pictures(page: Page, css: str) -> list[np.ndarray]:
    sources = [str(found["src"]) for tag, found in page.tags if tag == "img" and found.get("class") == css]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(s.split(",")[1])))) for s in sources]


def test_the_gallery_shows_the_test_images_pixel_for_pixel(run: RunDirectory, page: Page) -> None:
    wrong = [m.index for m in evaluate(run, tta="none").mistakes(40)]
    test = open_dataset("digits", size=24).test
    shown = pictures(page, "pixels")
    assert len(shown) >= len(wrong) > 12
    for image, index in zip(shown, wrong, strict=False):
        assert np.array_equal(image, test.images_NHWC[index, :, :, 0])


def test_a_strip_has_a_map_for_each_stage_and_class(page: Page) -> None:
    strips = [found for tag, found in page.tags if found.get("class") == "strip"]
    maps = [found["alt"] for tag, found in page.tags if tag == "img" and found.get("width") == "96"]
    assert len(strips) == 12
    assert len(maps) == 12 * 2 * 4
    assert all(re.fullmatch(r"\d at (prep|layer[123])", str(alt)) for alt in maps)


def test_numbers_on_the_page_are_the_runs(run: RunDirectory, page: Page) -> None:
    assert f"{100 * run.summary['test_acc']:.2f} %" in page.text
    true, predicted, count = evaluate(run, tta="none").most_confused(1)[0]
    assert re.search(rf"images\s*{true}{predicted}{count}\s", page.text)


def test_figures_are_also_files_and_come_out_the_same_again(run: RunDirectory) -> None:
    names = ["confusion.svg", "curves.svg", "schedule.svg"]
    before = {p.name: p.read_bytes() for p in (run.path / "figures").glob("*.svg")}
    assert sorted(before) == names
    write_report(run)
    assert {p.name: p.read_bytes() for p in (run.path / "figures").glob("*.svg")} == before


def test_confusion_figure_has_counts_and_row_percentages(run: RunDirectory) -> None:
    svg = (run.path / "figures" / "confusion.svg").read_text()
    counts = evaluate(run, tta="none").confusion
    row, column = np.unravel_index(counts.argmax(), counts.shape)
    assert f">{counts[row, column]}<" in svg
    assert f">{100 * counts[row, column] / counts[row].sum():.1f}%<" in svg


def test_a_hundred_classes_have_a_matrix_without_numbers() -> None:
    classes = [f"class {k}" for k in range(100)]
    svg = figures.svg(figures.confusion(np.eye(100, dtype=int) * 7, classes))
    assert ">class 99<" in svg
    assert ">7<" not in svg
    assert ">7<" in figures.svg(figures.confusion(np.eye(20, dtype=int) * 7, classes[:20]))


def test_hostile_names_are_inert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = open_dataset("digits")
    classes = tuple(f"{k}{HOSTILE}" for k in range(10))
    names = tuple(f"{i}{HOSTILE}" for i in range(len(digits.test.labels_N)))
    hostile: Dataset = replace(digits, classes=classes, test=replace(digits.test, names=names))
    recipe = override(RECIPES["small"], {"model.width": 0.1, "epochs": 1, "min_steps": 0})
    run = train(recipe, hostile, tmp_path / "run", command=["daybreak", HOSTILE])
    monkeypatch.setattr("daybreak.report.report.run_dataset", lambda run, data: hostile)
    page = Page(write_report(run).read_text())
    assert not page.values("onerror")
    assert all(src.startswith("data:") for src in page.values("src"))
    assert one_line(HOSTILE) in page.text


def test_a_perfect_run_has_a_report_too(tmp_path: Path, run: RunDirectory) -> None:
    import shutil

    copy = RunDirectory(shutil.copytree(run.path, tmp_path / "run"))
    stored = copy.predictions()
    assert stored is not None
    right = np.eye(10, dtype=np.float32)[stored.labels] * 9
    copy.write_predictions(replace(stored, logits=right, logits_tta=right))
    page = Page(write_report(copy).read_text())
    assert "No test image was misclassified." in page.text
