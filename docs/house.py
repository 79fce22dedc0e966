"""Draw the rooms of daybreak and which imports which, from the imports themselves: docs/house.svg.

python docs/house.py

The rows are the layers that import-linter holds (pyproject.toml), core at the bottom and the command line at the top;
layers that import nothing from each other share a row. An arrow that others imply is left out: a room that imports
explain may also import what explain stands on.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import grimp
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path as Curve
from sklearn.isotonic import isotonic_regression

from daybreak.report.figures import STYLE, TEST, svg

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "house.svg"
WIDTH, HEIGHT, ROW, GAP = 1.5, 0.46, 0.95, 0.35  # of a box, from row to row, and from box to box: inches
ORDERING, PULLING = 20, 200  # sweeps over the rows
PLAIN, APART, INK = "#f3f1ec", "#dbe8f4", "#333333"
Edges = dict[str, set[str]]
Node = str | tuple[str, str, int]  # a room, or where the arrow from one to another passes a row


def layers() -> list[list[str]]:
    """The layers of import-linter's contract, the highest first; a layer is one room or several."""
    (contract,) = (c for c in _contracts() if c["type"] == "layers")
    return [[room.strip().removeprefix("daybreak.") for room in line.split("|")] for line in contract["layers"]]


def apart_from_training() -> set[str]:
    """The rooms that may not import training."""
    (contract,) = (c for c in _contracts() if c.get("forbidden_modules") == ["daybreak.training"])
    return {room.removeprefix("daybreak.") for room in contract["source_modules"]}


def imports(rooms: set[str]) -> Edges:
    """Which room imports which."""
    graph = grimp.build_graph("daybreak", cache_dir=None)
    edges: Edges = {room: set() for room in rooms}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            source, target = _room(module), _room(imported)
            if source != target and {source, target} <= rooms:
                edges[source].add(target)
    return edges


def reduced(edges: Edges) -> Edges:
    """Without the arrows that others imply: the transitive reduction (Aho, Garey and Ullman 1972).

    Raises:
        RecursionError: rooms import each other in a circle.
    """

    @cache
    def below(room: str) -> frozenset[str]:
        return frozenset(edges[room]).union(*map(below, edges[room]))

    return {room: {t for t in ts if not any(t in below(other) for other in ts)} for room, ts in edges.items()}


def rows(layers: list[list[str]], edges: Edges) -> list[list[str]]:
    """The rooms of each row, the lowest first: adjacent layers share a row where neither imports the other."""
    found: list[list[str]] = []
    for layer in reversed(layers):
        if found and not any(edges[room] & set(found[-1]) for room in layer):
            found[-1] += layer
        else:
            found.append(list(layer))
    return found


def ways(rows: list[list[str]], edges: Edges) -> list[list[Node]]:
    """The nodes on the way of every arrow, from its source down."""
    level = {room: y for y, row in enumerate(rows) for room in row}
    return [
        [source, *((source, target, y) for y in range(level[source] - 1, level[target], -1)), target]
        for source in sorted(edges)
        for target in sorted(edges[source])
    ]


def place(rows: list[list[str]], ways: list[list[Node]]) -> dict[Node, tuple[float, float]]:
    """Where every node is: x, y in inches.

    Rows are ordered by the means of their neighbours (Sugiyama, Tagawa and Toda 1981); then each node is pulled to that
    mean as far as the widths of the boxes let it.
    """
    passing = [node for way in ways for node in way if not isinstance(node, str)]
    nodes: list[list[Node]] = [[*row, *(node for node in passing if node[2] == y)] for y, row in enumerate(rows)]
    near: dict[Node, list[Node]] = {node: [] for row in nodes for node in row}
    for upper, lower in (pair for way in ways for pair in pairwise(way)):
        near[upper].append(lower)
        near[lower].append(upper)
    x = {node: i - (len(row) - 1) / 2 for row in nodes for i, node in enumerate(row)}
    for sweep in range(ORDERING + PULLING):
        for row in nodes if sweep % 2 else reversed(nodes):
            wanted = {node: float(np.mean([x[other] for other in near[node]] or [x[node]])) for node in row}
            if sweep < ORDERING:
                row.sort(key=lambda node: (wanted[node], str(node)))
            offsets = np.cumsum([0.0, *(_distance(a, b) for a, b in pairwise(row))])
            placed = isotonic_regression(np.array([wanted[node] for node in row]) - offsets) + offsets
            x.update(zip(row, placed.tolist(), strict=True))
    return {node: (round(x[node], 2), y * ROW) for y, row in enumerate(nodes) for node in row}


def draw() -> Figure:
    """The picture."""
    rooms = {room for layer in layers() for room in layer}
    edges = imports(rooms)
    stacked = rows(layers(), edges)
    arrows = ways(stacked, reduced(edges))
    places = place(stacked, arrows)
    xs, ys = zip(*places.values(), strict=True)
    left, right, top = min(xs) - WIDTH / 2 - 0.1, max(xs) + WIDTH / 2 + 0.1, max(ys) + HEIGHT / 2 + 0.1
    bottom = -HEIGHT / 2 - 0.65
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(right - left, top - bottom))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top), aspect="equal")
        axes.axis("off")
        for way in arrows:
            axes.add_patch(_arrow([places[node] for node in way]))
        apart = apart_from_training()
        for room in sorted(rooms):
            _box(axes, room, *places[room], APART if room in apart else PLAIN)
        axes.add_patch(
            Rectangle((left + 0.1, bottom + 0.35), 0.16, 0.12, facecolor=APART, edgecolor=INK, linewidth=0.8)
        )
        text = "works on a finished run and never imports training"
        axes.text(left + 0.34, bottom + 0.41, text, va="center", color=INK, fontsize=9)
        text = "An arrow points to what is imported; arrows that others imply are left out."
        axes.text(left + 0.1, bottom + 0.15, text, va="center", color=INK, fontsize=9)
    return figure


def _arrow(points: list[tuple[float, float]]) -> FancyArrowPatch:
    """A smooth line down through the points (a Catmull-Rom spline), upright where it leaves and arrives."""
    (x0, y0), *middle, (x1, y1) = points
    stops = np.array([(x0, y0 - HEIGHT / 2), *middle, (x1, y1 + HEIGHT / 2)])
    slopes = np.gradient(stops[:, 0], stops[:, 1])
    slopes[[0, -1]] = 0.0
    vertices, codes = [stops[0]], [Curve.MOVETO]
    for (a, b), (slope_a, slope_b) in zip(pairwise(stops), pairwise(slopes), strict=True):
        part = (b[1] - a[1]) / (3 if middle else 2)
        vertices += [a + np.array((slope_a * part, part)), b - np.array((slope_b * part, part)), b]
        codes += [Curve.CURVE4] * 3
    path = Curve(np.round(vertices, 3), codes)
    return FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=10, color=TEST, linewidth=1.1)


def _box(axes: Any, room: str, x: float, y: float, color: str) -> None:
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    box = FancyBboxPatch(corner, WIDTH, HEIGHT, "round,pad=0,rounding_size=0.08", facecolor=color, edgecolor=INK)
    box.set(linewidth=0.8, zorder=3)
    axes.add_patch(box)
    axes.text(x, y, room, ha="center", va="center", color=INK, fontsize=11, zorder=4)


def _distance(a: Node, b: Node) -> float:
    return sum(WIDTH / 2 if isinstance(node, str) else 0.0 for node in (a, b)) + GAP


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _contracts() -> list[Mapping[str, Any]]:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts: list[Mapping[str, Any]] = found["tool"]["importlinter"]["contracts"]
    return contracts


if __name__ == "__main__":
    PICTURE.write_text(svg(draw()), encoding="utf-8")
    print(PICTURE)
