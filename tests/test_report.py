"""The report: every section there, images pixel for pixel, names escaped, nothing loaded from elsewhere."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from daybreak.core import metrics
from daybreak.core.config import override
from daybreak.core.errors import one_line
from daybreak.data import open_dataset
from daybreak.evaluation.evaluate import evaluate
from daybreak.explain.maps import MapOptions, explain
from daybreak.explain.ranking import most_faithful
from daybreak.recipes import RECIPES
from daybreak.report import figures, items
from daybreak.report.report import SECTIONS, write_report
from daybreak.runs.directory import RunDirectory
from daybreak.training.train import train


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
    return train(recipe, open_dataset("digits", size=24), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def page(bare: RunDirectory) -> Page:
    return Page(write_report(bare).read_text())


@pytest.fixture(scope="module")
def run(bare: RunDirectory, page: Page) -> RunDirectory:
    """The same run once its report is written."""
    assert page.tags
    return bare


def test_every_section_is_there(page: Page) -> None:
    assert [name for name in page.values("id") if name in dict(SECTIONS)] == list(dict(SECTIONS))
    for words in (
        "Learning rate",
        "Most confused",
        "Per class",
        "Class activation maps",
        "temperature",
        "first filters",
    ):
        assert words.lower() in page.text.lower()


def test_it_stands_alone(run: RunDirectory, page: Page) -> None:
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "embed")]
    assert all(src.startswith("data:") for src in page.values("src"))
    assert not page.values("style")  # the policy would refuse them
    assert all(found.get("alt") for tag, found in page.tags if tag == "img")
    text = (run.path / "report.html").read_text()
    policy = next(str(found["content"]) for tag, found in page.tags if "http-equiv" in found)
    for kind, tag in (("style-src", "style"), ("script-src", "script")):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert body is not None
        digest = base64.b64encode(hashlib.sha256(body[1].encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def data_of(run: RunDirectory) -> dict[str, Any]:
    """What the page's script is given."""
    text = (run.path / "report.html").read_text()
    found = re.search(r'<script type="application/json" id="images-data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_the_images_on_the_page_are_the_test_images_pixel_for_pixel(run: RunDirectory, page: Page) -> None:
    data, test = data_of(run), open_dataset("digits", size=24).test
    sheet, side, columns = decoded(data["sheet"]), data["side"], data["columns"]
    assert side == 24
    for n, item in enumerate(data["items"]):
        top, left = n // columns * side, n % columns * side
        assert np.array_equal(sheet[top : top + side, left : left + side], test.images_NHWC[item["index"], :, :, 0])
    strips = [str(f["src"]) for tag, f in page.tags if tag == "img" and str(f.get("alt")).startswith("test image")]
    wrong = evaluate(run, tta="none").mistakes(8)
    for source, mistake in zip(strips, wrong, strict=False):
        assert np.array_equal(decoded(source), test.images_NHWC[mistake.index, :, :, 0])


def test_the_page_has_all_mistakes_and_what_the_net_said_of_them(run: RunDirectory, page: Page) -> None:
    assert page.tags
    evaluation, items = evaluate(run, tta="none"), data_of(run)["items"]
    mistakes = {item["index"] for item in items if "mistake" in item["kinds"]}
    assert mistakes == set(np.flatnonzero(evaluation.logits_NK.argmax(1) != evaluation.labels_N).tolist())
    unsure = [item["index"] for item in items if "unsure" in item["kinds"]]
    assert set(unsure) == set(metrics.unsure(evaluation.logits_NK, evaluation.labels_N, 60).tolist())
    for item in items:
        probability = metrics.softmax(evaluation.logits_NK[[item["index"]]])[0]
        assert item["true"] == evaluation.labels_N[item["index"]]
        assert [k for k, _ in item["top"]] == np.argsort(-probability, kind="stable")[:5].tolist()
        assert item["p_true"] == pytest.approx(probability[item["true"]], abs=1e-4)


def test_the_maps_on_the_page_are_the_nets(run: RunDirectory, page: Page) -> None:
    assert page.tags
    data = data_of(run)
    item = next(item for item in data["items"] if "mistake" in item["kinds"])
    image = np.asarray(open_dataset("digits", size=24).test.images_NHWC[[item["index"]]])
    for which, target in enumerate((item["top"][0][0], item["true"])):
        cells = np.frombuffer(base64.b64decode(item["maps"][which]), np.uint8)
        methods = most_faithful([stage["name"] for stage in data["stages"]])
        maps = explain(run.classifier(), image, np.array([[target]]), MapOptions(method=methods))
        assert methods == {stage["name"]: stage["method"] for stage in data["stages"]}
        assert [m.layer for m in maps] == [stage["name"] for stage in data["stages"]]
        sides = [stage["side"] for stage in data["stages"]]
        assert sides == [min(16, m.values_HW.shape[0]) for m in maps]
        parts = np.split(cells.astype(float), np.cumsum([side**2 for side in sides])[:-1])
        for m, part, side in zip(maps, parts, sides, strict=True):
            if m.values_HW.shape[0] == side:  # finer ones are averaged
                assert np.abs(part - 255 * m.values_HW.ravel() / max(m.values_HW.max(), 1e-12)).max() <= 1.01
            assert part.max() == (0 if m.is_empty else 255)
        if which == 0:
            assert item["boxes"] == [pytest.approx(m.field_of_max(24), abs=0.06) for m in maps]


def test_the_number_of_mistakes_left_out_is_reported(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = evaluate(run, tta="none")
    wrong = int((evaluation.logits_NK.argmax(1) != evaluation.labels_N).sum())
    monkeypatch.setattr(items, "MAX_PIXELS", 110 * 24**2)
    monkeypatch.setattr(items, "MAX_UNSURE", 100)
    picked, left_out = items.pick_items(evaluation, [], 24)
    assert len(picked) == 110
    assert left_out == wrong - 10 > 0
    first = [item.index for item in picked[:10]]
    assert first == metrics.mistakes(evaluation.logits_NK, evaluation.labels_N, 10).tolist()


def test_numbers_on_the_page_are_the_runs(run: RunDirectory, page: Page) -> None:
    assert f"{100 * run.summary['test_acc']:.2f}\N{NO-BREAK SPACE}%" in page.text
    true, predicted, count = evaluate(run, tta="none").most_confused(1)[0]
    assert f"{true} taken for {predicted}: {count} images" in page.values("aria-label")


def test_figures_are_also_files_and_come_out_the_same_again(run: RunDirectory) -> None:
    names = [f"{name}.svg" for name in ("confusion", "curves", "embeddings", "reliability", "schedule")]
    before = {p.name: p.read_bytes() for p in (run.path / "figures").glob("*.svg")}
    assert sorted(before) == names
    assert all((run.path / "figures" / name).with_suffix(".png").is_file() for name in names)
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


HOSTILE = (
    '<img src=x onerror="alert(1)">', "</script><script>alert(1)</script>", "<!--", "-->", "]]>", "</style>",
    "</title>",
    "{{ 7 * 7 }}", "{% raw %}", "${alert(1)}", "javascript:alert(1)",
    "' onload='alert(1)", '" onload="alert(1)', "`x`",
    "&lt;b&gt;", "&#60;b&#62;", "&",
    "a\nb", "a\r\nb", "a\tb", "\x00a", "\x1b[31m", "\u202egnp.exe", "\u2028", "\ufeff",
    "\ud800", "../../etc/passwd", "C:\\x", "%3Cb%3E", "%s%n", "$x$", "#" * 300, "<svg/onload=alert(1)>",
    "<dialog open>",
    "\N{PILE OF POO}", "a" * 5000, " ", "<table>", "<b", "\\u003cb\\u003e",
)  # fmt: skip


@pytest.mark.slow
def test_forty_hostile_names_inject_no_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page with hostile names has the very tags of the page with plain ones; every name stands in it as text."""
    assert len(HOSTILE) == 40
    monkeypatch.setattr(items, "MAX_UNSURE", 1000)  # so that all names are on the page
    digits = open_dataset("digits")
    recipe = override(RECIPES["small"], {"model.width": 0.1, "epochs": 1, "min_steps": 0})
    pages = {}
    for kind, name in (("plain", "x"), ("hostile", None)):
        classes = tuple(f"{k}{name or HOSTILE[k]}" for k in range(10))
        names = tuple(f"{i}{name or HOSTILE[i % 40]}" for i in range(len(digits.test.labels_N)))
        data = replace(digits, classes=classes, test=replace(digits.test, names=names))
        run = train(recipe, data, tmp_path / kind)
        monkeypatch.setattr("daybreak.report.report.run_dataset", lambda run, where, data=data: data)
        pages[kind] = Page(write_report(run).read_text())
    assert [tag for tag, _ in pages["hostile"].tags] == [tag for tag, _ in pages["plain"].tags]
    assert [sorted(found) for _, found in pages["hostile"].tags] == [sorted(found) for _, found in pages["plain"].tags]
    assert all(one_line(f"{k}{HOSTILE[k]}") in pages["hostile"].text for k in range(10))
    shown = {one_line(item["file"]) for item in data_of(RunDirectory(tmp_path / "hostile"))["items"]}
    assert {re.sub(r"^\d+", "", name) for name in shown} >= {re.sub(r"^\d+", "", one_line(f"1{h}")) for h in HOSTILE}


def test_a_perfect_run_has_a_report_too(tmp_path: Path, run: RunDirectory) -> None:
    import shutil

    copy = RunDirectory(shutil.copytree(run.path, tmp_path / "run"))
    stored = copy.predictions()
    assert stored is not None
    right = np.eye(10, dtype=np.float32)[stored.labels] * 9
    copy.write_predictions(replace(stored, logits=right, logits_tta=right))
    page = Page(write_report(copy).read_text())
    assert "No test image was misclassified." in page.text
