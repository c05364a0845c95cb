"""Shows results: as a table on the terminal, as JSON, and as Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from benchmarks.results import Result

SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
COLUMNS = ("", "", "loop", "cores", "aiomas", "baselines", "ratio", "aim", "")


def quantity(value: float, unit: str) -> str:
    """Return ``quantity(215_300, "calls/s")`` as "215 k calls/s"."""
    if unit == "s":
        return f"{value:.2f} s"
    for size, prefix in SCALES:
        if value >= size:
            return f"{value / size:.{0 if value >= 100 * size else 1}f} {prefix}{unit}"
    return f"{value:.0f} {unit}"


def cells(result: Result) -> list[str]:
    """Return what a line of the table says about a result."""
    figures = dict(result.figures)
    ours = figures.pop(result.ours)
    cores = {True: "one", False: "all", None: ""}[result.pinned]
    baselines = ", ".join(f"{name} {quantity(v, result.unit)}" for name, v in figures.items())
    ratios = ", ".join(f"{value:.2f} of {name}" for name, value in result.ratios.items())
    aims = ", ".join(
        f"{'<=' if aim.at_most else '>='} "
        + (
            quantity(aim.value, result.unit)
            if aim.against is None
            else f"{aim.value:g} of {aim.against}"
        )
        for aim in result.aims
    )
    met = all(aim.met(result.reached(aim)) for aim in result.aims)
    verdict = ("met" if met else "missed") if result.aims else ""
    return [
        result.id,
        result.what,
        result.loop,
        cores,
        quantity(ours, result.unit),
        baselines,
        ratios,
        aims or result.note,
        verdict,
    ]


def table(results: Iterable[Result], facts: dict[str, Any]) -> Table:
    """Return the table for the terminal."""
    machine = f"{facts['cpu']}, {facts['cores']} cores"
    title = f"aiomas {facts['aiomas']}, Python {facts['python']}, {machine}"
    made = Table(title=title)
    for column in COLUMNS:
        made.add_column(column)
    for result in results:
        line = cells(result)
        style = {"met": "green", "missed": "red"}.get(line[-1])
        made.add_row(*line[:-1], f"[{style}]{line[-1]}[/]" if style else line[-1])
    return made
