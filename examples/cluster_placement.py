"""A placement of one's own: agents that talk much to each other live in the same container.

A strategy is a function that gets the containers that run, and returns the position of one of them
in this sequence.  This one fills one container after the other, with a neighbourhood in each.  The
agents of a neighbourhood tell each other what they measure, and need no connection for that.

Run it with ``python examples/cluster_placement.py``, or with
``aiomas cluster run examples/cluster_placement.py:main -n 3``.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import aiomas
from aiomas.cluster import Cluster
from aiomas.cluster.placement import Place

NEIGHBOURHOODS = 4
HOUSES = 5
"""In each of them."""


class House(aiomas.Agent):
    def __init__(self, container: aiomas.Container, load: float) -> None:
        super().__init__(container)
        self.load = load

    @aiomas.expose
    async def read(self) -> float:
        return self.load

    @aiomas.expose
    async def add_up(self, others: Sequence[Any]) -> float:
        loads: list[float] = await asyncio.gather(*(other.read() for other in others))
        return self.load + sum(loads)


def in_groups(size: int) -> Callable[[Sequence[Place]], int]:
    """Return a strategy that puts each *size* agents in a row into the same container."""
    numbers = itertools.count()

    def choose(places: Sequence[Place]) -> int:
        return next(numbers) // size % len(places)

    return choose


async def main(cluster: Cluster) -> None:
    loads = [(float(number),) for number in range(NEIGHBOURHOODS * HOUSES)]
    houses = await cluster.spawn_many(House, loads, placement=in_groups(HOUSES))
    for info in cluster.containers:
        print(f"container {info.index} has {info.agents} agents")
    groups = [houses[n : n + HOUSES] for n in range(0, len(houses), HOUSES)]
    sums = await cluster.starmap("add_up", [(first, others) for first, *others in groups])
    print("loads of the neighbourhoods:", *sums)


async def run() -> None:
    async with Cluster(containers=2) as cluster:
        await main(cluster)


if __name__ == "__main__":
    asyncio.run(run())
