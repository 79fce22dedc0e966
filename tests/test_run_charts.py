"""The charts of a run: defined once as values, drawn the same in a page and in a file, from rows with a validation part
and from rows without."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup
from rich.console import Console

import daybreak as db
from daybreak.cli import output
from daybreak.cli.progress_bar import TrainingProgress
from daybreak.core.files import to_json
from daybreak.report import figures, run_charts
from daybreak.report.chart import Chart, svg
from daybreak.report.report import write_report
from daybreak.runs.curves import curve_part
from daybreak.runs.directory import RunDirectory

NOTE = "no validation part: the curves show the test part"


def epochs(part: str, gain: float = 0.0) -> list[dict[str, Any]]:
    """Two epochs whose held-out part is `part`."""
    common = {"event": "epoch", "size": 32, "lr": 0.1}
    return [
        common | {"epoch": 1, "step": 4, "train_seconds": 2.0, "train_acc": 0.5, "train_loss": 1.5}
        | {f"{part}_acc": 0.4 + gain, f"{part}_loss": 1.75},
        common | {"epoch": 2, "step": 8, "train_seconds": 4.5, "train_acc": 0.75, "train_loss": 0.5}
        | {f"{part}_acc": 0.625 + gain, f"{part}_loss": 1.25},
    ]  # fmt: skip


STEPS = [{"step": n, "lr": 0.1 * n, "momentum": 0.9, "size": 24 if n < 3 else 32} for n in range(1, 5)]


def lines_of(charts: list[Chart]) -> list[tuple[str, list[tuple[str, str, list[tuple[float, float]]]]]]:
    return [(c.title, [(line.name, line.style, list(line.points)) for line in c.lines]) for c in charts]


@pytest.mark.parametrize(("part", "name"), [("val", "validation"), ("test", "test")])
def test_curves_show_the_validation_part_or_else_the_test_part(part: str, name: str) -> None:
    rows = epochs(part)
    assert curve_part(rows) == part
    assert lines_of(run_charts.accuracy_and_loss(rows)) == [
        ("accuracy", [("train", "train", [(1, 50), (2, 75)]), (name, part, [(1, 40), (2, 62.5)])]),
        ("loss", [("train", "train", [(1, 1.5), (2, 0.5)]), (name, part, [(1, 1.75), (2, 1.25)])]),
    ]


def test_schedule_over_epochs_has_the_image_size_only_if_it_changed() -> None:
    charts = run_charts.schedule(STEPS, steps_per_epoch=2)
    assert [c.title for c in charts] == ["learning rate", "momentum", "image size, px"]
    assert charts[2].lines[0].points == [(0.5, 24), (1, 24), (1.5, 32), (2, 32)]
    assert [c.title for c in run_charts.schedule(STEPS[2:], 2)] == ["learning rate", "momentum"]


def test_runs_are_compared_by_the_part_that_each_has() -> None:
    alike = run_charts.compared(["a", "b"], [epochs("val"), epochs("val", 0.1)])
    assert lines_of(alike)[0] == (
        "validation accuracy",
        [("a", "r0", [(2, 40), (4.5, 62.5)]), ("b", "r1", [(2, 50), (4.5, 72.5)])],
    )
    mixed = run_charts.compared(["a", "b", "c"], [epochs("test"), [], epochs("val")])
    assert lines_of(mixed)[1] == (
        "test or validation loss",
        [("a (test)", "r0", [(2, 1.75), (4.5, 1.25)]), ("c (validation)", "r2", [(2, 1.75), (4.5, 1.25)])],
    )
    assert run_charts.compared(["a"], [[]]) == []


@pytest.mark.parametrize("charts", [run_charts.accuracy_and_loss(epochs("val")), run_charts.schedule(STEPS, 2)])
def test_file_and_page_draw_the_same_values(charts: list[Chart]) -> None:
    figure = figures.draw(charts)
    assert [axes.get_ylabel() for axes in figure.axes] == [chart.y_label for chart in charts]
    for axes, chart in zip(figure.axes, charts, strict=True):
        for drawn, line in zip(axes.lines, chart.lines, strict=True):
            assert np.array_equal(np.asarray(drawn.get_xydata()), line.points)
        assert [line.get_label() for line in axes.lines] == [line.name for line in chart.lines]
        assert (axes.get_ylim()[0] == 0) == chart.from_zero
        in_page: Markup = svg(chart)
        assert all(f"{line.name} from {line.points[0][1]:.4g} to" in in_page for line in chart.lines)


def test_the_diagonal_is_dashed_and_rows_of_whole_epochs_have_whole_ticks() -> None:
    bins = [db.core.metrics.ReliabilityBin(0.4, 0.6, 5, 0.5, 0.25), db.core.metrics.ReliabilityBin(0.8, 1, 9, 0.9, 1)]
    ideal, measured = figures.draw([run_charts.calibration(bins)]).axes[0].lines
    assert (ideal.get_linestyle(), measured.get_linestyle()) == ("--", "-")
    assert np.asarray(ideal.get_xydata()).tolist() == [[50, 50], [100, 100]]
    assert np.asarray(measured.get_xydata()).tolist() == [[50, 25], [90, 100]]
    ticks = figures.draw(run_charts.accuracy_and_loss(epochs("test"))).axes[0].get_xticks()
    assert all(float(tick).is_integer() for tick in ticks)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run without a validation part, and the same as if it had had one."""
    folder = tmp_path_factory.mktemp("runs")
    settings = {"model.width": 0.1}
    plain = db.train("digits", recipe="small", epochs=1, out=folder / "test", report=False, settings=settings).path
    copy = folder / "val"
    shutil.copytree(plain, copy)
    rows = (copy / "metrics.jsonl").read_text()
    (copy / "metrics.jsonl").write_text(rows.replace('"test_acc"', '"val_acc"').replace('"test_loss"', '"val_loss"'))
    (copy / "summary.json").write_text(to_json(RunDirectory(plain).summary | {"val_acc": 0.8125}))
    old = {key: value for key, value in RunDirectory(plain).summary.items() if key != "val_acc"}
    (plain / "summary.json").write_text(to_json(old))
    return {"test": plain, "val": copy}


@pytest.mark.parametrize(
    ("part", "name"), [("val", "validation"), pytest.param("test", "test", marks=pytest.mark.slow)]
)
def test_the_report_says_which_part_its_curves_show(runs: dict[str, Path], part: str, name: str) -> None:
    page = write_report(RunDirectory(runs[part])).read_text()
    assert (f"There is {NOTE}." in page) == (part == "test")
    assert f"on all {name} images and a fixed sample" in page
    assert f'<th scope="col" class="n">{name} loss</th>' in page
    assert page.count(f'<li class="{part}">━ {name}</li>') == 2
    row = RunDirectory(runs[part]).metrics("epoch")[0]
    assert f'<td class="n">{100 * row[f"{part}_acc"]:.2f}</td>' in page
    assert f">{name}<" in (runs[part] / "figures" / "curves.svg").read_text()


def test_the_comparison_names_the_runs_without_a_validation_part(runs: dict[str, Path], tmp_path: Path) -> None:
    db.compare(runs["test"], runs["val"], out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert f'<p class="soft">test: {NOTE}.</p>' in page
    assert "━ val (validation)</li>" in page


def test_terminal_and_notebook_show_the_validation_accuracy_if_there_is_one(
    runs: dict[str, Path],
) -> None:
    for part, shown in (("val", True), ("test", False)):
        run = db.load(runs[part])
        assert ("val_acc 0.8125" in repr(run)) == shown
        assert ("(validation 81.25%)" in output.last_line(run.directory.summary, run.path)) == shown
        assert ">validation<" in run._repr_html_() or not shown


@pytest.mark.parametrize("part", ["val", "test"])
def test_progress_lines_name_the_part(part: str) -> None:
    text = io.StringIO()
    with TrainingProgress(Console(file=text, width=200), quiet=False) as on_event:
        on_event(epochs(part)[0])
    assert f"train 50.00% loss 1.500  {part} 40.00% loss 1.750  32 px" in text.getvalue()
