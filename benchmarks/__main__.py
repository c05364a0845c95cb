"""Runs all benchmarks and prints a table.

Each pair of figures comes from the same run: baseline and aiomas take turns, several rounds each,
and the median counts.  Both ends are processes pinned to one core, so that a figure is the total
cost of a call, not what a second core can hide.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import aiomas
from benchmarks import raw
from benchmarks.server import Echo

Call = Callable[[Any], Awaitable[Any]]

IN_FLIGHT = 64
PAYLOAD = "x" * 16


@contextlib.contextmanager
def server(kind: str, loop_name: str, addr: Any) -> Iterator[Any]:
    """Run a server process and yield its address."""
    command = [sys.executable, "-m", "benchmarks.server", kind, loop_name, json.dumps(addr)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.communicate(timeout=10)


@contextlib.asynccontextmanager
async def raw_client(addr: Any) -> AsyncIterator[Call]:
    """Connect to the baseline's server and yield a function that calls it."""
    loop = asyncio.get_running_loop()
    if isinstance(addr, str):
        transport, protocol = await loop.create_unix_connection(raw.Client, addr)
    else:
        transport, protocol = await loop.create_connection(raw.Client, *addr)
    try:
        yield protocol.call
    finally:
        transport.close()


@contextlib.asynccontextmanager
async def aiomas_client(url: str) -> AsyncIterator[Call]:
    """Connect to the agent at *url* and yield a function that calls it."""
    async with aiomas.Container.open(aiomas.get_queue("bench"), codec=aiomas.MsgPack) as container:
        yield (await container.connect(url)).echo


async def sequential(call: Call, seconds: float) -> float:
    """Return calls per second, one after the other."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(100):
            await call(PAYLOAD)
        count += 100
    return count / elapsed


async def pipelined(call: Call, seconds: float) -> float:
    """Return calls per second with :data:`IN_FLIGHT` of them under way."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(10):
            await asyncio.gather(*[call(PAYLOAD) for _ in range(IN_FLIGHT)])
        count += 10 * IN_FLIGHT
    return count / elapsed


async def compare(loop_name: str, addr: Any, rounds: int, seconds: float) -> list[list[float]]:
    """Return the medians ``[[raw, aiomas] of sequential, [raw, aiomas] of pipelined]``."""
    if isinstance(addr, str):
        raw_addr, our_addr = f"{addr}-{loop_name}-raw", f"{addr}-{loop_name}"
    else:
        raw_addr, our_addr = addr, addr
    with server("raw", loop_name, raw_addr) as first, server("aiomas", loop_name, our_addr) as url:
        async with raw_client(first) as raw_call, aiomas_client(url) as our_call:
            figures: list[list[float]] = []
            for measure in (sequential, pipelined):
                await measure(raw_call, seconds / 4)  # to warm up
                await measure(our_call, seconds / 4)
                results = [
                    (await measure(raw_call, seconds), await measure(our_call, seconds))
                    for _ in range(rounds)
                ]
                figures.append([statistics.median(column) for column in zip(*results, strict=True)])
            return figures


async def in_container(rounds: int, seconds: float) -> tuple[float, float]:
    """Return calls per second between two agents of one container, sequential and pipelined."""
    async with aiomas.Container.open(aiomas.get_queue("bench"), codec=aiomas.MsgPack) as container:
        call = (await container.connect(Echo(container).addr)).echo
        await sequential(call, seconds / 4)
        return (
            statistics.median([await sequential(call, seconds) for _ in range(rounds)]),
            statistics.median([await pipelined(call, seconds) for _ in range(rounds)]),
        )


async def agents(count: int) -> tuple[float, float]:
    """Return how many agents are made per second, and the bytes that each takes."""
    async with aiomas.Container.open(aiomas.get_queue("bench")) as container:
        gc.collect()
        start = time.perf_counter()
        made = [Echo(container) for _ in range(count)]
        rate = count / (time.perf_counter() - start)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        made += [Echo(container) for _ in range(count)]
        size = (tracemalloc.get_traced_memory()[0] - before) / count
        tracemalloc.stop()
        return rate, size


def run(loop_name: str, main: Any) -> Any:
    """Run a coroutine on the event loop that is to be measured."""
    factory = None
    if loop_name == "uvloop":
        import uvloop  # noqa: PLC0415 - not there on every system

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each pair (default: 5)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each round (default: 0.5)")
    options = parser.parse_args()

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # children inherit it
    table = Table(title=f"aiomas {aiomas.__version__}, Python {sys.version.split()[0]}, one core")
    for column in ("", "raw asyncio", "aiomas", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    with tempfile.TemporaryDirectory() as directory:
        addresses = {"TCP": ("127.0.0.1", 0), "Unix": str(Path(directory) / "socket")}
        for loop_name in ("asyncio", "uvloop"):
            for transport, addr in addresses.items():
                pairs = run(loop_name, compare(loop_name, addr, options.rounds, options.seconds))
                names = ("sequential", f"{IN_FLIGHT} in flight")
                for name, (baseline, ours) in zip(names, pairs, strict=True):
                    table.add_row(
                        f"{loop_name}, {transport}, {name}",
                        f"{baseline:,.0f}/s",
                        f"{ours:,.0f}/s",
                        f"{ours / baseline:.2f}",
                    )
            one, many = run(loop_name, in_container(options.rounds, options.seconds))
            table.add_row(f"{loop_name}, in one container, sequential", "", f"{one:,.0f}/s", "")
            table.add_row(f"{loop_name}, in one container, {IN_FLIGHT}", "", f"{many:,.0f}/s", "")
    rate, size = run("asyncio", agents(100_000))
    table.add_row("agents made", "", f"{rate:,.0f}/s", "")
    table.add_row("bytes for each agent", "", f"{size:,.0f}", "")
    Console(width=88).print(table)


if __name__ == "__main__":
    main()
