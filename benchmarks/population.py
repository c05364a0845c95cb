"""B5: how fast agents are made, and how much memory each of them takes."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import aiomas
from benchmarks.plan import Plan
from benchmarks.results import Aim, Result
from benchmarks.subjects import Echo

Measure = Callable[[Callable[[], Any], int], float]
"""Takes what makes one, and how many to make."""

PLAIN = "objects"


class Registry:
    """Holds plain objects by their ids."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}


class PlainAgent:
    """As little as an agent can be: it has an address, and is found by its id."""

    def __init__(self, registry: Registry) -> None:
        aid = str(len(registry.objects))
        self.registry = registry
        self.address = f"local://agents/{aid}"
        registry.objects[aid] = self


def _rate(make: Callable[[], Any], count: int) -> float:
    gc.collect()
    start = time.perf_counter()
    made = [make() for _ in range(count)]
    elapsed = time.perf_counter() - start
    return len(made) / elapsed


def _size(make: Callable[[], Any], count: int) -> float:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        made = [make() for _ in range(count)]
        return (tracemalloc.get_traced_memory()[0] - before) / len(made)
    finally:
        tracemalloc.stop()


def _called(container: aiomas.Container) -> Echo:
    """Make an agent with what it has once it was called."""
    agent = Echo(container)
    assert agent.router is not None
    return agent


async def _ours(measure: Measure, count: int, make: Callable[..., Any] = Echo) -> float:
    async with aiomas.Container.open(aiomas.get_queue("bench")) as container:
        return measure(lambda: make(container), count)


def _plain(measure: Measure, count: int) -> float:
    registry = Registry()
    return measure(lambda: PlainAgent(registry), count)


def measure_agents(plan: Plan) -> list[Result]:
    """Return the rows for agents made per second, and for bytes of each."""
    plan.tell("B5")
    count = 2_000 if plan.quick else 100_000
    rates: dict[str, list[float]] = {"aiomas": [], PLAIN: []}
    for _ in range(min(plan.rounds, 3)):
        rates["aiomas"].append(asyncio.run(_ours(_rate, count)))
        rates[PLAIN].append(_plain(_rate, count))
    plain = [_plain(_size, count)]
    sizes = {"aiomas": [asyncio.run(_ours(_size, count))], PLAIN: plain}
    called = {"aiomas": [asyncio.run(_ours(_size, count, _called))], PLAIN: plain}
    note = f"{count:,} agents, against plain objects in a dictionary"
    found = (
        ("B5-rate", "agents made", "agents/s", rates, Aim(400_000)),
        ("B5-size", "bytes of an agent", "B", sizes, Aim(450, at_most=True)),
        ("B5-called", "once it was called", "B", called, Aim(450, at_most=True)),
    )
    return [
        Result(name, what, "asyncio", None, unit, rounds, [aim], note)
        for name, what, unit, rounds, aim in found
    ]
