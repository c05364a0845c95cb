"""Containers, agents, and proxies that have the type of the agent they stand for."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Coroutine
from typing import Any, Protocol, assert_type

import aiomas
from aiomas import Agent, Container, SSLCerts, expose
from aiomas.clocks import BaseClock
from aiomas.rpc import Proxy


class Callee(Agent):
    def __init__(self, container: Container, name: str = "") -> None:
        super().__init__(container)
        self.name = name

    @expose
    async def spam(self, times: int, *, word: str = "spam") -> str:
        return word * times

    @expose
    def eggs(self) -> int:
        return 3


class Spammer(Protocol):
    """What is known of an agent whose class is not there."""

    async def spam(self, times: int, *, word: str = "spam") -> str: ...


class MyContainer(Container):
    """Keeps the signature of its base."""


# An exposed function keeps its type.
assert_type(Callee.eggs(Callee.__new__(Callee)), int)


async def proxies(container: Container, url: str) -> None:
    callee = await container.connect(url, Callee)
    assert_type(callee, Callee)
    assert_type(await callee.spam(2), str)
    call: Coroutine[Any, Any, str] = callee.spam(2, word="x")
    await call
    await callee.spam("2")  # type: ignore[arg-type]
    await callee.spam()  # type: ignore[call-arg]
    await callee.no_such_function()  # type: ignore[attr-defined]

    spammer = await container.connect(url, Spammer, timeout=5)
    assert_type(spammer, Spammer)
    assert_type(await spammer.spam(2), str)
    await spammer.eggs()  # type: ignore[attr-defined]

    anything = await container.connect(url)
    assert_type(anything, Any)
    assert_type(await container.connect(url, timeout=None), Any)
    assert_type(await container.connect(url, 5), Any)
    assert_type(await container.connect(url, None), Any)
    await container.connect(url, timeout="5")  # type: ignore[call-overload]

    assert_type(container.proxy(url), Proxy)


async def running(certs: SSLCerts, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    container = await Container.create(("localhost", 0), as_coro=True)
    assert_type(container, Container)
    assert_type(await MyContainer.create("path", as_coro=True), MyContainer)
    assert_type(await container.shutdown(as_coro=True), None)
    assert_type(await container.shutdown(True, timeout=0.5), None)

    async with Container.open(("localhost", 0), codec=aiomas.MsgPack) as opened:
        assert_type(opened, Container)
    async with MyContainer.open(aiomas.get_queue("q")) as mine:
        assert_type(mine, MyContainer)

    await Container.create(("localhost", 0), ssl=certs, as_coro=True)
    await Container.create(
        ("localhost", 0),
        ssl=contexts,
        clock=aiomas.ExternalClock("2020-01-01"),
        codec=aiomas.MsgPackBlosc,
        extra_serializers=[aiomas.util.arrow_serializer],
        advertise="here.example",
        as_coro=True,
    )
    await Container.create(("localhost", 0), ssl=SSLCerts("ca", "cert", "key"), as_coro=True)
    await Container.create(5, as_coro=True)  # type: ignore[call-overload]
    await Container.create(("localhost", 0), token="x", sock=socket.socket(), as_coro=True)
    await Container.create("path", token=b"x", as_coro=True)  # type: ignore[call-overload]
    await Container.create("path", sock=3, as_coro=True)  # type: ignore[call-overload]
    await Container.create(("localhost", 0), codec=aiomas.JSON(), as_coro=True)  # type: ignore[call-overload]
    await Container.create(("localhost", 0), spam=1, as_coro=True)  # type: ignore[call-overload]


def blocking() -> None:
    container = Container.create(("localhost", 0))
    assert_type(container, Container)
    assert_type(MyContainer.create(("localhost", 0), as_coro=False), MyContainer)
    agent = Callee(container, "name")
    assert_type(agent.addr, str)
    assert_type(agent.aid, str)
    assert_type(agent.container, Container)
    assert_type(container.clock, BaseClock)
    assert_type(container.base_url, str)
    assert_type(aiomas.run(container.connect(agent.addr, Callee)), Callee)
    assert_type(container.agents.dict, dict[str, Any])
    container.shutdown()
    container.shutdown(timeout=1)
    Callee("no container")  # type: ignore[arg-type]


certs = SSLCerts("ca.pem", "cert.pem", "key.pem")
assert_type(certs._replace(cafile="other.pem"), SSLCerts)
assert_type(aiomas.make_ssl_server_context(*certs), ssl.SSLContext)
