"""Shows results: as a table on the terminal, as JSON, and as Markdown for the documentation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.results import Aim, Result
from benchmarks.svg import Curve, draw

SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
SHORT = {"calls/s": "/s", "agents/s": "/s", "messages/s": "/s"}
"""Units of which the line says what they count."""
HEAD = ("", "what", "loop", "core", "aiomas", "against", "figure", "ratio", "aim", "met")
NUMBERS = {"aiomas", "figure", "ratio"}
WIDTH = 100
"""Columns that the table has room in, so that it can be read in a log."""
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


def lines(result: Result) -> Iterator[list[str]]:
    """Yield what the table says about a result: a line for each baseline.

    The cells are those of :data:`HEAD`; what is the same for all baselines is in the first line.
    """
    first = [
        result.id.removesuffix("-unpinned"),  # as the next columns say
        result.what,
        result.loop,
        {True: "one", False: "all", None: ""}[result.pinned],
        quantity(result.figures[result.ours], result.unit),
    ]
    for number, name in enumerate(result.ratios or [None]):
        aims = [aim for aim in result.aims if aim.against == name or not (aim.against or number)]
        against = ["", "", ""]
        if name is not None:
            figure = quantity(result.figures[name], result.unit)
            against = [name, figure, f"{result.ratios[name]:.2f}"]
        verdict = {True: "yes", False: "no"}[met(result, aims)] if aims else ""
        yield [*first, *against, ", ".join(bound(aim, result.unit) for aim in aims), verdict]
        first = [""] * len(first)


def met(result: Result, aims: Iterable[Aim]) -> bool:
    """Return whether all these aims of a result are met."""
    return all(aim.met(result.reached(aim)) for aim in aims)


def bound(aim: Aim, unit: str) -> str:
    """Return ``bound(Aim(0.75, "P"), "calls/s")`` as ">= 0.75"."""
    value = quantity(aim.value, unit) if aim.against is None else f"{aim.value:g}"
    return f"{'<=' if aim.at_most else '>='} {value}"


def table(results: Iterable[Result], facts: dict[str, Any]) -> Table:
    """Return the table for the terminal."""
    machine = f"{facts['cpu']}, {facts['cores']} cores"
    title = f"aiomas {facts['aiomas']}, Python {facts['python']}, {machine}"
    made = Table(title=title, padding=0, box=SIMPLE_HEAD)
    for column in HEAD:
        made.add_column(column, justify="right" if column in NUMBERS else "left")
    for result in results:
        for *line, last in lines(result):
            style = {"yes": "green", "no": "red"}.get(last)
            made.add_row(*line, f"[{style}]{last}[/]" if style else last)
    return made


def remarks(results: Iterable[Result]) -> Iterator[str]:
    """Yield what the table has no room for: the notes, and how many aims are met and which not."""
    notes: dict[str, dict[str, None]] = {}  # the rows with the same note, each once
    missed, aims = [], 0
    for result in results:
        if result.note:
            notes.setdefault(result.note, {})[result.id] = None
        aims += len(result.aims)
        missed += [(result, aim) for aim in result.aims if not met(result, [aim])]
    for note, names in notes.items():
        yield f"{', '.join(names)}: {note}."
    if aims:
        yield f"{aims - len(missed)} of {aims} aims are met{'; missed:' if missed else '.'}"
    for result, aim in missed:
        yield f"- {_missed(result, aim)}"


def _missed(result: Result, aim: Aim) -> str:
    reached = result.reached(aim)
    where = ", ".join(filter(None, (result.id, result.loop)))
    if aim.against is None:
        return f"{where}: {quantity(reached, result.unit)}, aim {bound(aim, result.unit)}"
    return f"{where}: {reached:.2f} of {aim.against}, aim {bound(aim, result.unit)}"


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
    folder: str, results: Sequence[Result], curves: Iterable[Curve], facts: dict[str, Any]
) -> Iterator[str]:
    versions = ", ".join(f"{name} {facts[name]}" for name in ("msgpack", "uvloop") if facts[name])
    yield f"Measured on {facts['date']} with `{facts['command']}`, which took {facts['seconds']} s:"
    yield f"aiomas {facts['aiomas']}, Python {facts['python']}, {versions};"
    yield f"{facts['cpu']}, {facts['cores']} cores, {facts['system']}."
    yield ""
    yield f"| {' | '.join(HEAD)} |"
    yield "| --- " * len(HEAD) + "|"
    for result in results:
        for line in lines(result):
            yield f"| {' | '.join(line)} |"
    for remark in remarks(results):
        yield from ([remark] if remark.startswith("-") else ["", remark])
    for curve in curves:
        yield ""
        yield f"![{curve.title}, against {curve.x_label}]({folder}/{curve.name}.svg)"
        if curve.note:
            yield ""
            yield curve.note
