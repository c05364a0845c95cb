"""Channels, services and remote procedure calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, assert_type

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


# An exposed function keeps its type.
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
