"""Measures other libraries and aiomas in turns and prints a table: ``make bench-peers``.

Each library is installed into an environment of its own, which is kept for the next time.  What
cannot be installed or measured is a row that says why.  "One core" means that all processes share
it, so that a figure is the total cost of a call; "all" is what a user sees.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import certificates, facts, loops
from benchmarks.peers import report
from benchmarks.peers.catalogue import MEASURES, OURS, PEERS, Peer
from benchmarks.peers.report import Row
from benchmarks.peers.session import PeerError, Program, session
from tests.interop.environments import UnavailableError

PROGRESS = Console(stderr=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    names = [peer.name for peer in PEERS]
    parser.add_argument("--only", help=f"some of these libraries: {','.join(names)}")
    parser.add_argument("--rounds", type=int, default=3, help="of each figure (default: 3)")
    parser.add_argument("--seconds", type=float, default=0.4, help="of each round (default: 0.4)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("build/peers/results.json"),
        help="the file for all figures (default: build/peers/results.json)",
    )
    parser.add_argument("--docs", type=Path, help="a folder of the documentation, for the table")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",") if options.only else names
    if unknown := set(options.only) - set(names):
        parser.error(f"no such library: {', '.join(sorted(unknown))}")
    return options


def unavailable(peer: Peer, reason: str) -> list[Row]:
    """Return the rows of a library that cannot be had."""
    return [
        Row(name, peer.name, pinned, reason=reason)
        for name in peer.measures
        for pinned in MEASURES[name].pinned
    ]


def install(peer: Peer) -> Path:
    """Return the interpreter for *peer*, with the library.

    Raises:
        UnavailableError: it cannot be had.
    """
    with PROGRESS.status(f"{peer.name}: installing, if it is not there yet"):
        python = peer.python()
    PROGRESS.print(f"{peer.name}: installed")
    return python


@contextlib.asynccontextmanager
async def all_callers(
    peer: Peer, python: Path, needs: str, certs: Path
) -> AsyncIterator[tuple[Program, dict[str, Program]]]:
    """Start the programs of *peer* and of this aiomas; yield the callers."""
    async with contextlib.AsyncExitStack() as stack:
        ours = {
            loop: await stack.enter_async_context(session(own, own.python(), needs, certs))
            for loop, own in OURS.items()
        }
        theirs = await stack.enter_async_context(session(peer, python, needs, certs))
        yield theirs, ours


async def fill(
    row: Row, theirs: Program, ours: dict[str, Program], plan: tuple[int, float]
) -> None:
    """Measure what *row* is for, in turns, after a round that does not count."""
    rounds, seconds = plan
    measure = MEASURES[row.measure]
    for number in range(-1, rounds):
        time = seconds / 4 if number < 0 else seconds
        our_figures = {loop: await own.ask(measure.ours, time) for loop, own in ours.items()}
        their_figure = await theirs.ask(measure.program_measure, time)
        if number >= 0:
            row.peer_rounds.append(their_figure)
            for loop, figure in our_figures.items():
                row.our_rounds.setdefault(loop, []).append(figure)


async def measure_peer(peer: Peer, python: Path, certs: Path, plan: tuple[int, float]) -> list[Row]:
    """Return the rows of one library.

    Args:
        plan: rounds, and seconds of each.
    """
    rows: list[Row] = []
    for pinned in (True, False) if loops.can_pin() else (False,):
        for needs in ("server", "tls", "local"):
            wanted = [
                Row(name, peer.name, pinned)
                for name in peer.measures
                if MEASURES[name].needs == needs and pinned in MEASURES[name].pinned
            ]
            if wanted:
                PROGRESS.print(f"{peer.name}: {', '.join(row.measure for row in wanted)}")
                await measure_together(wanted, peer, python, needs, certs, plan)
                rows += wanted
    return rows


async def measure_together(
    rows: list[Row], peer: Peer, python: Path, needs: str, certs: Path, plan: tuple[int, float]
) -> None:
    """Fill rows that the same programs are needed for, with figures or with a reason."""
    try:
        with loops.pinned(to_one_core=rows[0].pinned):
            async with all_callers(peer, python, needs, certs) as (theirs, ours):
                for row in rows:
                    await fill(row, theirs, ours, plan)
    except PeerError as exc:
        for row in rows:
            if len(row.peer_rounds) < plan[0]:
                row.reason = str(exc)


def install_all(names: Sequence[str]) -> tuple[list[tuple[Peer, Path]], list[Row]]:
    """Return the libraries with their interpreters, and the rows of those that cannot be had."""
    installed: list[tuple[Peer, Path]] = []
    rows: list[Row] = []
    for peer in PEERS:
        if peer.name in names:
            try:
                installed.append((peer, install(peer)))
            except UnavailableError as exc:
                PROGRESS.print(f"{peer.name}: {exc}", markup=False)
                rows += unavailable(peer, str(exc))
    return installed, rows


async def measure_all(installed: Sequence[tuple[Peer, Path]], plan: tuple[int, float]) -> list[Row]:
    """Return the rows of all libraries."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        certificates.make(Path(folder))
        for peer, python in installed:
            rows += await measure_peer(peer, python, Path(folder), plan)
    return rows


def main() -> None:
    """Install, measure, print the table and write the file."""
    options = parse(sys.argv[1:])
    # Whatever asks this to end, everything that was started ends, too, as with Ctrl-C (which is
    # ignored, at first, in what a shell runs in the background).
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        installed, rows = install_all(options.only)
        rows += asyncio.run(measure_all(installed, (options.rounds, options.seconds)))
    except KeyboardInterrupt:
        sys.exit(130)
    known = facts.collect("benchmarks.peers", sys.argv[1:])
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(report.table(rows, known))
    for line in (*report.remarks(rows), "", *report.aims(rows)):
        console.print(line, markup=False, highlight=False)
    report.write(options.output, rows, known)
    console.print(f"All figures are in {options.output}.")
    if options.docs is not None:
        report.write_docs(options.docs, rows, known)


if __name__ == "__main__":
    main()
