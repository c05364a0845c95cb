"""Agents that gossip; each container imports this, so it needs little."""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import time
from collections.abc import Awaitable
from typing import Any

import aiomas

IN_FLIGHT = 64
PATIENCE = 60.0
"""Seconds until an agent must be known: all containers connect to all others at once."""


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
        following = others[0]
        connect = functools.partial(self.container.connect, timeout=PATIENCE)
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
        for start in itertools.cycle(range(0, len(self._agents), IN_FLIGHT)):
            if time.perf_counter() >= end:
                break
            some = self._agents[start : start + IN_FLIGHT]
            await asyncio.gather(*[agent.tell() for agent in some])
            count += len(some)
        return count

    @aiomas.expose
    def heard(self, rumour: int) -> int:
        """Return how many agents know the rumour."""
        return sum(agent.rumour == rumour for agent in self._agents)
