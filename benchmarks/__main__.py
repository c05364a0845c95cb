"""Measures aiomas against raw baselines, prints a table, and writes figures and drawings to files.

All figures of a row come from the same run: aiomas and its baselines take turns, several rounds
each, and the medians count.  "One core" means that both ends share it, so that a figure is the
total cost of a call; "all cores" is what a user sees.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks import certificates, curves, facts, mesh, population, report, rows
from benchmarks.plan import Plan
from benchmarks.results import Result
from benchmarks.svg import Curve

ROWS: dict[str, Callable[[Plan], list[Result]]] = {
    "B5": population.measure_agents,
    "B6": mesh.measure_start,
    "mesh": mesh.measure_mesh,
}
"""What measures the rows that do not compare calls, by their name."""

CURVES: dict[str, Callable[[Plan], list[Curve]]] = {
    "containers": mesh.draw_containers,
    "agents": curves.draw_agents,
    "connections": curves.draw_connections,
    "payload": curves.draw_payloads,
}
"""What measures and draws, by name."""


def names() -> list[str]:
    """Return all that can be asked for."""
    return [*(row.id for row in rows.ROWS), *ROWS, *CURVES]


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", help=f"some of these, or their first parts (B2): {','.join(names())}"
    )
    parser.add_argument("--quick", action="store_true", help="few and short rounds, to try it out")
    parser.add_argument("--rounds", type=int, help="rounds of each comparison (default: 5)")
    parser.add_argument("--seconds", type=float, help="of each round (default: 0.25)")
    parser.add_argument(
        "--output", type=Path, default=Path("build/bench"), help="a folder (default: build/bench)"
    )
    parser.add_argument(
        "--docs", type=Path, help="a folder of the documentation, for the table and the drawings"
    )
    options = parser.parse_args()
    options.only = options.only.split(",") if options.only else None
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (0.02 if options.quick else 0.25)
    for part in options.only or ():
        if not any(Plan(only=[part]).wants(name) for name in names()):
            parser.error(f"there is no {part!r}; there are {', '.join(names())}")
    return options


def progress() -> Callable[[str], None]:
    """Return what shows on the error stream what is measured, and when."""
    begin = time.perf_counter()

    def tell(what: str) -> None:
        print(f"{time.perf_counter() - begin:4.0f} s  {what}", file=sys.stderr, flush=True)

    return tell


def measure(plan: Plan) -> tuple[list[Result], list[Curve]]:
    """Measure all that is asked for."""
    results = rows.measure_rows(plan)
    for name, measure_some in ROWS.items():
        if plan.wants(name):
            results += measure_some(plan)
    found: list[Curve] = []
    for name, draw_some in CURVES.items():
        if plan.wants(name):
            found += draw_some(plan.for_curves())
    return results, found


def main() -> None:
    """Measure everything, print the table and write it to files."""
    options = parse()
    known = facts.collect("benchmarks", sys.argv[1:])
    tell = progress()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        certificates.make(Path(folder))
        plan = Plan(options.only, options.rounds, options.seconds, options.quick, folder, tell)
        results, found = measure(plan)
    known["seconds"] = round(time.perf_counter() - begin)
    tell("done")
    if results:
        console = Console(width=None if sys.stdout.isatty() else report.WIDTH)
        console.print(report.table(results, known))
        for remark in report.remarks(results):
            console.print(remark, markup=False, highlight=False)
    for path in report.write(options.output, results, found, known):
        print(path)
    if options.docs is not None:
        for path in report.write_docs(options.docs, results, found, known):
            print(path)


if __name__ == "__main__":
    main()
