"""The agents of the mesh: whom they know, what they tell, and what is said if they cannot meet."""

from __future__ import annotations

import contextlib
import socket

import pytest

import aiomas
from benchmarks import gossip
from benchmarks.gossip import Village


@contextlib.asynccontextmanager
async def villages(count, agents):
    """Open containers, each with a village of so many agents."""
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            own = aiomas.Container.open(("127.0.0.1", 0), codec=aiomas.MsgPack)
            made.append(Village(await stack.enter_async_context(own), agents))
        yield made


async def test_an_agent_knows_one_of_the_next_container_and_one_of_any_other():
    async with villages(3, 4) as (village, *others):
        following, last = addresses = [other.addresses() for other in others]
        await village.meet(addresses)

        known = [[repr(proxy) for proxy in agent.neighbours] for agent in village._agents]
        assert len(known) == 4
        for number, (after, chosen) in enumerate(known):
            assert following[(number + 1) % 4] in after
            assert any(url in chosen for url in (following, last)[number % 2])


async def test_agents_tell_the_latest_rumour():
    async with villages(2, 2) as (village, other):
        await village.meet([other.addresses()])
        told = await village.gossip(0.2, 7)

        assert told >= 2
        assert 7 in {agent.rumour for agent in other._agents}


async def test_who_cannot_be_reached_is_named_and_so_is_what_to_do(monkeypatch):
    monkeypatch.setattr(gossip, "PATIENCE", 0.05)
    with socket.socket() as silent:  # has a port, and nobody listens there
        silent.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{silent.getsockname()[1]}/0"
        async with villages(1, 1) as (village,):
            with pytest.raises(ConnectionError, match=r"too busy.*--only") as raised:
                await village.meet([[url]])
    assert url in str(raised.value)
