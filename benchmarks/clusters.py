"""Measures clusters: ``python -m benchmarks.clusters`` prints all figures as a table.

Both cores of a small machine are busy with each of them, so nothing else should run.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

import aiomas
from aiomas.cluster import Cluster
from benchmarks import measure
from benchmarks.measure import MIB, PAYLOAD

AGENTS = 10_000
IN_FLIGHT = 64


class Caller(aiomas.Agent):
    """Calls another agent, again and again."""

    @aiomas.expose
    def echo(self, value: Any) -> Any:
        """Return *value*."""
        return value

    @aiomas.expose
    async def sequential(self, other: Any, seconds: float) -> float:
        """Return calls per second, one after the other."""
        return await measure.sequential(other.echo, seconds)

    @aiomas.expose
    async def pipelined(self, other: Any, seconds: float) -> float:
        """Return calls per second with :data:`IN_FLIGHT` of them under way."""
        return await measure.pipelined(IN_FLIGHT)(other.echo, seconds)


def memory(pids: list[int]) -> float:
    """Return the proportional share of memory of the processes, the mean, in bytes (Linux)."""
    return statistics.mean(psutil.Process(pid).memory_full_info().pss for pid in pids)


def interpreters(count: int) -> float:
    """Return seconds for so many new interpreters that import asyncio, to compare with."""
    begin = time.perf_counter()
    started = [subprocess.Popen([sys.executable, "-c", "import asyncio"]) for _ in range(count)]
    for process in started:
        process.wait()
    return time.perf_counter() - begin


async def start(containers: int, transport: str) -> tuple[float, float, float]:
    """Return seconds until all are ready, bytes of each, and seconds until all have ended."""
    begin = time.perf_counter()
    async with Cluster(containers, transport=transport) as cluster:
        ready = time.perf_counter() - begin
        own = memory([info.pid for info in cluster.containers])
        begin = time.perf_counter()
    return ready, own, time.perf_counter() - begin


async def spawn(containers: int, transport: str) -> tuple[float, float]:
    """Return agents made per second, and calls per second by ``map()`` to all of them."""
    async with Cluster(containers, transport=transport) as cluster:
        await cluster.spawn_many(Caller, containers)  # the module is imported
        begin = time.perf_counter()
        agents = await cluster.spawn_many(Caller, AGENTS)
        spawned = AGENTS / (time.perf_counter() - begin)
        await cluster.map("echo", agents, PAYLOAD)
        begin = time.perf_counter()
        await cluster.map("echo", agents, PAYLOAD)
        return spawned, AGENTS / (time.perf_counter() - begin)


async def calls(transport: str, loop: str, seconds: float) -> tuple[float, float]:
    """Return calls per second between two containers: sequential, and many in flight."""
    async with Cluster(2, transport=transport, loop=loop) as cluster:
        one, other = await cluster.spawn_many(Caller, 2)
        await one.pipelined(other, seconds / 4)
        return await one.sequential(other, seconds), await one.pipelined(other, seconds)


def rows(rounds: int, seconds: float) -> Iterator[tuple[str, str]]:
    """Measure one figure after the other."""
    yield "to compare with: 32 interpreters that import asyncio", f"{interpreters(32):.2f} s"
    for transport in ("unix", "tls"):
        for containers in (1, 8, 32):
            figures = [asyncio.run(start(containers, transport)) for _ in range(rounds)]
            ready, own, ended = (statistics.median(column) for column in zip(*figures, strict=True))
            yield f"{containers} containers ready, {transport}", f"{ready:.2f} s"
            yield f"  each of them takes (PSS), {transport}", f"{own / MIB:.1f} MiB"
            yield f"  all have ended, {transport}", f"{ended:.2f} s"
    spawned, mapped = asyncio.run(spawn(8, "unix"))
    yield f"{AGENTS:,} agents made in 8 containers", f"{spawned:,.0f}/s"
    yield f"map() over {AGENTS:,} agents in 8 containers", f"{mapped:,.0f}/s"
    for transport in ("unix", "tcp", "tls"):
        for loop in ("asyncio", "uvloop"):
            one, many = asyncio.run(calls(transport, loop, seconds))
            yield f"calls between containers, {transport}, {loop}, sequential", f"{one:,.0f}/s"
            yield f"  {IN_FLIGHT} in flight", f"{many:,.0f}/s"


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clusters", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="starts of each kind (default: 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of calls (default: 2)")
    options = parser.parse_args()
    python = f"Python {sys.version.split()[0]}, {psutil.cpu_count()} cores"
    table = Table(title=f"Clusters of aiomas {aiomas.__version__}, {python}")
    table.add_column("")
    table.add_column("", justify="right")
    for name, figure in rows(options.rounds, options.seconds):
        table.add_row(name, figure)
    Console(width=88).print(table)


if __name__ == "__main__":
    main()
