"""Clusters: how soon containers are ready, calls against containers, and a mesh that gossips."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Sequence
from typing import Any

import psutil

import aiomas
from aiomas.cluster import Cluster
from benchmarks import clusters
from benchmarks.loops import LOOPS
from benchmarks.plan import Plan
from benchmarks.results import Result
from benchmarks.svg import Curve

CONTAINERS = 32
AGENTS = 1_000
"""In each container of the mesh."""
CALLED = (1, 2, 4, 8, 16)
"""How many containers are called in the curve."""


class Gossip(aiomas.Agent):
    """Knows a few others, and tells them the latest rumour that it has heard."""

    def __init__(self, container: aiomas.Container) -> None:
        super().__init__(container)
        self.neighbours: list[Any] = []
        self.rumour = 0

    @aiomas.expose
    def hear(self, rumour: int) -> None:
        """Take a rumour that is newer than one's own."""
        self.rumour = max(rumour, self.rumour)

    async def tell(self) -> None:
        """Tell one's rumour to a neighbour."""
        await random.choice(self.neighbours).hear(self.rumour)


async def _meet(agent: Gossip, *connecting: Awaitable[Any]) -> None:
    agent.neighbours = await asyncio.gather(*connecting)


class Village(aiomas.Agent):
    """Speaks for the agents of its container."""

    def __init__(self, container: aiomas.Container, agents: int) -> None:
        super().__init__(container)
        self._agents = [Gossip(container) for _ in range(agents)]

    @aiomas.expose
    def addresses(self) -> list[str]:
        """Return where the agents are."""
        return [agent.addr for agent in self._agents]

    @aiomas.expose
    async def meet(self, others: list[list[str]]) -> None:
        """Let each agent know two others: one in the next container, and a random one.

        Somebody knows each agent, since it is the next one of exactly one other; and each
        container is connected to all others, since they take turns with the random ones.
        """
        dice = random.Random(1)
        following, connect = others[0], self.container.connect
        meetings = [
            _meet(
                agent,
                connect(following[(number + 1) % len(following)]),
                connect(dice.choice(others[number % len(others)])),
            )
            for number, agent in enumerate(self._agents)
        ]
        await asyncio.gather(*meetings)

    @aiomas.expose
    async def gossip(self, seconds: float, rumour: int) -> int:
        """Let all agents talk for so long, one of them with news; return how often they did."""
        self._agents[0].rumour = rumour
        count, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            for start in range(0, len(self._agents), clusters.IN_FLIGHT):
                some = self._agents[start : start + clusters.IN_FLIGHT]
                await asyncio.gather(*[agent.tell() for agent in some])
                count += len(some)
        return count

    @aiomas.expose
    def heard(self, rumour: int) -> int:
        """Return how many agents know the rumour."""
        return sum(agent.rumour == rumour for agent in self._agents)


async def gossip(loop_name: str, plan: Plan) -> dict[str, float]:
    """Run the mesh and return messages/s, memory in bytes, and how many know the last rumour."""
    containers, agents = (3, 20) if plan.quick else (CONTAINERS, AGENTS)
    seconds = 10 * plan.seconds
    async with Cluster(containers, loop=loop_name) as cluster:
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
        knowing = await asyncio.gather(*[village.heard(containers - 1) for village in villages])
        each = clusters.memory([info.pid for info in cluster.containers])
    return {
        "containers": containers,
        "agents": agents,
        "rate": rate,
        "memory": each * containers,
        "each": each,
        "informed": sum(knowing) / (containers * agents),
    }


def measure_mesh(plan: Plan) -> list[Result]:
    """Return the rows about the mesh, for each event loop."""
    results = []
    for loop_name in LOOPS:
        plan.tell(f"mesh, {loop_name}")
        found = asyncio.run(gossip(loop_name, plan))
        what = f"a mesh of {found['containers']} containers x {found['agents']:,} agents"
        note = f"{found['informed']:.0%} of the agents heard the last rumour"
        for name, part, unit in (
            ("rate", what, "messages/s"),
            ("memory", "memory (PSS) of all containers", "B"),
            ("each", "memory (PSS) of a container", "B"),
        ):
            rounds = {"aiomas": [found[name]]}
            text = note if name == "rate" else ""
            results.append(Result(f"mesh-{name}", part, loop_name, None, unit, rounds, note=text))
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
    name = f"{containers} interpreters"
    rounds = {"aiomas": ours, name: plain}
    note = "interpreters that only import asyncio"
    what = f"{containers} containers ready, over Unix sockets"
    size_of = "memory (PSS) of a container"
    return [
        Result("B6-ready", what, "", None, "s", rounds, note=note),
        Result("B6-memory", size_of, "", None, "B", {"aiomas": own}),
    ]


async def over_containers(
    loop_name: str, called: Sequence[int], plan: Plan
) -> list[tuple[float, float]]:
    """Return calls/s in all, by containers that are called, each one by another container."""
    figures: dict[int, list[float]] = {count: [] for count in called}
    async with Cluster(2 * max(called), loop=loop_name) as cluster:
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
