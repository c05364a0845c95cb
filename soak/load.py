"""What kinds of calls a run makes, and how often in relation to others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiomas
from aiomas import rpc
from aiomas.exceptions import DeadlineExceeded, RemoteException, RemoteLookupError
from aiomas.util import arrow_serializer
from soak.caller import LOST, Caller, Kind, Wrong
from soak.worker import LIMITS

KINDS: dict[Kind, int] = {}


def kind(weight: int) -> Callable[[Kind], Kind]:
    def register(function: Kind) -> Kind:
        KINDS[function] = weight
        return function

    return register


async def together(*calls: Any) -> None:
    """Wait for all *calls*, and raise what none of them may raise."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, aiomas.AiomasError):
            raise result


@kind(30)
async def sync(c: Caller) -> None:
    await c.call(c.proxy.echo, c.data())


@kind(30)
async def coroutine(c: Caller) -> None:
    await c.call(c.proxy.echo_async, c.data())


@kind(5)
async def many(c: Caller) -> None:
    proxy = c.proxy
    functions = [c.rng.choice([proxy.echo, proxy.echo_async]) for _ in range(40)]
    await together(*[c.call(function, c.data()) for function in functions])


@kind(5)
async def in_here(c: Caller) -> None:
    home = c.rng.choice(c.site.homes)
    await c.call(home.container.proxy(home.addr).echo_async, c.data(), allowed=())


@kind(10)
async def cancelled(c: Caller) -> None:
    seconds = c.rng.choice([0.2, 3.0])
    await c.call(c.proxy.slow, seconds, cancel_after=c.rng.uniform(0, 0.1))


@kind(10)
async def deadline(c: Caller) -> None:
    proxy = aiomas.with_options(c.proxy, timeout=c.rng.uniform(0.001, 0.2))
    await c.call(proxy.slow, c.rng.choice([0.0, 0.1, 3.0]), allowed=(*LOST, DeadlineExceeded))


@kind(1)
async def deadlines_of_many_bytes(c: Caller) -> None:
    """More than leaves at once: the time of some is up while they wait to be written."""
    echo = aiomas.with_options(c.proxy, timeout=c.rng.uniform(0.01, 0.3)).echo
    allowed = (*LOST, DeadlineExceeded)
    await together(*[c.call(echo, bytes(1 << 20), allowed=allowed) for _ in range(12)])


@kind(10)
async def one_way(c: Caller) -> None:
    function = aiomas.with_options(c.proxy, one_way=True).echo_async
    await c.call(function, c.data(), returns=None, certain=False)


@kind(10)
async def repeated(c: Caller) -> None:
    timeout = c.rng.choice([0.5, 20.0])
    function = aiomas.with_options(c.proxy, retries=3, timeout=timeout).echo_again
    await c.call(function, c.data(), allowed=(*LOST, DeadlineExceeded), attempts=4)


@kind(5)
async def not_repeated(c: Caller) -> None:
    """The function is not idempotent, so it must never run twice."""
    function = aiomas.with_options(c.proxy, retries=3).echo
    await c.call(function, c.data(), allowed=(*LOST, RemoteException))


@kind(5)
async def failing(c: Caller) -> None:
    with contextlib.suppress(RemoteException):
        await c.call(c.proxy.fail, allowed=(*LOST, RemoteException))
        msg = "there was no error"
        raise Wrong(msg)


@kind(5)
async def unknown(c: Caller) -> None:
    container = c.site.container_for(c.child)
    path = c.rng.choice(["worker/_ledger", "worker/ran", "nobody/echo"]).partition("/")
    proxy = container.proxy(c.child.url.replace("worker", path[0]))
    with contextlib.suppress(RemoteLookupError):
        function = rpc.Proxy(proxy._channel, f"agents/{path[0]}/{path[2]}")
        await c.call(function, allowed=(*LOST, RemoteLookupError))
        msg = "there was no error"
        raise Wrong(msg)


@kind(5)
async def back(c: Caller) -> None:
    """Pass an agent of ours, which is called by whoever gets it."""
    home = c.site.homes[c.child is c.site.tls]
    allowed = (*LOST, RemoteException)
    await c.call(c.proxy.through, c.data(), home, leaf=c.number(), allowed=allowed)


@kind(5)
async def third_party(c: Caller) -> None:
    """Pass the proxy of a third process, which is called by whoever gets it."""
    container = c.site.container_for(c.child)
    others = [child for child in (c.site.unix, c.site.tcp) if child is not c.child]
    other = container.proxy(c.rng.choice(others).url)
    allowed = (*LOST, RemoteException)
    await c.call(c.proxy.through, c.data(), other, leaf=c.number(), allowed=allowed)


@kind(5)
async def three_hops(c: Caller) -> None:
    site = c.site
    hops = [site.unix.url, site.tcp.url] if c.child is site.tls else [site.tcp.url, site.unix.url]
    proxy = aiomas.with_options(c.proxy, timeout=c.rng.choice([0.05, 20.0]))
    allowed = (*LOST, RemoteException)
    await c.call(proxy.relay, c.data(), hops, leaf=c.number(), allowed=allowed)


@kind(5)
async def agents_made_and_ended(c: Caller) -> None:
    made = await c.call(c.proxy.make, returns=Any)
    gone = (*LOST, RemoteLookupError)  # if its process was killed since
    await c.call(made.echo, c.data(), allowed=gone)
    await c.call(made.end, returns=None, allowed=(*gone, RemoteException))
    with contextlib.suppress(RemoteLookupError):
        await c.call(made.echo, c.data(), allowed=gone)
        msg = "a stopped agent has answered"
        raise Wrong(msg)


@kind(2)
async def bare(c: Caller) -> None:
    """Connect without a container, with the extensions of the protocol or without."""
    extensions = c.rng.random() < 0.5  # noqa: PLR2004 - as often as not
    ssl = None
    if c.child is c.site.tls:
        ssl = aiomas.make_ssl_client_context(*c.site.certificates)
    kwargs: dict[str, Any] = {"ssl": ssl} if ssl else {}
    client = await rpc.open_connection(
        c.child.addr,
        codec=aiomas.MsgPack,
        extra_serializers=[arrow_serializer],
        extensions=extensions,
        limits=LIMITS,
        **kwargs,
    )
    async with closing(client):
        worker = client.remote.agents.worker
        await c.call(worker.echo_async, c.data())
        await c.call(worker.slow, 3.0, cancel_after=0.01)
        proxy = aiomas.with_options(worker, timeout=c.rng.uniform(0.01, 0.3))
        calls = [
            c.call(proxy.echo, bytes(1 << 20), allowed=(*LOST, DeadlineExceeded)) for _ in range(8)
        ]
        await together(*calls)
        if c.rng.random() < 0.5:  # noqa: PLR2004 - as often as not
            client.channel.transport.abort()


@contextlib.asynccontextmanager
async def closing(client: rpc.RpcClient) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await client.close()
