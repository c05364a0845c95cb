"""Channels, services and remote procedure calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, assert_type

import aiomas
from aiomas import channel, local_queue, rpc
from aiomas.rpc import Proxy, Router, RpcClient, Service


class Sub:
    router = Service()

    @rpc.expose
    def where(self) -> str:
        return "sub"


class Spam:
    router = Service(["sub"])

    def __init__(self) -> None:
        self.sub = Sub()

    @router.expose
    def add(self, a: int, b: int = 0) -> int:
        return a + b

    @rpc.expose
    async def later(self, value: float) -> float:
        return value

    @staticmethod
    @rpc.expose
    def static(value: str) -> str:
        return value


class Counter:
    @rpc.expose(idempotent=True)
    def count(self) -> int:
        call = aiomas.current_call()
        assert_type(call, rpc.Call)
        assert_type(call.time_left(), float | None)
        assert_type(call.deadline, float | None)
        assert_type(call.peer_url, str | None)
        assert_type(call.path, str)
        assert_type(call.one_way, bool)
        return 1


# An exposed function keeps its type.
assert_type(Counter().count(), int)
assert_type(Spam().add(1), int)
Spam().add("1")  # type: ignore[arg-type]
assert_type(Spam.static("x"), str)
assert_type(Spam().router, Router)
assert_type(Spam.router, Service)
add: Callable[[Spam, int], int] = Spam.add


def function(value: int) -> int:
    return value


assert_type(rpc.expose(function)(5), int)


async def channels() -> None:
    client = await channel.open_connection(("localhost", 5555), codec=aiomas.MsgPack, timeout=None)
    assert_type(client, channel.Channel)
    assert_type(client.send([1, 2]), asyncio.Future[Any])
    request = await client.recv()
    assert_type(request, channel.Request)
    assert_type(await request.reply("x"), None)
    assert_type(await request.fail(ValueError("x")), None)
    assert_type(await client.close(), None)
    client.close()

    def connected(connection: channel.Channel) -> None:
        connection.close()

    server = await channel.start_server("path", connected, extra_serializers=[])
    assert_type(server, channel.Server)
    async with server as entered:
        assert_type(entered, channel.Server)
    assert_type(await server.wait_closed(), None)
    await channel.open_connection(5)  # type: ignore[arg-type]
    await channel.open_connection(local_queue.get_queue("q"))


async def calls() -> None:
    server = await rpc.start_server(("localhost", 0), Spam())
    server.close()
    await rpc.start_server(("localhost", 0), router=Spam().router)
    await rpc.start_server(("localhost", 0), rpc_service=rpc.RoutingDict({"f": function}))
    await rpc.start_server(("localhost", 0), 5)  # type: ignore[arg-type]

    client = await rpc.open_connection(("localhost", 5555), router=Sub(), timeout=5)
    assert_type(client, RpcClient)
    assert_type(client.remote, Proxy)
    assert_type(client.remote.sub, Proxy)
    assert_type(client.remote.sub.where(), asyncio.Future[Any])
    client.on_connection_reset(lambda error: error.args)
    assert_type(await client.close(), None)


class Market(Protocol):
    """What callers see of an agent."""

    async def bid(self, price: float) -> bool: ...


async def options(market: Market, proxy: Proxy) -> None:
    # A proxy with options has the type of the one without.
    assert_type(aiomas.with_options(market, timeout=2.0), Market)
    assert_type(await aiomas.with_options(market, retries=3, one_way=True).bid(7), bool)
    assert_type(aiomas.with_options(proxy.bid, timeout=1), Proxy)
    aiomas.with_options(proxy, timeout="1")  # type: ignore[arg-type]
    aiomas.with_options(proxy, 1)  # type: ignore[call-arg]
    aiomas.with_options(proxy, tries=1)  # type: ignore[call-arg]


async def limits() -> None:
    few = aiomas.Limits(max_requests=10, write_timeout=None, heartbeat=0.5)
    await channel.open_connection("path", limits=few, extensions=True)
    await channel.start_server("path", lambda _: None, limits=few, tracebacks=False)
    await rpc.open_connection("path", limits=few, tracebacks=False, extensions=True)
    await rpc.start_server("path", Spam(), limits=few, tracebacks=False)
    aiomas.Limits(10)  # type: ignore[call-arg]
    aiomas.Limits(max_requests="10")  # type: ignore[arg-type]
    few.max_frame = 1  # type: ignore[misc]


def outcomes(error: aiomas.AiomasError) -> None:
    assert_type(error.outcome, aiomas.Outcome | None)
    if error.outcome is not None:
        assert_type(error.outcome.has_not_run, bool)
