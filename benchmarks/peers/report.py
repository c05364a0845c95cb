"""The figures of a run, and the table and the file that are made of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.peers.catalogue import AIMS, MEASURES, OURS, PEERS

INCLUDE = "peers.inc"
"""What the page on performance includes."""


@dataclass
class Row:
    """One measure of one library, and of this aiomas in the same rounds.

    Args:
        measure: a name in :data:`~benchmarks.peers.catalogue.MEASURES`.
        peer: the library's name.
        pinned: whether all processes were on one core.
        peer_rounds: its figures.
        our_rounds: the figures of this aiomas, by event loop.
        reason: why there are no figures.
    """

    measure: str
    peer: str
    pinned: bool
    peer_rounds: list[float] = field(default_factory=list)
    our_rounds: dict[str, list[float]] = field(default_factory=dict)
    reason: str | None = None

    def ratio(self, loop: str) -> float | None:
        """Return how many times as fast this aiomas is, on this loop; ``None`` if unknown.

        That is the median of the ratios of all rounds, since a machine that is slow for a while
        is slow for both.
        """
        pairs = list(zip(self.our_rounds.get(loop, []), self.peer_rounds, strict=False))
        return statistics.median(ours / theirs for ours, theirs in pairs) if pairs else None

    def cells(self) -> list[str]:
        """Return what the table shows; :func:`remarks` has why figures are missing."""
        measure = MEASURES[self.measure]
        cells = [measure.title, "one" if self.pinned else "all", self.peer]
        if self.reason is not None:
            return [*cells, "none"]
        digits = 2 if measure.unit == "GB/s" else 0
        cells.append(f"{statistics.median(self.peer_rounds):,.{digits}f}")
        for loop in OURS:
            if (ratio := self.ratio(loop)) is None:
                cells += ["", ""]
            else:
                figure = statistics.median(self.our_rounds[loop])
                cells += [f"{figure:,.{digits}f}", f"{ratio:.2f}"]
        return cells


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Return *rows* by measure and by cores; the libraries stay in their order."""
    names = list(MEASURES)
    return sorted(rows, key=lambda row: (names.index(row.measure), not row.pinned))


def table(rows: Sequence[Row], facts: dict[str, Any]) -> Table:
    """Return the table for the terminal."""
    title = f"aiomas {facts['aiomas']} and others, Python {facts['python']}, {facts['cpu']}"
    caption = "Calls/s unless said. Ratio: how many times as fast as the library aiomas is."
    made = Table(title=title, caption=caption, padding=(0, 1, 0, 0))
    for column in ("", "cores", "library"):
        made.add_column(column)
    made.add_column("its figure", justify="right")
    for loop in OURS:
        made.add_column(f"aiomas\n{loop}", justify="right")
        made.add_column("ratio", justify="right")
    previous = None
    for row in in_order(rows):
        if previous is not None and (row.measure, row.pinned) != previous:
            made.add_section()
        previous = (row.measure, row.pinned)
        made.add_row(*row.cells())
    return made


def remarks(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each library, on what a call of it is, and for what has no figures, why."""
    yield f"aiomas: {OURS['asyncio'].does}"
    measured = {row.peer for row in rows if row.reason is None}
    for peer in PEERS:
        if peer.name in measured:
            yield f"{peer.name}: {peer.does}"
    reasons: dict[tuple[str, str], dict[str, None]] = {}  # measures in their order, each once
    for row in in_order(rows):
        if row.reason is not None:
            reasons.setdefault((row.peer, row.reason), {})[row.measure] = None
    for (name, reason), measures in reasons.items():
        yield f"{name}, no figures for {', '.join(measures)}: {reason}"


def aims(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each figure that has an aim: its ratio, and whether it is high enough."""
    for row in in_order(rows):
        for loop in OURS:
            aim, ratio = AIMS.get((row.measure, loop)), row.ratio(loop)
            if aim is None or ratio is None or not row.peer.startswith("pyzmq"):
                continue
            verdict = "reached" if ratio >= aim else "not reached"
            title = MEASURES[row.measure].title
            yield f"{title}, {loop} against {row.peer}: {ratio:.2f}, aim {aim}: {verdict}"


def write(path: Path, rows: Sequence[Row], facts: dict[str, Any]) -> None:
    """Write all figures as JSON; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [
        {**asdict(row), "ratios": {loop: row.ratio(loop) for loop in OURS}}
        for row in in_order(rows)
    ]
    path.write_text(json.dumps({"facts": facts, "rows": found}, indent=2) + "\n")


def write_docs(folder: Path, rows: Sequence[Row], facts: dict[str, Any]) -> None:
    """Write what a page of the documentation includes into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INCLUDE).write_text("\n".join(_markdown(rows, facts)) + "\n")


def _markdown(rows: Sequence[Row], facts: dict[str, Any]) -> Iterator[str]:
    yield f"Measured on {facts['date']} with `{facts['command']}`:"
    yield f"aiomas {facts['aiomas']}, Python {facts['python']};"
    yield f"{facts['cpu']}, {facts['cores']} cores, {facts['system']}."
    yield "Calls/s unless said; a ratio says how many times as fast as the library aiomas is."
    yield ""
    head = ["", "cores", "library", "its figure"]
    for loop in OURS:
        head += [f"aiomas, {loop}", "ratio"]
    yield f"| {' | '.join(head)} |"
    yield "| --- " * len(head) + "|"
    for row in in_order(rows):
        cells = row.cells()
        yield f"| {' | '.join([*cells, *[''] * (len(head) - len(cells))])} |"
    yield ""
    for line in (*remarks(rows), *aims(rows)):
        yield f"- {line}"
