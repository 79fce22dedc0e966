"""The report of a real CIFAR-10 run, opened by a real browser as a reader would: press, filter, listen, print."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from image_sets import write_part
from page_checks import axe_faults
from PIL import Image
from playwright.sync_api import Browser, Page

from daybreak.core.config import override
from daybreak.core.options import TrainOptions
from daybreak.data import Dataset, open_dataset
from daybreak.evaluation.evaluate import evaluate
from daybreak.recipes import RECIPES
from daybreak.report.report import SECTIONS, write_report
from daybreak.runs.directory import RunDirectory
from daybreak.training.train import train

pytestmark = pytest.mark.cifar


@dataclass
class Opened:
    """A page, with everything it asked for and complained about."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def run(cifar_part: Dataset, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return reported(cifar_part, tmp_path_factory.mktemp("runs") / "run")


def reported(data: Dataset, out: Path) -> RunDirectory:
    """A narrow net after one small epoch: it errs often, so that there is something to show."""
    stages = [{"until": 1.0, "scale": 0.625}]
    settings = {"model.width": 0.25, "epochs": 1, "batch_size": 250, "resolution": stages, "precision": "float32"}
    run = train(override(RECIPES["sprint"], settings), data, out, TrainOptions(device="cpu"))
    write_report(run)
    return run


@pytest.fixture
def opened(browser: Browser, run: RunDirectory) -> Iterator[Opened]:
    yield from open_page(browser, run.path / "report.html")


def open_page(browser: Browser, path: Path, **options: Any) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": 1200, "height": 900}, **options)
    found = Opened(context.new_page())
    found.page.on("request", lambda request: found.requests.append(request.url))
    found.page.on("console", lambda message: found.complaints.append(message.text))
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.page.goto(path.as_uri())
    found.page.wait_for_selector("#gallery li")
    yield found
    context.close()


def test_every_section_is_there_and_nothing_leaves_the_page(opened: Opened) -> None:
    for name, _ in SECTIONS:
        assert opened.page.locator(f"h2#{name}").is_visible(), name
        assert opened.page.locator(f'nav a[href="#{name}"]').count() == 1
    outside = [url for url in opened.requests if not url.startswith("data:")]
    assert len(outside) == 1  # the page itself
    assert opened.complaints == []


def test_a_cell_opens_its_images_with_their_maps(opened: Opened, run: RunDirectory, cifar_part: Dataset) -> None:
    evaluation = evaluate(run, tta="none")
    cat, dog = cifar_part.classes.index("cat"), cifar_part.classes.index("dog")
    count = int(evaluation.confusion[cat, dog])
    opened.page.get_by_role("button", name=f"cat taken for dog: {count} images").first.click()
    dialog = opened.page.locator("dialog[open]")
    assert dialog.locator("h2").inner_text() == f"cat taken for dog: {count}"
    cards = dialog.locator(".strip")
    assert 0 < cards.count() <= count
    indices = [int(label.split()[2].rstrip(",")) for label in labels(dialog.locator(".subject canvas"))]
    assert all(evaluation.labels_N[i] == cat and evaluation.logits_NK[i].argmax() == dog for i in indices)
    first = cards.first.locator(".trio canvas")
    assert first.count() >= 6  # three stages: maps for two classes where there is evidence, and receptive fields
    assert all(len(np.unique(pixels_of(first.nth(n)).reshape(-1, 4), axis=0)) > 10 for n in range(first.count()))
    opened.page.keyboard.press("Escape")
    assert opened.page.locator("dialog[open]").count() == 0


def test_the_gallery_shows_the_test_images_pixel_for_pixel(opened: Opened, cifar_part: Dataset) -> None:
    tiles = opened.page.locator("#gallery canvas")
    assert tiles.count() == 60
    for n, label in enumerate(labels(tiles)[:25]):
        index = int(label.split()[2].rstrip(","))
        assert np.array_equal(pixels_of(tiles.nth(n))[..., :3], cifar_part.test.images_NHWC[index])


def test_filters_filter(opened: Opened) -> None:
    page = opened.page
    everything = shown(page)
    page.select_option("#filter-true", label="ship")
    assert set(page.locator("#gallery button").evaluate_all("all => all.map(b => b.innerText.split('true: ')[1])")) == {
        "ship"
    }
    ships = shown(page)
    taken_for = page.locator("#gallery .wrong").first.inner_text().split()[0]
    page.select_option("#filter-predicted", label=taken_for)
    assert {text.split()[0] for text in page.locator("#gallery .wrong").all_inner_texts()} == {taken_for}
    assert 0 < shown(page) < ships < everything
    page.fill("#filter-confidence", "99")
    assert shown(page) < ships
    page.fill("#filter-confidence", "0")
    page.select_option("#filter-predicted", label="any")
    page.select_option("#filter-true", label="any")
    page.select_option("#filter-kind", "unsure")
    assert shown(page) == 60
    assert page.locator("#gallery .right").count() == 60
    page.select_option("#filter-kind", "mistake")
    page.locator("#more").click()
    assert page.locator("#gallery li").count() == 120
    assert opened.complaints == []


def test_charts_say_their_values(opened: Opened, run: RunDirectory) -> None:
    chart = opened.page.locator("svg.chart").first
    chart.focus()
    chart.press("ArrowRight")
    reading = opened.page.locator(".reading").first.inner_text()
    row = run.metrics("epoch")[0]
    assert reading == f"epoch 1: train {100 * row['train_acc']:.4g}, validation {100 * row['val_acc']:.4g}"


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_no_accessibility_fault(theme: str, browser: Browser, run: RunDirectory) -> None:
    for opened in open_page(browser, run.path / "report.html", color_scheme=theme, bypass_csp=True):
        assert opened.page.locator("html").get_attribute("data-theme") == theme
        assert axe_faults(opened.page) == []
        opened.page.locator("#gallery button").first.click()
        assert axe_faults(opened.page) == []


def test_the_check_finds_a_fault(browser: Browser, run: RunDirectory, tmp_path: Path) -> None:
    bad = tmp_path / "report.html"
    bad.write_text(
        (run.path / "report.html").read_text().replace('<html lang="en"', "<html").replace(' alt="', ' data-x="')
    )
    for opened in open_page(browser, bad, bypass_csp=True):
        found = {f["id"] for f in Axe().run(opened.page).response["violations"]}
        assert {"html-has-lang", "image-alt"} <= found


def test_another_script_does_not_run(browser: Browser, run: RunDirectory, tmp_path: Path) -> None:
    bad = tmp_path / "report.html"
    text = (run.path / "report.html").read_text()
    bad.write_text(
        text.replace("</main>", "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'></main>")
    )
    for opened in open_page(browser, bad):
        assert opened.page.evaluate("window.pwned") is None
        assert any("Content Security Policy" in complaint for complaint in opened.complaints)


def test_it_works_without_a_script(browser: Browser, run: RunDirectory) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((run.path / "report.html").as_uri())
    assert page.locator(".strip").count() == 8
    assert not page.locator("#filters").is_visible()
    assert page.locator("svg.chart polyline").count() >= 4
    context.close()


@pytest.mark.slow
def test_it_is_small_enough_to_send(cifar: Dataset, tmp_path: Path) -> None:
    """With all 10,000 test images."""
    part = write_part(cifar, tmp_path / "cifar.npz", 5000, 10_000)
    run = reported(open_dataset(part), tmp_path / "run")
    assert (run.path / "report.html").stat().st_size < 6e6


def shown(page: Page) -> int:
    """How many images the filters leave: "60 of 1000 images"."""
    return int(page.locator("#shown").inner_text().split(" of ")[1].split()[0])


def labels(canvases: Any) -> list[str]:
    return canvases.evaluate_all("all => all.map(c => c.getAttribute('aria-label'))")


def pixels_of(canvas: Any) -> np.ndarray:
    """RGBA of a canvas, once it has been drawn."""
    uri = canvas.evaluate("async c => { await new Promise(r => setTimeout(r, 50)); return c.toDataURL('image/png') }")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGBA"))
