"""Clusters: how soon containers are ready, calls against containers, and a mesh that gossips."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence

import psutil

from aiomas.cluster import Cluster
from benchmarks import clusters
from benchmarks.gossip import Village
from benchmarks.loops import LOOPS
from benchmarks.plan import Plan
from benchmarks.results import Result
from benchmarks.svg import Curve

CONTAINERS = 32
AGENTS = 1_000
"""In each container of the mesh."""
CALLED = (1, 2, 4, 8, 16)
"""How many containers are called in the curve."""


async def gossip(loop_name: str, plan: Plan) -> dict[str, float]:
    """Run the mesh and return its size, messages/s, and memory in bytes, of all and of each."""
    containers, agents = (3, 20) if plan.quick else (CONTAINERS, AGENTS)
    seconds = 10 * plan.seconds
    async with Cluster(containers, loop=loop_name, preload=["benchmarks.gossip"]) as cluster:
        villages = await cluster.spawn_many(Village, [(agents,)] * containers)
        addresses = await asyncio.gather(*[village.addresses() for village in villages])
        await asyncio.gather(
            *[
                village.meet(addresses[number + 1 :] + addresses[:number])
                for number, village in enumerate(villages)
            ]
        )
        begin = time.perf_counter()
        counts = await asyncio.gather(
            *[village.gossip(seconds, number) for number, village in enumerate(villages)]
        )
        rate = sum(counts) / (time.perf_counter() - begin)
        each = clusters.memory([info.pid for info in cluster.containers])
    return {
        "containers": containers,
        "agents": agents,
        "rate": rate,
        "memory": each * containers,
        "each": each,
    }


def measure_mesh(plan: Plan) -> list[Result]:
    """Return the rows about the mesh, for each event loop."""
    results = []
    for loop_name in LOOPS:
        plan.tell(f"mesh, {loop_name}")
        found = asyncio.run(gossip(loop_name, plan))
        note = (
            f"{found['containers']} containers, each connected to all others, "
            f"of {found['agents']:,} agents each; memory is PSS"
        )
        for name, part, unit in (
            ("rate", "gossip", "messages/s"),
            ("memory", "memory of all", "B"),
            ("each", "memory of each", "B"),
        ):
            rounds = {"aiomas": [found[name]]}
            results.append(Result(f"mesh-{name}", part, loop_name, None, unit, rounds, note=note))
    return results


def measure_start(plan: Plan) -> list[Result]:
    """Return the rows about containers that become ready, in processes of their own."""
    containers = 3 if plan.quick else CONTAINERS
    plan.tell("B6")
    ours, own, plain = [], [], []
    for _ in range(min(plan.rounds, 3)):
        ready, size, _ = asyncio.run(clusters.start(containers, "unix"))
        ours.append(ready)
        own.append(size)
        plain.append(clusters.interpreters(containers))
    rounds = {"aiomas": ours, "interpreters": plain}
    note = (
        f"{containers} over Unix sockets, against as many that only import asyncio; memory is PSS"
    )
    return [
        Result("B6-ready", "containers ready", "", None, "s", rounds, note=note),
        Result("B6-memory", "memory of each", "", None, "B", {"aiomas": own}, note=note),
    ]


async def over_containers(
    loop_name: str, called: Sequence[int], plan: Plan
) -> list[tuple[float, float]]:
    """Return calls/s in all, by containers that are called, each one by another container."""
    figures: dict[int, list[float]] = {count: [] for count in called}
    preload = ["benchmarks.clusters"]
    async with Cluster(2 * max(called), loop=loop_name, preload=preload) as cluster:
        agents = await cluster.spawn_many(clusters.Caller, 2 * max(called))
        pairs = list(zip(agents[::2], agents[1::2], strict=True))
        for number in range(plan.rounds + 1):
            for count in called:
                # With many processes on few cores, a turn of each of them takes a while.
                seconds = plan.seconds * (4 if number else 1)
                rates = await asyncio.gather(
                    *[one.pipelined(other, seconds) for one, other in pairs[:count]]
                )
                if number:  # the first round is to warm up
                    figures[count].append(sum(rates))
    return [(count, statistics.median(values)) for count, values in figures.items()]


def draw_containers(plan: Plan) -> list[Curve]:
    """Return the curve over containers."""
    series = {}
    for loop_name in LOOPS:
        plan.tell(f"containers, {loop_name}")
        series[loop_name] = asyncio.run(over_containers(loop_name, plan.points(CALLED), plan))
    return [
        Curve(
            "containers",
            f"Calls per second, in all, on {psutil.cpu_count()} cores",
            f"containers, each called by another one, {clusters.IN_FLIGHT} in flight",
            "calls per second",
            series,
        )
    ]
