"""What benchmarks of clusters have in common: their options, a start, and the table."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable

import psutil
from rich.console import Console
from rich.table import Table

import aiomas
from aiomas.cluster import Cluster


def parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """Return the options of the command line."""
    made = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    made.add_argument("--rounds", type=int, default=3, help="of starts and losses (default: 3)")
    made.add_argument("--seconds", type=float, default=2.0, help="of calls (default: 2)")
    return made


async def start(made: Cluster) -> tuple[float, float]:
    """Return seconds until all containers are ready, and until all have ended again."""
    begin = time.perf_counter()
    async with made:
        ready = time.perf_counter() - begin
        begin = time.perf_counter()
    return ready, time.perf_counter() - begin


def show(where: str, rows: Iterable[tuple[str, str]]) -> None:
    """Print figures as a table, when all of them have been measured."""
    python = f"Python {sys.version.split()[0]}, {psutil.cpu_count()} cores"
    table = Table(title=f"Clusters of aiomas {aiomas.__version__} {where}, {python}")
    table.add_column("")
    table.add_column("", justify="right")
    for name, figure in rows:
        table.add_row(name, figure)
    Console(width=100).print(table)
