"""What a container counts."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

import aiomas
from aiomas.exceptions import DeadlineExceeded, Overloaded

from .world import Worker, World, cut_all, until

by_connection = pytest.mark.parametrize("world", ["tcp", "unix", "local"], indirect=True)


def counts(worker: Worker, *names: str) -> list[int]:
    stats = worker.container.stats()
    return [getattr(stats, name) for name in names]


async def quiet(world: World) -> Worker:
    """Return a worker that knows another one, in a container that has done nothing else."""
    one, _, proxy = await world.pair()
    one.known = proxy
    return one


async def test_at_first_there_is_nothing(world):
    stats = (await world.worker()).container.stats()
    values = dataclasses.asdict(stats)
    assert values.pop("limits_hit") == {}
    assert set(values.values()) == {0}


async def test_they_are_those_of_the_moment(world):
    one = await quiet(world)
    before = one.container.stats()
    await one.known.echo()
    after = one.container.stats()
    assert after.calls_out == before.calls_out + 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        after.calls_out = 0  # type: ignore[misc]


@by_connection
async def test_connections_count_while_they_are_open_whoever_opened_them(world):
    one, other, third = [await world.worker() for _ in range(3)]
    await one.container.connect(other.addr)
    assert (counts(one, "connections"), counts(other, "connections")) == ([1], [1])
    await third.container.connect(other.addr)
    await other.container.connect(third.addr)
    assert counts(other, "connections") == [3]
    assert counts(third, "connections") == [2]
    cut_all(other.container)
    await until(lambda: all(counts(w, "connections") == [0] for w in (one, other, third)))


@by_connection
async def test_calls_count_at_both_ends(world):
    one, other, proxy = await world.pair()
    out, into = counts(one, "calls_out"), counts(other, "calls_in")
    for _ in range(10):
        await proxy.echo()
    await aiomas.with_options(proxy, one_way=True).echo()
    await proxy.ask(one, "echo")
    await proxy.echo()
    assert counts(one, "calls_out") == [out[0] + 13]
    assert counts(other, "calls_in") == [into[0] + 13]
    assert counts(one, "calls_in") == counts(other, "calls_out") == [1]


@pytest.mark.parametrize("world", ["inside"], indirect=True)
async def test_calls_inside_count_as_made_and_as_served(world):
    one, _, proxy = await world.pair()
    await proxy.echo()
    await aiomas.with_options(proxy, one_way=True).echo()
    await proxy.echo()
    assert counts(one, "calls_out", "calls_in", "bytes_in", "bytes_out") == [3, 3, 0, 0]


@by_connection
async def test_bytes_count_at_both_ends(world):
    one, other, proxy = await world.pair()
    assert counts(one, "bytes_out") == counts(other, "bytes_in")
    assert counts(other, "bytes_out") == counts(one, "bytes_in")
    before = counts(one, "bytes_out", "bytes_in")
    await proxy.echo("x" * 10_000)
    after = counts(one, "bytes_out", "bytes_in")
    for was, now in zip(before, after, strict=True):
        assert 10_000 < now - was < 10_100
    assert counts(other, "bytes_in", "bytes_out") == after


async def test_errors_count_at_both_ends(world):
    one, other, proxy = await world.pair()
    for method in ("fail", "nothing"):
        with pytest.raises(aiomas.RemoteException):
            await getattr(proxy, method)()
    assert counts(one, "errors") == [2]
    assert counts(other, "errors") == [2]
    with pytest.raises(DeadlineExceeded):
        await aiomas.with_options(proxy, timeout=1.0).hold()
    assert counts(one, "errors") == [3]


async def test_a_result_that_cannot_be_encoded_is_an_error(world):
    one, other, proxy = await world.pair()
    other.known = object()
    with pytest.raises(aiomas.RemoteException, match="SerializationError"):
        await proxy.give()
    assert counts(one, "errors") == [1]
    assert counts(other, "errors") == [1]


async def test_what_is_under_way_counts_while_it_is(world):
    one, other, proxy = await world.pair()
    calls = [proxy.hold() for _ in range(5)]
    await until(lambda: len(other.calls) == 5)
    assert counts(one, "pending") == [5]
    assert counts(other, "serving") == [5]
    other.let_go.set()
    await asyncio.gather(*calls)
    assert counts(one, "pending") == [0]
    assert counts(other, "serving") == [0]


@by_connection
async def test_calls_that_wait_for_a_connection_are_under_way(world):
    one, other = await world.worker(), await world.worker()
    call = one.container.proxy(other.addr).echo()
    assert counts(one, "pending") == [1]
    await call
    assert counts(one, "pending") == [0]


@by_connection
async def test_a_limit_that_was_hit_is_named(world):
    one = await world.worker()
    other = await world.worker(limits=aiomas.Limits(max_requests=2))
    proxy = await one.container.connect(other.addr)
    calls = [proxy.hold() for _ in range(3)]
    with pytest.raises(Overloaded, match="max_requests=2"):
        await calls[2]
    assert other.container.stats().limits_hit == {"max_requests": 1}
    assert one.container.stats().limits_hit == {}
    other.let_go.set()
    await asyncio.gather(*calls[:2])


@pytest.mark.parametrize("world", ["tcp", "unix"], indirect=True)
async def test_heartbeats_are_no_calls(world):
    one, _, _ = await world.pair()
    before = counts(one, "calls_out", "calls_in")
    sent = counts(one, "bytes_out")
    await asyncio.sleep(1000)
    assert counts(one, "calls_out", "calls_in") == before
    assert counts(one, "bytes_out") > sent
    assert counts(one, "connections", "pending") == [1, 0]


async def test_what_was_given_up_is_no_longer_under_way(world):
    one, other, proxy = await world.pair()
    call = proxy.hold()
    await other.holding.wait()
    call.cancel()
    await until(lambda: counts(one, "pending") == counts(other, "serving") == [0])
    assert counts(one, "errors") == [0]
