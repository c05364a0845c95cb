"""Section 1.9.2: aiomas.agent."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

import aiomas
from aiomas.agent import Agent, Container, SSLCerts

LOOPBACK = ("127.0.0.1", 0)


class Callee(Agent):
    @aiomas.expose
    def spam(self, times):
        return "spam" * times


def test_section_1_9_2_sslcerts():
    certs = SSLCerts("ca", "cert", "key")

    assert (certs.cafile, certs.certfile, certs.keyfile) == ("ca", "cert", "key")
    assert certs == ("ca", "cert", "key")
    assert SSLCerts(cafile="ca", certfile="cert", keyfile="key") == certs


def test_section_1_9_2_container_create_synchronous(loop):
    for _ in range(3):
        container = Container.create(LOOPBACK)
        assert isinstance(container, Container)
        container.shutdown()


async def test_section_1_9_2_container_create_asynchronous():
    container = await Container.create(LOOPBACK, **{"async": True})  # type: ignore[call-overload]

    assert isinstance(container, Container)
    await container.shutdown(**{"async": True})  # type: ignore[call-overload]


async def test_section_1_9_2_container_create_is_ready_when_it_returns():
    container = await Container.create(LOOPBACK, as_coro=True)
    _, port = container.base_url.removeprefix("tcp://").rstrip("/").split(":")

    _, writer = await asyncio.open_connection("127.0.0.1", int(port))
    writer.close()
    await container.shutdown(as_coro=True)


def test_section_1_9_2_container_create_addr_tcp(loop, free_port):
    container = Container.create(("127.0.0.1", free_port))
    agent = Agent(container)
    container.shutdown()

    assert agent.addr == f"tcp://127.0.0.1:{free_port}/0"


def test_section_1_9_2_container_create_addr_unix(loop, unix_path):
    container = Container.create(unix_path)
    callee, caller = Callee(container), Container.create(LOOPBACK)

    async def call():
        proxy = await caller.connect(callee.addr)
        return await proxy.spam(2)

    assert callee.addr == f"ipc://[{unix_path}]/0"
    assert aiomas.run(call()) == "spamspam"
    caller.shutdown()
    container.shutdown()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", None, ""])
async def test_section_1_9_2_container_create_addr_all_interfaces(host):
    if host == "::" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    async with Container.open((host, 0)) as container:
        agent = Agent(container)
        name, _, port = agent.addr.removeprefix("tcp://").removesuffix("/0").rpartition(":")

        assert name.strip("[]") == socket.getfqdn()
        if host != "::":
            _, writer = await asyncio.open_connection("127.0.0.1", int(port))
            writer.close()


async def test_section_1_9_2_container_create_addr_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    async with Container.open(("::1", 0)) as one, Container.open(("::1", 0)) as two:
        callee = Callee(one)
        assert callee.addr.startswith("tcp://[::1]:")
        proxy = await two.connect(callee.addr)
        assert await proxy.spam(1) == "spam"


def test_section_1_9_2_container_create_clock(loop):
    clock = aiomas.ExternalClock("2015-01-01")
    container = Container.create(LOOPBACK, clock=clock)
    container.shutdown()

    assert container.clock is clock


def test_section_1_9_2_container_clock_is_real_time_by_default(loop):
    container = Container.create(LOOPBACK)
    container.shutdown()

    assert isinstance(container.clock, aiomas.AsyncioClock)


def test_section_1_9_2_container_create_codec_and_extra_serializers(loop):
    def complex_serializer():
        return complex, str, complex

    class Agent(aiomas.Agent):
        @aiomas.expose
        def echo(self, value):
            return value

        async def run(self, addr, value):
            return await (await self.container.connect(addr)).echo(value)

    options: Any = {"codec": aiomas.MsgPack, "extra_serializers": [complex_serializer]}
    one, two = Container.create(LOOPBACK, **options), Container.create(LOOPBACK, **options)
    a, b = Agent(one), Agent(two)
    assert aiomas.run(a.run(b.addr, {1: [b"raw", 2j]})) == {1: (b"raw", 2j)}
    one.shutdown()
    two.shutdown()


def test_section_1_9_2_container_create_codec_is_a_class(loop):
    with pytest.raises(TypeError, match="subclass of Codec"):
        Container.create(LOOPBACK, codec=aiomas.MsgPack())  # type: ignore[call-overload]


def test_section_1_9_2_container_create_ssl(loop, certs):
    for ssl in (
        certs,
        (aiomas.make_ssl_server_context(*certs), aiomas.make_ssl_client_context(*certs)),
    ):
        Container.create(LOOPBACK, ssl=ssl).shutdown()


async def test_section_1_9_2_container_connect():
    async with Container.open(LOOPBACK) as one, Container.open(LOOPBACK) as two:
        callee = Callee(one)
        proxy = await two.connect(url=callee.addr)

        assert str(proxy) == f"CalleeProxy('{callee.addr}')"
        assert await proxy.spam(1) == "spam"


def test_section_1_9_2_container_shutdown_synchronous(loop):
    container = Container.create(LOOPBACK)
    container.shutdown()
    container.shutdown()


async def test_section_1_9_2_container_shutdown_closes_sockets_and_connections():
    async with Container.open(LOOPBACK) as one:
        two = await Container.create(LOOPBACK, as_coro=True)
        proxy = await one.connect(Callee(two).addr)
        await two.shutdown(**{"async": True})  # type: ignore[call-overload]

        with pytest.raises(ConnectionError):
            await proxy.spam(1)


async def test_section_1_9_2_container_validate_aid():
    async with Container.open(LOOPBACK) as container:
        Callee(container)

        assert container.validate_aid("0") == "Callee"
        assert container.validate_aid("1") is None
        assert container.validate_aid(aid="nonsense") is None


async def test_section_1_9_2_agent_container_and_addr():
    async with Container.open(LOOPBACK) as container:
        agent = Agent(container=container)

        assert agent.container is container
        assert agent.addr == container.base_url + "0"


async def test_section_1_9_2_agent_router():
    async with Container.open(LOOPBACK) as container:
        one, two = Callee(container), Callee(container)

        assert isinstance(one.router, aiomas.rpc.Router)
        assert one.router is not two.router
        assert two.router.path == "agents/1"


async def test_section_1_9_2_agent_router_can_be_overridden_in_a_subclass():
    class Pan:
        router = aiomas.rpc.Service()

        @aiomas.expose
        def fry(self):
            return "fried"

    class Cook(Agent):
        router = aiomas.rpc.Service(["pan"])

        def __init__(self, container):
            super().__init__(container)
            self.pan = Pan()

        @aiomas.expose
        def me_and_my_pan(self):
            return [self, self.pan]

    async with Container.open(LOOPBACK) as one, Container.open(LOOPBACK) as two:
        cook = Cook(one)
        for container in (one, two):
            proxy = await container.connect(cook.addr)
            assert await proxy.pan.fry() == "fried"
        # Also where the first that is heard of the agent comes from itself.
        proxy = await two.connect(Cook(one).addr)
        me, pan = await proxy.me_and_my_pan()
        assert await pan.fry() == "fried"
        assert await me.pan.fry() == "fried"


async def test_section_1_9_2_an_agent_that_nobody_has_called_yet_can_be_passed_on():
    class Cook(Agent):
        router = aiomas.rpc.Service()

        @aiomas.expose
        def cook(self):
            return "cooked"

    class Host(Agent):
        def __init__(self, container):
            super().__init__(container)
            self.cook = Cook(container)

        @aiomas.expose
        def get_cook(self):
            return self.cook

    async with Container.open(LOOPBACK) as one, Container.open(LOOPBACK) as two:
        proxy = await two.connect(Host(one).addr)
        cook = await proxy.get_cook()
        assert await cook.cook() == "cooked"


def test_section_1_9_2_an_agent_needs_a_container():
    with pytest.raises(TypeError, match="Container"):
        Agent(None)  # type: ignore[arg-type]


async def test_section_1_9_2_container_parameters():
    loop = asyncio.get_running_loop()
    clock = aiomas.AsyncioClock()
    options: list[dict[str, Any]] = [{}, {"loop": loop}]  # the loop came with aiomas 2.0
    for option in options:
        container = Container(base_url="local://x/", clock=clock, connect_kwargs={}, **option)

        assert container.clock is clock
        assert container.loop is loop
        assert Agent(container).addr == "local://x/0"
        await container.shutdown(as_coro=True)
