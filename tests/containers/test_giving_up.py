"""Callers that give up, and callers that are gone: nothing is left of their calls."""

from __future__ import annotations

import asyncio
import gc

import pytest

from aiomas.agent import Container
from aiomas.exceptions import ConnectionLost, Outcome

from .world import cut_all, until

MANY = 1000

by_connection = pytest.mark.parametrize("world", ["tcp", "unix", "local"], indirect=True)


def entries(container: Container) -> dict[str, int]:
    """Return how much there is of all that a call may leave behind."""
    clients = [*container._accepted, *container._pool.clients]
    dispatchers = [client.dispatcher for client in clients if client.dispatcher is not None]
    dispatchers.append(container._local.dispatcher)
    stats = container.stats()
    return {
        "pending": stats.pending,
        "serving": stats.serving,
        "handlers": len(container._handlers),
        "ends": len(container._handlers._ends),
        "running": sum(len(dispatcher._running) for dispatcher in dispatchers),
        "local": len(container._local._pending),
        "waiting": sum(len(client.channel._intake.waiting) for client in clients),
        "bytes": sum(client.channel._intake.bytes for client in clients),
        "at work": sum(client.channel.pending for client in clients),
    }


def nothing_left(*containers: Container) -> bool:
    return not any(count for container in containers for count in entries(container).values())


async def test_of_many_cancelled_calls_nothing_is_left(world):
    one, other, proxy = await world.pair()
    calls = [proxy.hold() for _ in range(MANY)]
    await until(lambda: len(other.calls) == MANY)
    assert entries(other.container)["handlers"] == MANY
    for call in calls:
        call.cancel()
    await until(lambda: other.log == ["cancelled"] * MANY)
    await until(lambda: nothing_left(one.container, other.container))
    assert await proxy.echo(1) == 1


async def test_of_many_calls_that_are_cancelled_at_once_nothing_is_left(world):
    one, other, proxy = await world.pair()
    for _ in range(MANY):
        proxy.hold().cancel()
    assert await proxy.echo(1) == 1
    await until(lambda: nothing_left(one.container, other.container))
    assert len(other.log) - 1 <= MANY  # some have begun


async def test_of_calls_whose_tasks_were_cancelled_nothing_is_left(world):
    one, other, proxy = await world.pair()

    async def call() -> None:
        await proxy.hold()

    tasks = [asyncio.create_task(call()) for _ in range(10)]
    await until(lambda: len(other.calls) == 10)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: nothing_left(one.container, other.container))
    assert other.log == ["cancelled"] * 10


async def test_nested_calls_are_cancelled_with_the_outer_one(world):
    one, other, proxy = await world.pair()
    third = await world.worker()
    await proxy.know(third if world.kind == "inside" else one.container.proxy(third.addr))
    call = proxy.ask_known("hold")
    await third.holding.wait()
    call.cancel()
    await until(lambda: third.log == ["cancelled"])
    containers = one.container, other.container, third.container
    await until(lambda: nothing_left(*containers))


async def test_a_call_that_nobody_awaits_is_served_to_the_end(world):
    _, other, proxy = await world.pair()
    proxy.hold()
    await other.holding.wait()
    gc.collect()
    await asyncio.sleep(60)
    assert other.log == []
    assert len(other.container._handlers) == 1
    other.let_go.set()
    await until(lambda: nothing_left(other.container))


@by_connection
@pytest.mark.parametrize("whose", ["callers", "servers"])
async def test_a_lost_connection_cancels_its_functions(world, whose):
    one, other, proxy = await world.pair()
    calls = [proxy.hold() for _ in range(5)]
    await until(lambda: len(other.calls) == 5)
    cut_all((one if whose == "callers" else other).container)
    for call in calls:
        with pytest.raises(ConnectionLost) as caught:
            await call
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
    await until(lambda: other.log == ["cancelled"] * 5)
    await until(lambda: nothing_left(one.container, other.container))


@by_connection
async def test_a_caller_that_shuts_down_has_its_functions_cancelled(world):
    one, other, proxy = await world.pair()
    call = proxy.hold()
    await other.holding.wait()
    await one.container.shutdown(as_coro=True)
    with pytest.raises(ConnectionLost):
        await call
    await until(lambda: other.log == ["cancelled"])


@by_connection
async def test_a_lost_connection_leaves_functions_for_others_alone(world):
    one, other, proxy = await world.pair()
    third = await world.worker()
    from_third = (await third.container.connect(other.addr)).hold("served")
    await other.holding.wait()
    call = proxy.hold()
    await until(lambda: len(other.calls) == 2)
    cut_all(one.container)
    with pytest.raises(ConnectionLost):
        await call
    await until(lambda: other.log == ["cancelled"])
    other.let_go.set()
    assert await from_third == "served"


@by_connection
@pytest.mark.parametrize("how", ["lost", "cancelled"])
async def test_what_is_shielded_survives(world, how):
    one, other, proxy = await world.pair()
    call = proxy.hold_shielded()
    await other.holding.wait()
    if how == "lost":
        cut_all(one.container)
    else:
        call.cancel()
    with pytest.raises((ConnectionLost, asyncio.CancelledError)):
        await call
    await until(lambda: nothing_left(one.container, other.container))
    other.let_go.set()
    await other.known
    assert other.log == ["survived"]
