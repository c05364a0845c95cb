"""What was counted last: reads it, writes it, and compares it with what is counted now."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("limits.toml")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
COMMAND = "python -m tests.cost --record"

INEXACT = {"allocations", "bytes"}
"""Figures that a patch release of Python, or of a library, may change a little by itself."""
SLACK = 1.05
"""How often the limit an inexact figure may be."""
STALE = 0.9
"""How much of the limit a figure has to be: if it is less, the limit guards nothing any more."""

HEAD = """\
# What one call costs, both ends together: counted, not measured. Written by
#
#     {command}
#
# with each Python, once it is known why figures have changed. The tests fail if a figure is above
# its limit here, and if it is so far below that the limit ought to be lowered.
#
# tasks        tasks of asyncio that are made
# sends        system calls that send (of 64 calls in flight, what is sent together counts once)
# receives     system calls that receive
# polls        times that the event loop asks for events, or waits for one
# functions    functions and coroutine steps of aiomas, and functions in Python that it calls
# builtins     functions in C that aiomas calls
# callbacks    callbacks that the event loop is told to run next
# timers       callbacks that the event loop is told to run later
# survivors    blocks of memory that are there after a call, and were not before
# allocations  blocks asked of the allocator, also by the interpreter and by libraries
# bytes        their size together
"""


@dataclass
class Limits:
    """Limits by case, figure and Python."""

    tables: dict[str, dict[str, dict[str, float]]]

    @classmethod
    def read(cls, file: Path = FILE) -> Limits:
        return cls(tomllib.loads(file.read_text()) if file.exists() else {})

    def write(self, file: Path = FILE) -> None:
        file.write_text(self.text())

    def text(self) -> str:
        """Return the file's text."""
        lines = [HEAD.format(command=COMMAND)]
        for case, table in self.tables.items():
            lines.append(f"[{case}]")
            for figure, limits in table.items():
                cells = ", ".join(f'"{name}" = {limits[name]:9.10g}' for name in sorted(limits))
                lines.append(f"{figure:<11} = {{ {cells} }}")
            lines.append("")
        return "\n".join(lines)

    def of(self, case: str, python: str = PYTHON) -> dict[str, float]:
        """Return the limits of a case; none if nothing was recorded with this Python."""
        table = self.tables.get(case, {})
        return {figure: table[figure][python] for figure in table if python in table[figure]}

    def record(self, counted: dict[str, dict[str, float]], python: str = PYTHON) -> None:
        """Make what was *counted* the limits of this Python, and forget cases that are gone."""
        old, self.tables = self.tables, {}
        for case, figures in counted.items():
            table = {figure: dict(row) for figure, row in old.get(case, {}).items()}
            for row in table.values():
                row.pop(python, None)
            for figure, value in figures.items():
                table.setdefault(figure, {})[python] = value
            self.tables[case] = {figure: row for figure, row in table.items() if row}

    def compare(self, case: str, counted: dict[str, float], python: str = PYTHON) -> list[str]:
        """Return what is wrong with the figures of a case, in sentences."""
        limits = self.of(case, python)
        problems = []
        if not limits:
            return [f"{case}: nothing was recorded for Python {python}"]
        for figure, now in counted.items():
            if figure not in limits:
                problems.append(f"{case}: {figure} has no limit for Python {python}")
                continue
            limit = limits[figure]
            where = f"{case}: {figure} for each call, on Python {python}:"
            if now > limit * (SLACK if figure in INEXACT else 1):
                problems.append(f"{where} rose from {limit:g} to {now:g}")
            elif now < limit * STALE:
                problems.append(f"{where} fell from {limit:g} to {now:g}, so lower the limit")
        return problems
