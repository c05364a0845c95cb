"""Draws curves as SVG, on two logarithmic axes; nothing but text is needed for that.

A drawing brings its own background, light or dark as the reader's system is, so that it can be read
on any page.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 680, 420
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 92, 60
"""The margins around the axes."""
STEPS = (1, 2, 5)
"""The marks within a decade."""
DASHES = ("", "7 4", "2 4", "9 3 2 3")
STYLE = """
svg { color-scheme: light dark; font: 13px system-ui, sans-serif }
.back { fill: #ffffff } text { fill: #24292f } .grid { stroke: #d0d7de } .axis { stroke: #57606a }
.title { font-size: 16px; font-weight: 600 } path { fill: none; stroke-width: 2 }
.s0 { stroke: #1f6feb } .s1 { stroke: #d1570a } .s2 { stroke: #1a8754 } .s3 { stroke: #a13fc7 }
circle.s0 { fill: #1f6feb } circle.s1 { fill: #d1570a }
circle.s2 { fill: #1a8754 } circle.s3 { fill: #a13fc7 }
@media (prefers-color-scheme: dark) {
.back { fill: #16191d } text { fill: #e6edf3 } .grid { stroke: #30363d } .axis { stroke: #8b949e }
.s0 { stroke: #6cb0ff } .s1 { stroke: #ff9a56 } .s2 { stroke: #4cc38a } .s3 { stroke: #d69bf0 }
circle.s0 { fill: #6cb0ff } circle.s1 { fill: #ff9a56 }
circle.s2 { fill: #4cc38a } circle.s3 { fill: #d69bf0 }
}"""


def count(value: float) -> str:
    """Return ``count(20_000)`` as "20k"."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{prefix}"
    return f"{value:g}"


def size(value: float) -> str:
    """Return ``size(4096)`` as "4 KiB"."""
    for factor, prefix in ((2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki")):
        if value >= factor:
            return f"{value / factor:g} {prefix}B"
    return f"{value:g} B"


@dataclasses.dataclass(frozen=True)
class Axis:
    """A logarithmic axis from *low* to *high*, drawn from *start* to *end*."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Return where *value* is on the drawing."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def limits(values: Iterable[float]) -> tuple[float, float]:
    """Return round figures around *values*, at least a decade apart.

    Less than a decade would make noise look like a slope.

    Raises:
        ValueError: there are no values, or one of them is not positive.
    """
    found = sorted(values)
    if not found or found[0] <= 0:
        msg = "a logarithmic axis needs positive values"
        raise ValueError(msg)
    low, high = _round(found[0], up=False), _round(found[-1], up=True)
    while high / low < 9.99:
        low, high = _round(low / 1.01, up=False), _round(high * 1.01, up=True)
    return low, high


def marks(low: float, high: float) -> list[float]:
    """Return round figures from *low* to *high*, few enough to be read."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = STEPS if last - first <= 3 else STEPS[:1]
    found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [mark for mark in found if low * 0.999 <= mark <= high * 1.001]


def _round(value: float, *, up: bool) -> float:
    """Return the next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    steps = [step * power for step in (*STEPS, 10)]
    if up:
        return next(step for step in steps if step >= value * 0.999)
    return next(step for step in reversed(steps) if step <= value * 1.001)


@dataclasses.dataclass
class Curve:
    """What is drawn.

    Attributes:
        name: of its file.
        title: above the drawing.
        x_label: with its unit.
        y_label: with its unit.
        series: by name, up to four lists of points.
        x_text: turns a mark of the x axis into text.
        y_text: the same for the y axis.
        note: what has to be known about the run.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    series: dict[str, list[tuple[float, float]]]
    x_text: Callable[[float], str] = count
    y_text: Callable[[float], str] = count
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what was measured as plain values."""
        fields = ("name", "title", "x_label", "y_label", "series", "note")
        return {field: getattr(self, field) for field in fields}


def draw(curve: Curve) -> str:
    """Return the drawing.

    Raises:
        ValueError: there are no points, or one of them is not positive.
    """
    points = [point for series in curve.series.values() for point in series]
    y_low, y_high = limits(y for _, y in points)
    xs = sorted({x for x, _ in points})
    # One point alone is drawn, too.
    x_axis = Axis(xs[0], max(xs[-1], xs[0] * 2), LEFT + 12, WIDTH - RIGHT - 12)
    y_axis = Axis(y_low, y_high, HEIGHT - BOTTOM, TOP)
    title = escape(curve.title)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{title}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="back" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        f'<text class="title" x="{LEFT}" y="28">{title}</text>',
        *_grid(curve, x_axis, y_axis, xs),
        *_labels(curve),
        *_legend(curve),
        *_series(curve, x_axis, y_axis),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _grid(curve: Curve, x_axis: Axis, y_axis: Axis, xs: list[float]) -> list[str]:
    lines = []
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for mark in marks(y_axis.low, y_axis.high):
        y = f"{y_axis.place(mark):.1f}"
        text = escape(curve.y_text(mark))
        lines += [
            f'<line class="grid" x1="{LEFT}" y1="{y}" x2="{right}" y2="{y}"/>',
            f'<text x="{LEFT - 8}" y="{y}" dy="4" text-anchor="end">{text}</text>',
        ]
    for mark in xs:  # what was measured says more than round figures between
        x = f"{x_axis.place(mark):.1f}"
        text = escape(curve.x_text(mark))
        lines += [
            f'<line class="grid" x1="{x}" y1="{TOP}" x2="{x}" y2="{bottom}"/>',
            f'<text x="{x}" y="{bottom + 20}" text-anchor="middle">{text}</text>',
        ]
    lines.append(f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    lines.append(f'<line class="axis" x1="{LEFT}" y1="{TOP}" x2="{LEFT}" y2="{bottom}"/>')
    return lines


def _labels(curve: Curve) -> list[str]:
    x, y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    x_label, y_label = escape(curve.x_label), escape(curve.y_label)
    upwards = f'transform="translate(22 {y}) rotate(-90)"'
    return [
        f'<text x="{x}" y="{HEIGHT - 14}" text-anchor="middle">{x_label}</text>',
        f'<text {upwards} text-anchor="middle">{y_label}</text>',
    ]


def _legend(curve: Curve) -> list[str]:
    lines = []
    for number, name in enumerate(curve.series):
        row, column = divmod(number, 2)
        x, y = LEFT + column * (WIDTH - LEFT - RIGHT) // 2, 50 + 20 * row
        lines += [
            f'<path class="s{number}" d="M{x} {y}h28" stroke-dasharray="{DASHES[number]}"/>',
            f'<text x="{x + 34}" y="{y + 4}">{escape(name)}</text>',
        ]
    return lines


def _series(curve: Curve, x_axis: Axis, y_axis: Axis) -> list[str]:
    lines = []
    for number, series in enumerate(curve.series.values()):
        places = [f"{x_axis.place(x):.1f} {y_axis.place(y):.1f}" for x, y in series]
        way = "L".join(places)
        lines.append(f'<path class="s{number}" d="M{way}" stroke-dasharray="{DASHES[number]}"/>')
        for place in places:
            x, y = place.split()
            lines.append(f'<circle class="s{number}" cx="{x}" cy="{y}" r="3.5"/>')
    return lines
