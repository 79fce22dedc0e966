"""A net as a picture: its stages from left to right, and below them what a unit in the middle of each sees."""

from collections import Counter

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import FancyArrowPatch, Rectangle

from daybreak.explain.inspection import Inspection, Stage
from daybreak.report.figures import STYLE, TEST

JOINS = {"add": "+ shortcut", "concatenate": "side by side"}
SMALLEST_BOX = 0.1  # of the height of the image's box
MAX_LINES = 6  # of a stage's description


def draw(found: Inspection) -> Figure:
    """The height of a box is the side of the maps, its width grows with the number of channels. Below, bright pixels
    count most for the unit in the middle; the dashed line is round its theoretical receptive field."""
    columns = 1 + len(found.stages)
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(max(6.5, 1.9 * columns), 6.2), layout="constrained")
        upper, lower = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=[3, 2])))
        _draw_boxes(upper.subplots(), found)
        _draw_fields(lower, found)
        totals = f"{found.params:,} parameters, {found.macs / 1e6:.0f} million multiply-adds"
        figure.suptitle(f"{found.name} at {found.image_size} px: {totals}", size=11)
    return figure


def _draw_boxes(axes: Axes, found: Inspection) -> None:
    most = max(stage.output_shape[0] for stage in found.stages)
    sides = [found.image_size, *(stage.output_shape[-1] for stage in found.stages)]
    counts = [3, *(stage.output_shape[0] for stage in found.stages)]
    for at, (side, channels) in enumerate(zip(sides, counts, strict=True)):
        height, width = max(SMALLEST_BOX, side / found.image_size), 0.12 + 0.6 * (channels / most) ** 0.5
        corner = (at - width / 2, (1 - height) / 2)
        axes.add_patch(Rectangle(corner, width, height, facecolor=TEST if at else "#999999", alpha=0.75))
        if at:
            arrow = FancyArrowPatch((at - 0.62, 0.5), (at - width / 2, 0.5), arrowstyle="-|>", mutation_scale=9)
            axes.add_patch(arrow)
    axes.text(0, -0.06, f"image\n{found.image_size} px", ha="center", va="top", size=8)
    for at, stage in enumerate(found.stages, 1):
        shape = "×".join(map(str, stage.output_shape))
        axes.text(at, -0.06, f"{stage.name}\n{shape}", ha="center", va="top", size=8, weight="bold")
        axes.text(at, -0.28, _contents(found, stage), ha="center", va="top", size=7.5)
    axes.set(xlim=(-0.5, len(sides) - 0.5), ylim=(-0.95, 1.05))
    axes.axis("off")


def _contents(found: Inspection, stage: Stage) -> str:
    """What a stage is made of, e.g. `3 × conv 3×3`, in the order in which its kinds first come."""
    rows = [row.kind for row in found.layers if row.is_in(stage.name)]
    kinds = Counter(JOINS.get(kind, kind) for kind in rows if kind in JOINS or "×" in kind)
    lines = [kind if count == 1 else f"{count} × {kind}" for kind, count in kinds.items()]
    return "\n".join(lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 1], "…"])


def _draw_fields(figure: SubFigure, found: Inspection) -> None:
    all_axes = figure.subplots(1, len(found.stages), squeeze=False)[0]
    for axes, stage in zip(all_axes, found.stages, strict=True):
        axes.imshow(stage.counts_HW, cmap="viridis", vmin=0, vmax=1)
        middle = stage.output_shape[-1] // 2
        low, high = stage.seen.span(middle, found.image_size)
        edge = Rectangle((low - 0.5, low - 0.5), high - low, high - low, fill=False, edgecolor="white", linestyle="--")
        edge.set_linewidth(1.5)
        axes.add_patch(edge)
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{stage.name} sees {stage.seen.size} px\nand uses {stage.effective_side:.0f}", size=8.5)
