"""Figures of a run, as matplotlib figures without global state; SVG files come out the same for the same run."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from daybreak.core.errors import one_line
from daybreak.core.lr_curve import LrFindResult
from daybreak.core.metrics import ReliabilityBin
from daybreak.report.chart import Chart

TRAIN, TEST, BALANCED = "#b45f06", "#0b5394", "#2e7d32"
COLOURS = {"train": TRAIN, "val": TEST, "test": TEST, "rate": TEST, "balanced": BALANCED, "ideal": "#888888"}
# Lines of other styles have matplotlib's colours.
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "daybreak",
}


def draw(charts: Sequence[Chart]) -> Figure:
    """Line charts side by side: the same values as the page's, at paper quality."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(min(9.0, 4.5 * len(charts)), 3.2), layout="constrained")
        for axes, chart in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True):
            _draw_chart(axes, chart)
    return figure


def rates(found: LrFindResult) -> Figure:
    """Range tests: the loss over the rate, raw and smoothed, a line a seed, and what each rule suggests."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        for number, test in enumerate(found.tests):
            axes.plot(test.lr_S, test.raw_S, color=TEST, alpha=0.2, linewidth=0.8)
            axes.plot(test.lr_S, test.loss_S, color=TEST, label="smoothed loss, a line a seed" if not number else None)
        top = max(float(test.loss_S.max()) for test in found.tests)
        for number, (rule, rate) in enumerate(sorted(found.suggestions.items(), key=lambda pair: pair[1])):
            axes.axvline(rate, color=TRAIN, linewidth=1, linestyle="--")
            axes.annotate(f"{rule} {rate:.2g}", (rate, top * (1 - 0.07 * number)), color=TRAIN, size=9)
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss of a batch, nats")
        axes.set_ylim(0, 1.15 * top)
        pair = f"one cycle: {found.lr_min:.2g} to {found.lr_max:.2g}"
        axes.set_title(f"no clear answer: {found.doubt}" if found.doubt else pair, loc="left", size=10)
        axes.legend(loc="lower left")
    return figure


def confusion(counts_KK: np.ndarray, classes: Sequence[str]) -> Figure:
    """The confusion matrix: a cell shows its count and its share of the row's class, in per cent."""
    k = len(classes)
    share_KK = 100 * counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        side = max(4.5, 0.78 * k) if k <= 20 else 12
        figure = Figure(figsize=(side + 0.8, side), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(share_KK, cmap="Blues", vmin=0, vmax=100)
        axes.set(xlabel="predicted", ylabel="true", xticks=range(k), yticks=range(k))
        size = 10 if k <= 20 else max(3.5, 240 / k)
        axes.set_xticklabels(
            _plain(classes), rotation=60 if k <= 20 else 90, ha="right" if k <= 20 else "center", size=size
        )
        axes.set_yticklabels(_plain(classes), size=size)
        if k <= 20:
            _write_cells(axes, counts_KK, share_KK)
        figure.colorbar(image, ax=axes, shrink=0.7, label="% of the true class")
    return figure


def reliability(bins: Sequence[ReliabilityBin]) -> Figure:
    """How often the net was right by how sure it was, and how many images that is about (Guo et al. 2017, figure 1)."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 4.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.plot([0, 100], [0, 100], color="#888888", linestyle="--", linewidth=1, label="ideal")
        at, width = [100 * b.low for b in bins], [100 * (b.high - b.low) for b in bins]
        upper.bar(at, [100 * b.accuracy for b in bins], width, align="edge", color=TEST, alpha=0.8, label="measured")
        upper.set(ylabel="accuracy, %", ylim=(0, 100))
        upper.legend(loc="upper left")
        lower.bar(at, [b.images for b in bins], width, align="edge", color=TEST, alpha=0.8)
        lower.set(xlabel="confidence, %", ylabel="images", xlim=(0, 100), yscale="log")
    return figure


def embeddings(plane_N2: np.ndarray, labels_N: np.ndarray, predicted_N: np.ndarray, classes: Sequence[str]) -> Figure:
    """Images on two axes, coloured by class; mistakes are crosses. The points are one picture inside an SVG."""
    k = len(classes)
    colours = mpl.colormaps["tab10" if k <= 10 else "tab20" if k <= 20 else "gist_ncar"]
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(7.2, 5.2), layout="constrained")
        axes = figure.subplots()
        for c, name in enumerate(_plain(classes)):
            colour = colours(c if k <= 20 else c / (k - 1))
            right, wrong = ((labels_N == c) & (same == (predicted_N == labels_N)) for same in (True, False))
            axes.scatter(
                plane_N2[right, 0],
                plane_N2[right, 1],
                s=4,
                color=colour,
                alpha=0.5,
                linewidths=0,
                label=name,
                rasterized=True,
            )
            axes.scatter(
                plane_N2[wrong, 0], plane_N2[wrong, 1], s=16, color=colour, marker="x", linewidths=0.9, rasterized=True
            )
        axes.set(xlabel="first principal component", ylabel="second principal component", xticks=[], yticks=[])
        if k <= 20:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=3)
    return figure


def png(figure: Figure, dpi: int) -> Image.Image:
    """The figure as a picture."""
    canvas: Any = FigureCanvasAgg(figure)
    was = figure.dpi
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as for svg
        figure.dpi = dpi
        canvas.draw()
    figure.dpi = was
    return Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB")


def svg(figure: Figure, tight: bool = False) -> str:
    """The figure as SVG; the same figure gives the same text.

    Args:
        tight: as large as what is drawn, also beside the figure.
    """
    buffer = io.StringIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about glyphs a font lacks and labels that hardly fit: names are as they are
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight" if tight else None)
    return buffer.getvalue()


def _draw_chart(axes: Axes, chart: Chart) -> None:
    for line in chart.lines:
        (drawn,) = axes.plot(*zip(*line.points, strict=True), color=COLOURS.get(line.style), label=line.name)
        if line.style == "ideal":
            drawn.set_linestyle("--")
        elif chart.markers:
            drawn.set(marker="o", markersize=3.5)
    axes.set(xlabel=chart.x_label, ylabel=chart.y_label)
    if chart.from_zero:
        axes.set_ylim(bottom=0)
    if all(float(x).is_integer() for line in chart.lines for x, _ in line.points):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(chart.lines) > 1:
        axes.legend()


def _write_cells(axes: Axes, counts_KK: np.ndarray, share_KK: np.ndarray) -> None:
    for (row, column), share in np.ndenumerate(share_KK):
        if counts_KK[row, column]:
            text = f"{counts_KK[row, column]}\n{share:.1f}%"
            color = "white" if share > 55 else "#222222"
            axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=color)


def _plain(names: Sequence[str]) -> list[str]:
    """Class names short enough for an axis and without a formula: a dollar sign would start one."""
    short = [one_line(name) for name in names]
    return [(name if len(name) <= 24 else name[:23] + "…").replace("$", r"\$") for name in short]
