"""While a container shuts down, the calls that are part of serving a request still get replies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import aiomas
from aiomas.agent import Container

from .world import Worker

OPTIONS: dict[str, Any] = {"codec": aiomas.MsgPack}  # which has the shortest way
SWEEPS = 0.6  # seconds in which it is looked twice whether callers have given up

with_connections = pytest.mark.parametrize("world", ["tcp", "unix", "local"], indirect=True)


class Relay(Worker):
    """Calls another agent in an ordinary function, and returns the future of the reply."""

    @aiomas.expose
    def relay(self, *args: Any) -> Any:
        return self.known.hold(*args)


def of_handlers(container: Container) -> set[int]:
    """Return the numbers of the requests that serve others, of the only connection to somebody."""
    (client,) = container._pool.clients
    numbers: set[int] = client.channel.outgoing._watch.of_handlers
    return numbers


@with_connections
async def test_a_call_on_a_connection_that_has_been_used_for_long(world):
    caller, relay, holder = [await world.worker(**OPTIONS) for _ in range(3)]
    relay.known = await relay.container.connect(holder.addr)
    remote = await caller.container.connect(relay.addr)
    for _ in range(3):
        assert await remote.ask_known("echo", 1) == 1
        await asyncio.sleep(SWEEPS / 2)

    reply = remote.ask_known("hold", "served")
    await holder.holding.wait()
    await asyncio.sleep(SWEEPS)
    ending = asyncio.ensure_future(relay.container.shutdown())
    await asyncio.sleep(SWEEPS)
    assert not ending.done()
    holder.let_go.set()
    assert await reply == "served"
    await ending


@with_connections
async def test_they_are_noted_until_they_are_answered(world):
    caller, relay, holder = [await world.worker(**OPTIONS) for _ in range(3)]
    relay.known = await relay.container.connect(holder.addr)
    remote = await caller.container.connect(relay.addr)
    for _ in range(3):
        holder.holding.clear()
        holder.let_go.clear()
        await remote.ask_known("echo")  # or the next one would not take the shortest way
        reply = remote.ask_known("hold")
        await holder.holding.wait()
        await asyncio.gather(*[remote.ask_known("echo") for _ in range(100)])
        await asyncio.sleep(SWEEPS)
        assert len(of_handlers(relay.container)) == 1
        holder.let_go.set()
        await reply
        await asyncio.sleep(SWEEPS)
        assert of_handlers(relay.container) == set()


@with_connections
@pytest.mark.parametrize("used", [0, 2])
async def test_a_call_within_the_container_that_an_ordinary_function_has_made(world, used):
    caller = await world.worker(**OPTIONS)
    container = await world.container(**OPTIONS)
    relay, holder = world.take(Relay(container)), world.take(Worker(container))
    relay.known = await container.connect(holder.addr)
    remote = await caller.container.connect(relay.addr)
    holder.let_go.set()
    for number in range(used):
        assert await remote.relay(number) == number

    holder.let_go.clear()
    holder.holding.clear()
    reply = remote.relay("served")
    await holder.holding.wait()
    ending = asyncio.ensure_future(container.shutdown())
    await asyncio.sleep(SWEEPS)
    assert not ending.done()
    holder.let_go.set()
    assert await reply == "served"
    await ending
