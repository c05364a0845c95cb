"""A picture of the outcome, written as SVG by hand: steps over the hours, and what is missed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from .plant import Outcome
from .units import HOURS

WIDTH, HEIGHT = 960, 640
LEFT, RIGHT = 80, 24
INK, MUTED, GRID = "#1f2933", "#5f6c7b", "#e4e7eb"
TARGET, BEFORE, AFTER = "#1f2933", "#e08e0b", "#0b7285"
FONT = "font-family='Helvetica Neue, Helvetica, Arial, sans-serif'"


def draw(outcome: Outcome, agents: int) -> str:
    """Return an SVG file that shows target, result and the distance between them."""
    target, before, after = (
        [power / 1000 for power in powers]
        for powers in (outcome.target, outcome.before, outcome.after)
    )
    power = Panel(top=112, height=320, values=[0.0, *target, *before, *after])
    gap_before, gap_after = (
        [got - wanted for got, wanted in zip(powers, target, strict=True)]
        for powers in (before, after)
    )
    gap = Panel(top=484, height=100, values=[0.0, *gap_before, *gap_after])
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' {FONT}>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>",
        *_heading(outcome, agents),
        *_legend(),
        *power.axes("Power drawn from the grid (kW)"),
        _fill(power, target, after),
        _steps(power, before, BEFORE, "stroke-width='2' stroke-dasharray='5 3'"),
        _steps(power, target, TARGET, "stroke-width='5' stroke-opacity='0.3'"),
        _steps(power, after, AFTER, "stroke-width='2.2'"),
        *gap.axes("Off target (kW)"),
        *_bars(gap, gap_before, BEFORE, shift=0.12, width=0.36),
        *_bars(gap, gap_after, AFTER, shift=0.52, width=0.36),
        *_hours(gap),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


@dataclass(frozen=True)
class Panel:
    """A part of the picture with a scale of its own, wide enough for `values`."""

    top: float
    height: float
    values: Sequence[float]

    @property
    def ticks(self) -> list[float]:
        """Return round numbers, the first below and the last above all values."""
        low, high = min(self.values), max(self.values)
        step = round_step((high - low or 1.0) / (self.height / 32))
        first, last = math.floor(low / step), math.ceil(high / step)
        return [number * step for number in range(first, max(last, first + 1) + 1)]

    def y(self, value: float) -> float:
        """Return the place of a value in kW."""
        low, *_, high = self.ticks
        return self.top + self.height * (high - value) / (high - low)

    def axes(self, title: str) -> Iterator[str]:
        """Yield grid lines, their numbers, and the title of the vertical axis."""
        for tick in self.ticks:
            y = self.y(tick)
            colour, width = (MUTED, 1.2) if tick == 0 else (GRID, 1)
            yield (
                f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y:.1f}' y2='{y:.1f}' "
                f"stroke='{colour}' stroke-width='{width}'/>"
            )
            yield _text(LEFT - 10, y + 4, f"{tick:g}", size=12, anchor="end", colour=MUTED)
        middle = self.top + self.height / 2
        yield (
            f"<text x='22' y='{middle:.1f}' font-size='12' fill='{MUTED}' text-anchor='middle' "
            f"transform='rotate(-90 22 {middle:.1f})'>{escape(title)}</text>"
        )


def round_step(least: float) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten that is at least `least`."""
    power: float = 10.0 ** math.floor(math.log10(least))
    return next(step for factor in (1, 2, 5, 10) if (step := factor * power) >= least * 0.999)


def _x(hour: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * hour / HOURS


def _heading(outcome: Outcome, agents: int) -> Iterator[str]:
    before, after = outcome.distance_before_wh / 1000, outcome.distance_after_wh / 1000
    title = f"Virtual power plant: {agents} agents agree on a day"
    subtitle = (
        f"Distance to the target: {before:,.0f} kWh without control, {after:,.1f} kWh after the "
        f"negotiation ({outcome.improvement:.1%} less)"
    )
    yield _text(LEFT, 36, title, size=20, weight="600")
    yield _text(LEFT, 60, subtitle, size=14, colour=MUTED)


def _legend() -> Iterator[str]:
    entries = (
        ("Target", TARGET, "stroke-width='5' stroke-opacity='0.3'"),
        ("Before: uncontrolled", BEFORE, "stroke-width='2' stroke-dasharray='5 3'"),
        ("After: negotiated", AFTER, "stroke-width='2.2'"),
    )
    x = float(LEFT)
    for label, colour, style in entries:
        yield f"<line x1='{x}' x2='{x + 32}' y1='86' y2='86' stroke='{colour}' {style}/>"
        yield _text(x + 40, 90, label, size=13)
        x += 72 + 7.2 * len(label)


def _corners(panel: Panel, values: Sequence[float]) -> list[tuple[float, float]]:
    """Return the points of a line that keeps each value for an hour."""
    return [(_x(hour + end), panel.y(value)) for hour, value in enumerate(values) for end in (0, 1)]


def _points(corners: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)


def _steps(panel: Panel, values: Sequence[float], colour: str, style: str) -> str:
    points = _points(_corners(panel, values))
    return (
        f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-linejoin='round' "
        f"{style}/>"
    )


def _fill(panel: Panel, one: Sequence[float], other: Sequence[float]) -> str:
    outline = [*_corners(panel, one), *reversed(_corners(panel, other))]
    return f"<polygon points='{_points(outline)}' fill='{AFTER}' fill-opacity='0.25'/>"


def _bars(
    panel: Panel, values: Sequence[float], colour: str, *, shift: float, width: float
) -> Iterator[str]:
    for hour, value in enumerate(values):
        top, bottom = sorted((panel.y(value), panel.y(0)))
        yield (
            f"<rect x='{_x(hour + shift):.1f}' y='{top:.1f}' width='{_x(width) - _x(0):.1f}' "
            f"height='{bottom - top:.1f}' fill='{colour}'/>"
        )


def _hours(lowest: Panel) -> Iterator[str]:
    base = lowest.top + lowest.height
    for hour in range(0, HOURS + 1, 2):
        yield _text(_x(hour), base + 20, f"{hour}:00", size=12, anchor="middle", colour=MUTED)
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield _text(middle, base + 42, "Hour of the day", size=12, anchor="middle", colour=MUTED)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int,
    anchor: str = "start",
    colour: str = INK,
    weight: str = "400",
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' fill='{colour}' "
        f"font-weight='{weight}' text-anchor='{anchor}'>{escape(text)}</text>"
    )
