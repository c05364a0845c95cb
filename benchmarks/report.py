"""Shows results: as a table on the terminal, as JSON, and as Markdown for the documentation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.results import Aim, Result
from benchmarks.svg import Curve, draw

SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
SHORT = {"calls/s": "/s", "agents/s": "/s", "messages/s": "/s"}
"""Units of which the line says what they count."""
HEAD = ("", "what", "loop", "cores", "aiomas", "baselines", "ratio", "aim", "")
INCLUDE = "results.inc"
"""The name of the Markdown file, which is part of a page and none itself."""


def quantity(value: float, unit: str) -> str:
    """Return ``quantity(215_300, "calls/s")`` as "215 k/s"."""
    if unit == "s":
        return f"{value:.2f} s"
    short = SHORT.get(unit, unit)
    for size, prefix in SCALES:
        if value >= size:
            return f"{value / size:.{0 if value >= 100 * size else 1}f} {prefix}{short}"
    return f"{value:.0f} {short}"


def verdict(result: Result) -> str:
    """Return whether all aims are met, or nothing where there are none."""
    if not result.aims:
        return ""
    return "met" if all(aim.met(result.reached(aim)) for aim in result.aims) else "missed"


def cells(result: Result) -> list[str]:
    """Return what a line of the table says about a result."""
    figures = dict(result.figures)
    ours = figures.pop(result.ours)
    return [
        result.id,
        result.what,
        result.loop,
        {True: "one", False: "all", None: ""}[result.pinned],
        quantity(ours, result.unit),
        ", ".join(f"{name} {quantity(value, result.unit)}" for name, value in figures.items()),
        ", ".join(f"{value:.2f} of {name}" for name, value in result.ratios.items()),
        ", ".join(_aim(aim, result.unit) for aim in result.aims) or result.note,
        verdict(result),
    ]


def _aim(aim: Aim, unit: str) -> str:
    bound = "at most" if aim.at_most else "at least"
    if aim.against is None:
        return f"{bound} {quantity(aim.value, unit)}"
    return f"{bound} {aim.value:g} of {aim.against}"


def table(results: Iterable[Result], facts: dict[str, Any]) -> Table:
    """Return the table for the terminal."""
    machine = f"{facts['cpu']}, {facts['cores']} cores"
    made = Table(title=f"aiomas {facts['aiomas']}, Python {facts['python']}, {machine}")
    for column in HEAD:
        made.add_column(column)
    for result in results:
        *line, last = cells(result)
        style = {"met": "green", "missed": "red"}.get(last)
        made.add_row(*line, f"[{style}]{last}[/]" if style else last)
    return made


def write(
    folder: Path, results: Sequence[Result], curves: Sequence[Curve], facts: dict[str, Any]
) -> Iterator[Path]:
    """Write all figures as JSON, and the drawings; yield the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "facts": facts,
        "rows": [result.as_json() for result in results],
        "curves": [curve.as_json() for curve in curves],
    }
    path = folder / "results.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    yield path
    yield from _drawings(folder, curves)


def write_docs(
    folder: Path, results: Sequence[Result], curves: Sequence[Curve], facts: dict[str, Any]
) -> Iterator[Path]:
    """Write what a page of the documentation includes, and the drawings; yield the files' names.

    The page is beside *folder*, which has the same name as the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / INCLUDE
    path.write_text("\n".join(_markdown(folder.name, results, curves, facts)) + "\n")
    yield path
    yield from _drawings(folder, curves)


def _drawings(folder: Path, curves: Iterable[Curve]) -> Iterator[Path]:
    for curve in curves:
        path = folder / f"{curve.name}.svg"
        path.write_text(draw(curve))
        yield path


def _markdown(
    folder: str, results: Iterable[Result], curves: Iterable[Curve], facts: dict[str, Any]
) -> Iterator[str]:
    versions = ", ".join(f"{name} {facts[name]}" for name in ("msgpack", "uvloop") if facts[name])
    yield f"Measured on {facts['date']} with `{facts['command']}`, which took {facts['seconds']} s:"
    yield f"aiomas {facts['aiomas']}, Python {facts['python']}, {versions};"
    yield f"{facts['cpu']}, {facts['cores']} cores, {facts['system']}."
    yield ""
    yield f"| {' | '.join(HEAD)} |"
    yield "| --- " * len(HEAD) + "|"
    for result in results:
        yield f"| {' | '.join(cells(result))} |"
    for curve in curves:
        yield ""
        yield f"![{curve.title}, against {curve.x_label}]({folder}/{curve.name}.svg)"
        if curve.note:
            yield ""
            yield curve.note
