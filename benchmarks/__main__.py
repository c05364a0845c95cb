"""Measures aiomas against raw baselines and prints a table.

All figures of a row come from the same run: aiomas and its baselines take turns, several rounds
each, and the medians count.  "One core" means that both ends share it, so that a figure is the
total cost of a call; "all cores" is what a user sees.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks import certificates, facts, population, report, rows
from benchmarks.results import Result


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", help="names of rows, or their first parts: B1,B2-64,B3")
    parser.add_argument("--quick", action="store_true", help="short rounds: to see that it works")
    parser.add_argument("--rounds", type=int, help="rounds of each comparison (default: 5)")
    parser.add_argument("--seconds", type=float, help="of each round (default: 0.3)")
    parser.add_argument(
        "--output", type=Path, default=Path("build/bench"), help="a folder (default: build/bench)"
    )
    options = parser.parse_args()
    options.only = options.only.split(",") if options.only else None
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (0.02 if options.quick else 0.3)
    return options


def measure(options: argparse.Namespace, console: Console) -> list[Result]:
    """Measure all rows that are asked for."""
    plan = (options.rounds, options.seconds)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder, console.status("") as status:
        certificates.make(Path(folder))
        for found in rows.measure_rows(options.only, plan, folder, status.update):
            results += found
        if rows.chosen("B5", options.only):
            status.update("B5")
            results += population.measure_agents(
                options.rounds, 2_000 if options.quick else 100_000
            )
    names = [row.id for row in rows.ROWS]
    results.sort(key=lambda result: names.index(result.id) if result.id in names else len(names))
    return results


def main() -> None:
    """Measure everything, print the table and write it to files."""
    options = parse()
    console = Console(width=None if sys.stdout.isatty() else 160)
    known = facts.collect(sys.argv[1:])
    results = measure(options, console)
    console.print(report.table(results, known))
    options.output.mkdir(parents=True, exist_ok=True)
    content = {"facts": known, "rows": [result.as_json() for result in results]}
    (options.output / "results.json").write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
