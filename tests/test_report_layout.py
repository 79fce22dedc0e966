"""The report at the widths of a telephone and of a screen, in both themes, for runs that strain it differently."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sets import photographs
from page_checks import axe_faults, layout_faults
from playwright.sync_api import Browser, Page

from daybreak.core.config import override
from daybreak.core.options import TrainOptions
from daybreak.data import Dataset, open_dataset
from daybreak.recipes import RECIPES
from daybreak.report.report import write_report
from daybreak.runs.directory import RunDirectory
from daybreak.training.train import train

TINY = {"model.width": 0.1, "epochs": 1, "min_steps": 0, "precision": "float32"}
LONG = "2026-11-26 autumn holiday in the mountains, panorama {} (edited, final version).jpg"
LONG_CLASSES = ("Phalacrocorax_carbo_sinensis_juvenile_plumage", "temple of the western mountains at sunset")


def of_digits(folder: Path, request: pytest.FixtureRequest) -> RunDirectory:
    run = request.getfixturevalue("digits_run")
    return RunDirectory.open(shutil.copytree(run.path, folder / "run"))


def of_cifar10(folder: Path, request: pytest.FixtureRequest) -> RunDirectory:
    return trained(request.getfixturevalue("cifar_part"), folder, "sprint", batch_size=500)


def of_a_hundred_classes(folder: Path, _request: pytest.FixtureRequest) -> RunDirectory:
    """Twenty groups of five that are hard to tell apart, as CIFAR-100 has them; classes of a group do not stand
    together in the data."""
    draw = np.random.default_rng(0)
    bases = draw.integers(40, 216, (20, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    labels = np.tile(np.arange(100), 12)
    images = (bases[labels % 20] + draw.normal(0, 25, (1200, 32, 32, 3))).clip(0, 255).astype(np.uint8)
    names = [
        f"{('aquarium_fish', 'lawn_mower', 'pickup_truck', 'sweet_pepper', 'bee')[k // 20]} {k}" for k in range(100)
    ]
    path = folder / "hundred.npz"
    arrays = {"x_train": images[:700], "y_train": labels[:700], "x_test": images[700:], "y_test": labels[700:]}
    np.savez(path, classes=names, **arrays)  # type: ignore[arg-type]
    return trained(open_dataset(path), folder, "small", **{"model.width": 0.25, "epochs": 6})


def of_photos(folder: Path, _request: pytest.FixtureRequest) -> RunDirectory:
    """Few photos, whose names are long, of which the net learns nothing."""
    photos = photographs(folder / "photos-of-a-holiday-that-was-long-and-had-many-places", per_class=24)
    for name, long in zip(("flower", "temple"), LONG_CLASSES, strict=True):
        (photos / name).rename(photos / long)
        for image in (photos / long).iterdir():
            image.rename(image.with_name(LONG.format(image.stem)))
    return trained(open_dataset(photos, size=64), folder, "small")


def trained(data: Dataset, folder: Path, recipe: str, **settings: Any) -> RunDirectory:
    return train(override(RECIPES[recipe], TINY | settings), data, folder / "run", TrainOptions(device="cpu"))


RUNS: tuple[Callable[[Path, pytest.FixtureRequest], RunDirectory], ...] = (
    of_digits, of_cifar10, of_a_hundred_classes, of_photos,
)  # fmt: skip
MARKS = {of_cifar10: pytest.mark.cifar, of_a_hundred_classes: pytest.mark.slow}


@pytest.fixture(
    scope="module",
    params=[pytest.param(make, id=make.__name__[3:], marks=MARKS.get(make, ())) for make in RUNS],
)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(request.param(tmp_path_factory.mktemp("runs"), request))


@pytest.fixture(scope="module")
def page(browser: Browser, report: Path) -> Iterator[Page]:
    """The report, opened once; each test sets its own width and theme."""
    page = browser.new_page(bypass_csp=True)  # for axe, which is a script of its own
    page.goto(report.as_uri())
    page.wait_for_selector("#filters")
    yield page
    page.close()


def seen_at(page: Page, width: int, theme: Any = "light", media: Any = "screen") -> None:
    page.emulate_media(color_scheme=theme, media=media)
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(100)  # until the cues have been set


@pytest.mark.parametrize(
    ("width", "theme"),
    [
        (390, "light"),
        (1280, "dark"),
        *(pytest.param(width, "light", marks=pytest.mark.slow) for width in (360, 768, 1280, 1920)),
        pytest.param(390, "dark", marks=pytest.mark.slow),
    ],
)
def test_words_are_whole_and_nothing_is_cut(page: Page, width: int, theme: str) -> None:
    seen_at(page, width, theme)
    assert layout_faults(page) == []
    assert axe_faults(page) == []
    page.locator("#gallery button").first.click()
    page.wait_for_selector("dialog .trio canvas")
    assert layout_faults(page) == []
    page.keyboard.press("Escape")


def test_cards_are_equal_and_fill_their_rows(page: Page) -> None:
    for width in (360, 390, 768, 1280, 1920):
        seen_at(page, width)
        boxes = [box for card in page.locator(".card").all() if (box := card.bounding_box())]
        assert len({round(box["width"]) for box in boxes}) == 1
        rows = [[box for box in boxes if box["y"] == y] for y in sorted({box["y"] for box in boxes})]
        assert len({len(row) for row in rows}) == 1
        assert all(len({round(box["height"]) for box in row}) == 1 for row in rows)
        assert width < 640 or len(rows) <= 2


def test_the_matrix_uses_the_width_and_keeps_its_heads(page: Page) -> None:
    seen_at(page, 1280)
    table, frame = page.locator(".matrix"), page.locator(".grid > .scroll")
    widths = [found["width"] for one in (table, frame) if (found := one.bounding_box())]
    assert widths[0] >= min(widths[1] - 1, 44 * 16)  # two classes need no more
    frame.evaluate("frame => frame.scrollTo(1e6, 1e6)")
    page.wait_for_timeout(100)
    last = page.locator(".matrix tbody th").last.bounding_box()
    head = page.locator(".matrix thead th").last.bounding_box()
    box = frame.bounding_box()
    assert last
    assert head
    assert box
    assert last["x"] == pytest.approx(box["x"], abs=3)
    assert head["y"] == pytest.approx(box["y"], abs=3)
    assert page.locator(".scroller.grid").get_attribute("data-more") == ""
    frame.evaluate("frame => frame.scrollTo(0, 0)")


def test_it_prints_on_a4(page: Page) -> None:
    """What would be wider than the paper is made to fit; what is pressed is left out."""
    seen_at(page, 703, "dark", "print")  # 210 mm less two margins of 12 mm, in px
    assert page.evaluate("document.documentElement.scrollWidth") <= 703
    assert not page.locator("nav, #filters, #theme").filter(visible=True).count()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_page_that_breaks_the_rules_is_found_out(browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.set_content("""
        <p style="width: 1ch; overflow-wrap: anywhere">letters</p>
        <div style="width: 50px; overflow: hidden">incomprehensible</div>
        <div class="scroller" data-more=""><div class="scroll" style="overflow: auto; width: 90px">
        <b>antidisestablishment</b></div></div>
        <button style="margin-left: 380px">outside</button>
    """)
    found = "\n".join(layout_faults(page))
    for words in (
        "in pieces: letters",
        "cut: incomprehensible",
        "cut: antidisestablishment",
        "cut: outside",
        "px wide",
    ):
        assert words in found
    page.evaluate("document.querySelector('.scroller').dataset.more = 'right'")
    assert "antidisestablishment" not in "\n".join(layout_faults(page))
    page.close()
