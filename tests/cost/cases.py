"""The calls that are counted: both ends are in one process, and in one event loop.

So there is one order in which things happen, and a figure is what both ends cost together.  The
loop is that of asyncio: nobody sees into uvloop, nor can its clock be stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiomas
from aiomas import Container, MsgPack, channel
from tests.tls.authority import Authority

Round = Callable[[], Awaitable[object]]
"""Makes :data:`CALLS` calls."""
Case = Callable[[], contextlib.AbstractAsyncContextManager[Round]]

CALLS = 64
TCP = ("127.0.0.1", 0)
PAYLOAD = "x" * 16
TIMEOUT = 30.0


class Echo(aiomas.Agent):
    @aiomas.expose
    def echo(self, value: Any) -> Any:
        return value

    @aiomas.expose
    async def echo_async(self, value: Any) -> Any:
        return value


def in_turn(call: Callable[[Any], Awaitable[Any]]) -> Round:
    """Make one call after another."""

    async def calls() -> None:
        for _ in range(CALLS):
            await call(PAYLOAD)

    return calls


def at_once(call: Callable[[Any], Awaitable[Any]]) -> Round:
    """Make all calls before there is a reply to the first one."""

    async def calls() -> None:
        await asyncio.gather(*[call(PAYLOAD) for _ in range(CALLS)])

    return calls


@contextlib.asynccontextmanager
async def tcp(**options: Any) -> AsyncIterator[Any]:
    """Let an agent live in one container, and yield the proxy that another container has of it."""
    options = {"codec": MsgPack} | options
    async with Container.open(TCP, **options) as there, Container.open(TCP, **options) as here:
        yield await here.connect(Echo(there).addr)


@contextlib.asynccontextmanager
async def tls() -> AsyncIterator[Any]:
    """Do the same, with certificates."""
    with tempfile.TemporaryDirectory() as folder:
        certs = Authority(Path(folder), "ca").issue().certs
        async with tcp(ssl=certs) as proxy:
            yield proxy


@contextlib.asynccontextmanager
async def inside() -> AsyncIterator[Any]:
    """Let an agent live in a container, and yield the proxy that its neighbours have of it."""
    async with Container.open(TCP, codec=MsgPack) as container:
        yield await container.connect(Echo(container).addr)


@contextlib.asynccontextmanager
async def bare_channel() -> AsyncIterator[Any]:
    """Yield what sends requests over a channel, whose other end sends them back."""

    def serve(end: channel.Channel) -> None:
        end.serve(lambda request: request.reply(request.content))

    async with await channel.start_server(TCP, serve, codec=MsgPack) as server:
        end = await channel.open_connection(server.sockets[0].getsockname(), codec=MsgPack)
        yield end.send
        await end.close()


@contextlib.asynccontextmanager
async def making_agents() -> AsyncIterator[Round]:
    """Make agents, which stay; for a guard, an agent is as good as a call."""
    async with Container.open(TCP, codec=MsgPack) as container:

        async def agents() -> None:
            for _ in range(CALLS):
                Echo(container)

        yield agents


def case(
    proxy: Callable[[], contextlib.AbstractAsyncContextManager[Any]],
    calls: Callable[[Callable[[Any], Awaitable[Any]]], Round],
    method: str = "echo",
    **with_options: Any,
) -> Case:
    """Return what makes calls of a method that it finds by way of *proxy*."""

    @contextlib.asynccontextmanager
    async def ready() -> AsyncIterator[Round]:
        async with proxy() as found:
            target = aiomas.with_options(found, **with_options) if with_options else found
            yield calls(getattr(target, method) if method else target)

    return ready


def tcp_with_json() -> contextlib.AbstractAsyncContextManager[Any]:
    return tcp(codec=aiomas.JSON)


CASES: dict[str, Case] = {
    "tcp-in-turn": case(tcp, in_turn),
    "tcp-at-once": case(tcp, at_once),
    "tcp-in-turn-async": case(tcp, in_turn, "echo_async"),
    "tcp-at-once-async": case(tcp, at_once, "echo_async"),
    "tcp-at-once-timeout": case(tcp, at_once, timeout=TIMEOUT),
    "tcp-at-once-one-way": case(tcp, at_once, one_way=True),
    "tcp-at-once-json": case(tcp_with_json, at_once),
    "tls-in-turn": case(tls, in_turn),
    "tls-at-once": case(tls, at_once),
    "inside-in-turn": case(inside, in_turn),
    "inside-at-once": case(inside, at_once),
    "inside-at-once-async": case(inside, at_once, "echo_async"),
    "channel-in-turn": case(bare_channel, in_turn, ""),
    "channel-at-once": case(bare_channel, at_once, ""),
    "agents": making_agents,
}
