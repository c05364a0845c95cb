"""Control streams: both ends of a pair of sockets can call each other."""

from __future__ import annotations

import asyncio
import socket

import pytest

from aiomas import rpc
from aiomas.cluster import streams
from aiomas.exceptions import ConnectionLost
from tests.unit.cluster.fakes import BOUND

SHORT = 0.05  # seconds


class Service:
    router = rpc.Service()

    @rpc.expose
    def echo(self, value):
        return value


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
async def ends(pair):
    ours, theirs = pair
    accepted = await streams.accept(theirs, Service())
    dialled = await streams.dial(ours, Service(), timeout=BOUND)
    yield dialled, accepted
    for client in (dialled, accepted):
        client.close()
        await client.channel.wait_closed()


async def test_both_ends_can_call_the_other(ends):
    for client in ends:
        assert await client.remote.echo({"x": b"bytes"}) == {"x": b"bytes"}


async def test_the_other_end_has_a_name(pair):
    ours, theirs = pair
    accepted = await streams.accept(theirs, Service(), name="the driver")
    dialled = await streams.dial(ours, Service(), timeout=BOUND, name="container 3")
    assert (accepted.channel.peer, dialled.channel.peer) == ("the driver", "container 3")
    call = dialled.remote.echo(5)
    dialled.close()
    with pytest.raises(ConnectionLost, match="The connection to container 3 was closed"):
        await call
    await accepted.channel.wait_closed()


async def test_messages_may_be_larger_than_those_of_others(ends):
    data = bytes(20 * 2**20)
    assert await ends[0].remote.echo(data) == data


async def test_calls_may_have_a_time_limit_and_want_no_answer(ends):
    assert await rpc.with_options(ends[0].remote.echo, timeout=BOUND)(5) == 5
    rpc.with_options(ends[0].remote.echo, one_way=True)(5)


async def test_the_end_of_one_is_noticed_by_the_other(ends):
    dialled, accepted = ends
    dialled.close()
    await accepted.channel.wait_closed()
    with pytest.raises(ConnectionLost):
        await accepted.remote.echo(1)


async def test_an_end_that_is_not_there_is_noticed_at_once(pair):
    ours, theirs = pair
    theirs.close()
    async with asyncio.timeout(BOUND):
        with pytest.raises(ConnectionError):
            await streams.dial(ours, None, timeout=100 * BOUND)


async def test_an_end_that_does_not_answer_is_not_waited_for(pair):
    with pytest.raises(TimeoutError):
        await streams.dial(pair[0], None, timeout=SHORT)
