"""Line charts as values, and their rendering as SVG in a page, where the page's script adds the values on hover.

No chart library is used: one that draws SVG would take up half of the page, one that draws on a canvas cannot be read
by a screen reader, and others need what the page's content-security policy forbids. For files, `figures.draw` renders
the same charts.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 14, 40
Scale = Callable[[float], float]  # a value to its place in the picture
MAX_POINTS = 400  # of a line; more cannot be told apart


@dataclass(frozen=True)
class Line:
    """A named line of (x, y) points; `style` is its class in the style sheet."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """One chart; its lines share both axes."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    from_zero: bool = False
    markers: bool = True


def svg(chart: Chart) -> Markup:
    """The chart as an SVG element; its data attribute holds the values that the script shows on hover."""
    lines = [Line(line.name, line.style, thinned(line.points)) for line in chart.lines if line.points]
    xs = [x for line in lines for x, _ in line.points] or [0.0]
    ys = [y for line in lines for _, y in line.points] or [0.0]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(0.0 if chart.from_zero else min(ys), max(ys))
    at_x = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    at_y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [
        *(_grid_line(at_y(tick), _text(tick)) for tick in y_ticks),
        *(_tick(at_x(tick), _text(tick)) for tick in x_ticks if min(xs) <= tick <= max(xs)),
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}">{escape(chart.x_label)}</text>',
        f'<text class="label" transform="translate(12 {HEIGHT / 2 - 12}) rotate(-90)">{escape(chart.y_label)}</text>',
        *(_line(line, at_x, at_y, chart.markers) for line in lines),
    ]
    hover = {
        "x": chart.x_label,
        "lines": [
            {
                "name": line.name,
                "points": [(_short(at_x(x)), _short(at_y(y)), _text(x), _text(y)) for x, y in line.points],
            }
            for line in lines
        ],
    }
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" '
        f'aria-label="{escape(_description(chart))}" data-chart="{escape(json.dumps(hover))}">{"".join(parts)}</svg>'
    )


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Every n-th point and the last, if there are more than MAX_POINTS."""
    step = math.ceil(len(points) / MAX_POINTS)
    kept = list(points[::step]) if step > 1 else list(points)
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, in steps of 1, 2 or 5 times a power of ten."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, max(last, first + 1) + 1)]


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    span = high - low or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _grid_line(y: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick y" x="{LEFT - 6}" y="{y + 4:.1f}">{text}</text>'
    )


def _tick(x: float, text: str) -> str:
    return f'<text class="tick x" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}">{text}</text>'


def _line(line: Line, at_x: Scale, at_y: Scale, markers: bool) -> str:
    points = [(at_x(x), at_y(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in points] if markers and len(points) <= 60 else []
    return f'<g class="line {line.style}"><polyline points="{path}"/>{"".join(dots)}</g>'


def _description(chart: Chart) -> str:
    """The text for screen readers: first and last value of each line."""
    ends = [
        f"{line.name} from {_text(line.points[0][1])} to {_text(line.points[-1][1])}"
        for line in chart.lines
        if line.points
    ]
    return f"{chart.title} by {chart.x_label}: {'; '.join(ends)}"


def _text(value: float) -> str:
    return f"{value:.4g}"


def _short(value: float) -> float:
    return round(value, 1)
