"""Agents that gossip; each container imports this, so it needs little."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from typing import Any

import aiomas

IN_FLIGHT = 64
CONNECTING = 4
"""So many connections a container makes at once: more of them only make each other late."""
PATIENCE = 60.0
"""Seconds that a container tries to connect to another one."""


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
        """Connect to all *others*, and let each agent know two: a next one, and a random one.

        Somebody knows each agent, since it is the next one of exactly one other.  All connections
        are used, since the random ones are of each container in turns.

        Raises:
            ConnectionError: another container could not be reached; the message says what to do.
        """
        turn = asyncio.Semaphore(CONNECTING)
        await asyncio.gather(*[self._connect(agents[0], turn) for agents in others])
        dice = random.Random(1)
        following = others[0]
        proxy = self.container.proxy  # where a connection is there, nobody has to be asked
        for number, agent in enumerate(self._agents):
            agent.neighbours = [
                proxy(following[(number + 1) % len(following)]),
                proxy(dice.choice(others[number % len(others)])),
            ]

    async def _connect(self, url: str, turn: asyncio.Semaphore) -> None:
        try:
            async with turn:
                await self.container.connect(url, timeout=PATIENCE)
        except OSError as exc:
            msg = (
                f"no connection to {url} within {PATIENCE:.0f} s ({exc}): the machine is too busy "
                "for a mesh; end what else runs, or measure without it (--only B1,B2, say)"
            )
            raise ConnectionError(msg) from exc

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
