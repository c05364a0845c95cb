"""Containers and agents: addresses, proxies, connections that come and go, shutting down."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import logging
import socket
import sys
import warnings
import weakref
from pathlib import Path
from typing import Any

import arrow
import pytest
import trustme
import uvloop

import aiomas
from aiomas import _endpoint, codecs, local_queue, rpc, testing
from aiomas.agent import Agent, Container, SSLCerts, url_of
from aiomas.clocks import AsyncioClock, ExternalClock
from aiomas.exceptions import (
    AddressError,
    AgentNotFoundError,
    ConnectionLost,
    ConnectTimeout,
    ContainerClosedError,
    DeadlineExceeded,
    Outcome,
    RemoteException,
    SerializationError,
)

KINDS = ["tcp", "unix", "local"]
CODECS = [codecs.JSON, codecs.MsgPack, codecs.MsgPackBlosc]


class Meter:
    router = rpc.Service()

    @aiomas.expose
    def read(self):
        return 42


class Worker(Agent):
    """Keeps what it is told, and holds calls until it is let go."""

    router = rpc.Service(["meter"])

    def __init__(self, container):
        super().__init__(container)
        self.meter = Meter()
        self.log: list = []
        self.holding = asyncio.Event()
        self.let_go = asyncio.Event()
        self.peer: Any = None

    @aiomas.expose
    def echo(self, value=None):
        self.log.append(value)
        return value

    @aiomas.expose
    async def hold(self, value=None):
        self.log.append(value)
        self.holding.set()
        await self.let_go.wait()
        return value

    @aiomas.expose
    async def stubborn(self):
        self.holding.set()
        while not self.let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.let_go.wait()
            self.log.append("cancelled")
            await asyncio.sleep(0.01)
            self.log.append("cleaned up")
            return

    @aiomas.expose
    async def ask(self, url, method, *args):
        peer = await self.container.connect(url)
        return await getattr(peer, method)(*args)

    @aiomas.expose
    async def hold_and_ask(self, value):
        await self.hold(value)
        return await self.peer.echo(value)

    @aiomas.expose
    async def hold_and_connect(self, url):
        await self.hold(url)
        return await (await self.container.connect(url)).echo("connected")

    @aiomas.expose
    async def call_back(self, agent):
        return await agent.echo("called back")

    @aiomas.expose
    def me(self):
        return self

    @aiomas.expose
    def fail(self):
        msg = "boom"
        raise ValueError(msg)

    @aiomas.expose
    def unserializable(self):
        return object()

    @aiomas.expose
    async def stop_all(self):
        await self.container.shutdown(as_coro=True)
        self.log.append("stopped")

    def hidden(self):
        """Is not exposed."""


async def call_hold_and_hang_up(worker: Worker) -> asyncio.Task:
    """Call as a peer does that knows no extensions, hang up, and return the handler, which goes on.

    Others have their calls cancelled when they are gone.
    """
    server = worker.container._server
    assert server is not None
    addr = server.sockets[0].getsockname() if server.sockets else aiomas.get_queue("q0")
    serializers = [aiomas.util.arrow_serializer]
    client = await rpc.open_connection(addr, extra_serializers=serializers)
    call = getattr(client.remote.agents, "0").hold(1)
    await worker.holding.wait()
    (task,) = worker.container._handlers
    await client.close()
    with pytest.raises(ConnectionResetError):
        await call
    await until(lambda: not worker.container._accepted)
    return task


def address_of(kind, unix_path, suffix=""):
    return {
        "tcp": ("127.0.0.1", 0),
        "unix": unix_path + suffix,
        "local": aiomas.get_queue(f"q{suffix}"),
    }[kind]


@pytest.fixture(autouse=True)
def fresh_queues():
    local_queue.clear_queue_cache()


class World:
    """Containers that are shut down at the end, with an agent in each."""

    def __init__(self, unix_path, kind="unix"):
        self.unix_path = unix_path
        self.kind = kind
        self.containers: list[Container] = []
        self.workers: list[Worker] = []

    async def add(self, addr=None, cls=Container, **kwds) -> Worker:
        if addr is None:
            addr = address_of(self.kind, self.unix_path, str(len(self.containers)))
        container = await cls.create(addr, as_coro=True, **kwds)
        self.containers.append(container)
        worker = Worker(container)
        self.workers.append(worker)
        return worker

    async def connect(self, worker: Worker, other: Worker):
        return await worker.container.connect(other.addr)

    async def close(self):
        for worker in self.workers:
            worker.let_go.set()
        for container in self.containers:
            await container.shutdown(as_coro=True, timeout=1)


@pytest.fixture(params=["unix"])
async def world(request, unix_path):
    world = World(unix_path, request.param)
    yield world
    await world.close()


every_transport = pytest.mark.parametrize("world", KINDS, indirect=True)


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition, timeout=5):
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - there is no event for what is looked at
            await asyncio.sleep(0.001)


class TestWorld:
    @every_transport
    @pytest.mark.parametrize("codec", CODECS)
    async def test_agents_call_each_other(self, world, codec):
        one, other = await world.add(codec=codec), await world.add(codec=codec)
        proxy = await one.container.connect(other.addr)
        assert await proxy.echo("hi") == "hi"
        assert await proxy.meter.read() == 42
        assert await proxy.call_back(one) == "called back"
        assert one.log == ["called back"]
        assert await (await proxy.me()).echo("to the same") == "to the same"
        date = arrow.get("2020-01-02T03:04:05.000006+02:00")
        assert await proxy.echo(date) == date

    async def test_all_agents_share_one_connection(self, world):
        one, other = await world.add(), await world.add()
        more = [Worker(other.container) for _ in range(10)]
        proxies = await asyncio.gather(*(one.container.connect(a.addr) for a in more))
        assert await asyncio.gather(*(p.echo(n) for n, p in enumerate(proxies))) == list(range(10))
        assert len(other.container._accepted) == 1

    async def test_the_same_agent_has_equal_proxies(self, world):
        one, other = await world.add(), await world.add()
        first = await one.container.connect(other.addr)
        assert first == await one.container.connect(other.addr)
        assert hash(first) == hash(one.container.proxy(other.addr))

    async def test_agents_have_a_name_a_router_and_their_container(self, world):
        worker = await world.add()
        second = Worker(worker.container)
        assert (worker.aid, second.aid) == ("0", "1")
        assert second.addr == f"ipc://[{world.unix_path}0]/1"
        assert second.router.path == "agents/1"
        assert worker.container.agents.dict == {"0": worker, "1": second}
        assert list(worker.container.agents) == ["0", "1"]
        assert repr(second) == str(second) == f"Worker('{second.addr}')"
        assert repr(worker.container) == f"Container('ipc://[{world.unix_path}0]/')"
        assert isinstance(worker.container.clock, AsyncioClock)
        assert worker.container.loop is asyncio.get_running_loop()

    async def test_a_proxy_says_whose_it_is(self, world):
        one, other = await world.add(), await world.add()
        proxy = await one.container.connect(other.addr)
        assert repr(proxy) == str(proxy) == f"WorkerProxy('{other.addr}')"
        assert repr(one.container.proxy(other.addr)) == f"AgentProxy('{other.addr}')"

    @pytest.mark.parametrize("container", [None, 5, "container"], ids=repr)
    async def test_an_agent_needs_a_container(self, container):
        with pytest.raises(TypeError, match="needs the Container it lives in"):
            Agent(container)

    async def test_an_agent_has_a_repr_before_it_is_ready(self, world):
        class Early(Agent):
            def __init__(self, container):
                self.seen = repr(self)
                super().__init__(container)

        assert "Early object at" in Early((await world.add()).container).seen

    @pytest.mark.parametrize(
        "path",
        [
            "validate_aid/x",
            "agents",
            "agents/0",
            "agents/9/echo",
            "agents/0/hidden",
            "agents/0/nope",
            "agents/0/container/shutdown",
            "agents/0/log/append",
            "agents/0/__init__",
            "agents/0/_Agent__container/validate_aid",
            "shutdown",
            "agents/0/peer/echo",
            "agents/dict/clear",
            "_register",
        ],
    )
    async def test_only_exposed_functions_can_be_reached(self, world, path):
        one, other = await world.add(), await world.add()
        other.peer = await other.container.connect(one.addr)
        await one.container.connect(other.addr)
        (client,) = one.container._pool.clients
        with pytest.raises(RemoteException, match="LookupError"):
            await client.channel.send([path, [], {}])
        assert one.log == []


class TestAddresses:
    async def test_port_0_is_shown_as_the_real_one(self, world):
        one = await world.add(("127.0.0.1", 0))
        port = one.container._server.sockets[0].getsockname()[1]
        assert one.container._base_url == one.container.base_url == f"tcp://127.0.0.1:{port}/"
        other = await world.add(("localhost", 0))
        assert other.addr.startswith("tcp://localhost:")
        assert await (await world.connect(one, other)).echo(1) == 1

    async def test_an_ipv6_address_is_in_brackets(self, world):
        try:
            one = await world.add(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        assert one.addr.startswith("tcp://[::1]:")
        other = await world.add()
        assert await (await world.connect(other, one)).echo(1) == 1

    @pytest.mark.parametrize("host", [None, "", "0.0.0.0"])
    async def test_everywhere_is_advertised_by_name_and_warned_of_once(
        self, world, host, monkeypatch, caplog
    ):
        monkeypatch.setattr(socket, "getfqdn", lambda *args: "here.example")
        _endpoint._warn_of_plain_tcp.cache_clear()
        one, other = await world.add((host, 0)), await world.add((host, 0), advertise="127.0.0.1")
        assert one.addr.startswith("tcp://here.example:")
        assert other.addr.startswith("tcp://127.0.0.1:")
        assert await (await world.connect(one, other)).echo(1) == 1
        assert ["without TLS" in record.getMessage() for record in caplog.records] == [True]

    async def test_each_transport_has_its_url(self, world):
        unix = await world.add(world.unix_path)
        local = await world.add(aiomas.get_queue("x"))
        assert unix.addr == f"ipc://[{world.unix_path}]/0"
        assert local.addr == "local://x/0"
        assert await (await world.connect(unix, local)).echo(1) == 1
        assert await (await world.connect(local, unix)).echo(1) == 1

    async def test_base_urls_end_with_a_slash(self, world):
        for addr in (("127.0.0.1", 0), world.unix_path, aiomas.get_queue("x")):
            assert (await world.add(addr)).container._base_url.endswith("/")

    async def test_an_address_in_use_is_refused_and_its_owner_lives_on(self, world):
        one = await world.add(("127.0.0.1", 0))
        port = one.container._server.sockets[0].getsockname()[1]
        two = await world.add(world.unix_path)
        three = await world.add(aiomas.get_queue("x"))
        for addr in (("127.0.0.1", port), world.unix_path, aiomas.get_queue("x")):
            with pytest.raises(OSError, match="in use"):
                await world.add(addr)
        for worker in (two, three):
            assert await (await world.connect(one, worker)).echo(1) == 1

    @pytest.mark.parametrize("addr", [5, None, ("h",), "x" * 200], ids=str)
    async def test_what_is_no_address_is_a_clear_error(self, addr):
        with pytest.raises(AddressError):
            await Container.create(addr, as_coro=True)

    @pytest.mark.parametrize(
        "url", ["", "x", 5, "http://h:1/0", "tcp://h:1", "tcp://h:1/", "ipc://x/0"], ids=repr
    )
    async def test_what_is_no_url_is_a_clear_error(self, world, url):
        container = (await world.add()).container
        with pytest.raises(AddressError):
            await container.connect(url)
        with pytest.raises(ValueError, match=r"URL|id|path|port"):
            container.proxy(url)


class TestCreate:
    @pytest.mark.parametrize("codec", [codecs.JSON(), "json", int, object], ids=str)
    async def test_a_codec_is_a_class(self, unix_path, codec):
        with pytest.raises(TypeError, match="subclass of Codec"):
            await Container.create(unix_path, codec=codec, as_coro=True)

    async def test_unknown_parameters_are_refused(self, unix_path, world):
        with pytest.raises(TypeError, match="no parameter 'spam'"):
            Container.create(unix_path, spam=1)  # type: ignore[call-overload]
        container: Any = (await world.add()).container
        with pytest.raises(TypeError, match="no parameter 'spam'"):
            container.shutdown(spam=1)

    @pytest.mark.parametrize("keywords", [{}, {"as_coro": True}, {"async": True}], ids=str)
    async def test_in_a_running_loop_it_is_awaited(self, unix_path, keywords):
        container = await Container.create(unix_path, **keywords)
        await container.shutdown(**keywords)
        assert not Path(unix_path).exists()

    def test_outside_of_a_loop_it_blocks(self, unix_path):
        container = Container.create(unix_path)
        other = Container.create(unix_path + "2")
        try:
            proxy = aiomas.run(container.connect(Worker(other).addr))
            assert aiomas.run(proxy.echo(1)) == 1
        finally:
            container.shutdown()
            container.shutdown()
            other.shutdown()
        assert not Path(unix_path).exists()
        close_current_loop()

    def test_outside_of_a_loop_it_can_be_awaited_later(self, unix_path):
        container = aiomas.run(Container.create(unix_path, as_coro=True))
        aiomas.run(container.shutdown(as_coro=True))
        container.shutdown()
        close_current_loop()

    def test_a_loop_can_be_passed(self, unix_path):
        loop = asyncio.new_event_loop()
        container = Container.create(unix_path, loop=loop)
        assert container.loop is loop
        container.shutdown()
        loop.close()

    async def test_open_shuts_down_at_the_end(self, unix_path):
        async with Container.open(unix_path, codec=codecs.MsgPack) as container:
            assert container.base_url == f"ipc://[{unix_path}]/"
            assert Path(unix_path).exists()
        assert not Path(unix_path).exists()

    async def test_a_clock_can_be_passed(self, world):
        clock = ExternalClock("2020-01-01")
        assert (await world.add(clock=clock)).container.clock is clock

    async def test_extra_serializers_travel(self, world):
        extra = [codecs.datetime_serializer]
        one, other = (
            await world.add(extra_serializers=extra),
            await world.add(extra_serializers=iter(extra)),
        )
        date = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
        for worker in (one, other):
            proxy = await worker.container.connect(other.addr)
            assert await proxy.echo(date) == date

    async def test_a_serializer_that_fails_leaves_nothing_behind(self, unix_path):
        def broken():
            raise LookupError

        with pytest.raises(LookupError):
            await Container.create(unix_path, extra_serializers=[broken], as_coro=True)
        assert not Path(unix_path).exists()

    async def test_a_subclass_keeps_the_signature(self, world):
        class Mine(Container):
            def __init__(self, base_url, loop, clock, connect_kwargs):
                super().__init__(base_url, loop, clock, connect_kwargs)
                self.seen = base_url, loop, clock, connect_kwargs

        worker = await world.add(cls=Mine, codec=codecs.MsgPack)
        container = worker.container
        assert type(container) is Mine
        base_url, loop, clock, connect_kwargs = container.seen
        assert base_url == container._base_url
        assert loop is asyncio.get_running_loop()
        assert clock is container.clock
        assert connect_kwargs["codec"] is codecs.MsgPack
        assert repr(container).startswith("Mine('ipc://")
        other = await world.add(codec=codecs.MsgPack)
        assert await (await world.connect(worker, other)).echo(1) == 1

    async def test_again_on_the_same_address_right_after(self, world):
        one, other = await world.add(), await world.add(("127.0.0.1", 0))
        port = other.container._server.sockets[0].getsockname()[1]
        addresses = [world.unix_path + "x", ("127.0.0.1", port), aiomas.get_queue("x")]
        await other.container.shutdown()
        for addr in addresses:
            for _ in range(2):
                worker = await world.add(addr)
                assert await (await world.connect(one, worker)).echo(1) == 1
                await worker.container.shutdown()


def close_current_loop():
    """Close the loop that `aiomas.run` has made for programs without one."""
    aiomas.util.current_loop().close()
    asyncio.set_event_loop(None)


class TestConnecting:
    @every_transport
    async def test_a_missing_agent_is_asked_for_again(self, world):
        one, other = await world.add(), await world.add()
        url = other.container.base_url + "1"
        for own in (one, other):
            for _ in range(2):
                with pytest.raises(AgentNotFoundError, match="has no agent '1'") as caught:
                    await own.container.connect(url)
                assert isinstance(caught.value, ConnectionError)
                assert isinstance(caught.value, LookupError)
        Worker(other.container)
        for own in (one, other):
            assert await (await own.container.connect(url)).echo(1) == 1

    @pytest.mark.parametrize("kind", KINDS)
    async def test_after_a_refused_attempt_the_next_one_succeeds(self, world, unix_path, kind):
        one = await world.add()
        addr = address_of(kind, unix_path, "there")
        if kind == "tcp":
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", 0))
                addr = sock.getsockname()
        url = {
            "tcp": f"tcp://127.0.0.1:{addr[1] if kind == 'tcp' else ''}/0",
            "unix": f"ipc://[{unix_path}there]/0",
            "local": "local://qthere/0",
        }[kind]
        error = FileNotFoundError if kind == "unix" else ConnectionRefusedError
        proxy = one.container.proxy(url)
        for timeout in (0, 0.3):
            results = await asyncio.gather(
                *(one.container.connect(url, timeout=timeout) for _ in range(5)),
                proxy.echo(0),
                return_exceptions=True,
            )
            assert [type(result) for result in results] == [error] * 5 + [ConnectionLost]
            assert type(results[-1].__cause__) is error
        await world.add(addr)
        assert await (await one.container.connect(url)).echo(1) == 1
        assert await proxy.echo(2) == 2

    async def test_concurrent_attempts_share_one_connection(self, world):
        accepted = []

        def accept(channel):
            accepted.append(channel)
            channel.serve(lambda request: request.reply("A"))

        one = await world.add()
        # Those of a container.
        serializers: list = [aiomas.util.arrow_serializer, lambda: (object, str, str)]
        async with await aiomas.channel.start_server(
            world.unix_path, accept, extra_serializers=serializers
        ) as server:
            url = f"ipc://[{world.unix_path}]/0"
            proxies = await asyncio.gather(*(one.container.connect(url) for _ in range(20)))
            assert len(set(proxies)) == 1
            assert len(accepted) == 1
            await one.container.shutdown()
            assert server.is_serving()

    @pytest.mark.parametrize("timeout", [10, None])
    @pytest.mark.parametrize("positional", [True, False])
    async def test_it_waits_for_a_server_that_comes_up_later(self, world, timeout, positional):
        one = await world.add()
        url = f"ipc://[{world.unix_path}]/0"
        args, kwds = ((timeout,), {}) if positional else ((), {"timeout": timeout})
        connecting = asyncio.create_task(one.container.connect(url, *args, **kwds))
        await asyncio.sleep(0.02)
        assert not connecting.done()
        await world.add(world.unix_path)
        assert await (await connecting).echo(1) == 1

    @pytest.mark.parametrize("kind", ["tcp", "unix"])
    async def test_the_bound_holds_for_a_peer_that_accepts_and_says_nothing(
        self, world, kind, monkeypatch
    ):
        loop = asyncio.get_running_loop()
        async with await _endpoint.listen(
            asyncio.Protocol, address_of(kind, world.unix_path), loop
        ) as server:
            url = f"ipc://[{world.unix_path}]/0"
            if kind == "tcp":
                url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
            one = await world.add()
            began = loop.time()
            with pytest.raises(ConnectTimeout, match=r"took more than 0\.1 s"):
                await one.container.connect(url, timeout=0.1)
            monkeypatch.setattr(_endpoint, "ATTEMPT_TIMEOUT", 0.1)
            with pytest.raises(TimeoutError):
                await one.container.connect(url)
            assert loop.time() - began < 2
            # It can be cancelled, too, and the container shuts down all the same.
            waiting = asyncio.create_task(one.container.connect(url, timeout=None))
            await turns()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await one.container.shutdown()

    async def test_a_peer_that_sends_garbage_is_no_container(self, world):
        class Garbage(asyncio.Protocol):
            def connection_made(self, transport):
                transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        loop = asyncio.get_running_loop()
        async with await _endpoint.listen(Garbage, world.unix_path, loop):
            one, other = await world.add(), await world.add()
            with pytest.raises(ConnectionLost):  # a ProtocolError, if it came after the request
                await one.container.connect(f"ipc://[{world.unix_path}]/0")
            assert await (await world.connect(one, other)).echo(1) == 1

    async def test_ping_returns_when_the_container_has_answered(self, world):
        one, other = await world.add(), await world.add()
        await one.container.ping(other.container.base_url)
        with pytest.raises(FileNotFoundError):
            await one.container.ping(f"ipc://[{world.unix_path}]/")

    async def test_a_proxy_can_be_had_without_asking(self, world):
        one, other = await world.add(), await world.add()
        for own in (one, other):
            assert await own.container.proxy(other.addr, "Worker").echo(1) == 1
            with pytest.raises(RemoteException, match="LookupError"):
                await own.container.proxy(other.container.base_url + "7").echo(1)

    async def test_validate_aid_says_the_class(self, world):
        one = await world.add()
        assert one.container.validate_aid("0") == "Worker"
        aids: list[Any] = ["1", 0, None, ["0"], {}]
        for aid in aids:
            assert one.container.validate_aid(aid) is None


class TestLoss:
    @every_transport
    async def test_pending_calls_fail_at_once_and_proxies_connect_again(self, world):
        one, other = await world.add(), await world.add()
        proxy = await world.connect(one, other)
        calls = [proxy.hold(n) for n in range(3)]
        await other.holding.wait()
        for client in list(other.container._accepted):
            client.channel.transport.abort()
        async with asyncio.timeout(2):
            for call in calls:
                with pytest.raises(ConnectionResetError):
                    await call
        assert await proxy.echo("again") == "again"
        assert await (await world.connect(one, other)).echo("and again") == "and again"

    @every_transport
    async def test_old_proxies_work_when_the_agent_is_back_at_its_address(self, world):
        one, other = (
            await world.add(),
            await world.add(("127.0.0.1", 0) if world.kind == "tcp" else None),
        )
        proxy = await world.connect(one, other)
        assert await proxy.echo(1) == 1
        addr = world.unix_path + "1"
        if world.kind == "tcp":
            addr = other.container._server.sockets[0].getsockname()
        elif world.kind == "local":
            addr = aiomas.get_queue("q1")
        await other.container.shutdown()
        with pytest.raises(ConnectionResetError, match="No connection"):
            await proxy.echo(2)
        back = await world.add(addr)
        assert await proxy.echo(3) == 3
        assert back.log == [3]

    async def test_calls_made_while_reconnecting_keep_their_order(self, world):
        one, other = await world.add(), await world.add()
        proxy = await world.connect(one, other)
        for client in list(other.container._accepted):
            client.channel.transport.abort()
        await until(lambda: not one.container._pool.clients)
        calls: list[asyncio.Future] = []
        while not one.container._pool.clients:
            calls.append(proxy.echo(len(calls)))
            await asyncio.sleep(0)
        calls += [proxy.echo(n) for n in range(len(calls), len(calls) + 10)]
        assert await asyncio.gather(*calls) == list(range(len(calls)))
        assert other.log == list(range(len(calls)))

    async def test_nothing_is_left_of_a_lost_connection(self, world):
        one, other = await world.add(), await world.add()
        proxy = await world.connect(one, other)
        await proxy.call_back(one)
        (theirs,), (ours,) = other.container._accepted, one.container._pool.clients
        references = [weakref.ref(x) for c in (ours, theirs) for x in (c, c.channel)]
        theirs.channel.transport.abort()
        del ours, theirs
        await until(lambda: not one.container._pool.clients)
        await turns()
        gc.collect()
        assert [ref() for ref in references if ref() is not None] == []
        assert not other.container._accepted
        assert await proxy.echo("the proxy is still of use") == "the proxy is still of use"
        del proxy

    async def test_a_killed_process_fails_all_calls_and_is_found_again_when_it_is_back(self, world):
        one = await world.add()
        url = f"ipc://[{world.unix_path}]/0"
        process = await start_hanging(world.unix_path)
        proxy = await one.container.connect(url)
        calls = [proxy.hang() for _ in range(20)]
        assert await proxy.pid() == process.pid
        process.kill()
        async with asyncio.timeout(5):
            for call in calls:
                with pytest.raises(ConnectionError):
                    await call
        await process.wait()
        with pytest.raises(ConnectionRefusedError):  # its socket's file is still there
            await one.container.connect(url)

        process = await start_hanging(world.unix_path)
        assert await proxy.pid() == process.pid
        process.kill()
        await process.wait()

    async def test_a_caller_that_gave_up_harms_nobody(self, world):
        one, other = await world.add(), await world.add()
        for own in (one, other):
            other.let_go.clear()
            proxy = await own.container.connect(other.addr)
            cancelled, kept = proxy.hold("cancelled"), proxy.hold("kept")
            cancelled.cancel()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(proxy.hold("timed out"), 0.02)
            other.let_go.set()
            assert await kept == "kept"
            assert await proxy.echo("next") == "next"


async def start_hanging(path):
    """Start a process with an agent whose calls hang."""
    code = """
import asyncio, os, sys
import aiomas

class Hanging(aiomas.Agent):
    @aiomas.expose
    async def hang(self):
        await asyncio.Event().wait()

    @aiomas.expose
    def pid(self):
        return os.getpid()

async def main():
    async with aiomas.Container.open(sys.argv[1]) as container:
        Hanging(container)
        os.write(1, b"up")
        await asyncio.Event().wait()

asyncio.run(main())
"""
    reading, writing = socket.socketpair()
    with reading, writing:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, path, stdout=writing.fileno()
        )
        writing.close()
        reading.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(reading, 10) == b"up"
    return process


class TestInside:
    @pytest.mark.parametrize("codec", CODECS)
    async def test_calls_pass_by_value_and_need_no_connection(self, world, codec):
        one = await world.add(codec=codec)
        proxy = await one.container.connect(one.addr)
        value = {"list": [1]}
        call = proxy.echo(value)
        value["list"].append(2)
        assert one.log == []
        result = await call
        expected = list if codec is codecs.JSON else tuple
        assert one.log[0]["list"] == expected([1])
        result["more"] = 1
        assert "more" not in one.log[0]
        assert not one.container._accepted
        assert not one.container._pool.clients

    @pytest.mark.parametrize("inside", [True, False])
    async def test_errors_look_the_same_as_from_elsewhere(self, world, inside):
        one, other = await world.add(), await world.add()
        proxy = await (other if inside else one).container.connect(other.addr)
        with pytest.raises(RemoteException, match="ValueError: boom"):
            await proxy.fail()
        with pytest.raises(RemoteException, match="LookupError"):
            await proxy.hidden()
        with pytest.raises(RemoteException, match="TypeError"):
            await proxy.echo(1, 2, 3)
        with pytest.raises(RemoteException, match="SerializationError"):
            await proxy.unserializable()
        with pytest.raises(SerializationError):
            proxy.echo(object())
        with pytest.raises(RemoteException, match="DecodeError"):
            await proxy.echo({"__type__": [99, None]})
        assert other.log == []

    async def test_agents_can_be_passed(self, world):
        one = await world.add()
        second = Worker(one.container)
        proxy = await one.container.connect(one.addr)
        assert await proxy.call_back(second) == "called back"
        assert second.log == ["called back"]


class TestShutdown:
    @every_transport
    async def test_nothing_is_left(self, world):
        one, other = await world.add(), await world.add()
        proxy = await world.connect(one, other)
        assert await proxy.call_back(one) == "called back"
        for worker in (one, other):
            await worker.container.shutdown()
            assert not worker.container._accepted
            assert not worker.container._pool.clients
            assert not worker.container._pool._active
        gc.collect()
        await turns()
        assert {task for task in asyncio.all_tasks() if "aiomas" in repr(task.get_coro())} == set()

    async def test_twice_one_after_the_other_and_at_once(self, world):
        one = await world.add()
        await asyncio.gather(*(one.container.shutdown() for _ in range(5)))
        await one.container.shutdown()
        await one.container.shutdown(as_coro=True, timeout=0)

    async def test_one_who_is_cancelled_does_not_cancel_it(self, world):
        one, other = await world.add(), await world.add()
        call = (await world.connect(other, one)).hold(1)
        await one.holding.wait()
        first = asyncio.create_task(one.container.shutdown())
        second = asyncio.create_task(one.container.shutdown())
        await turns()
        first.cancel()
        one.let_go.set()
        await second
        assert await call == 1
        with pytest.raises(asyncio.CancelledError):
            await first

    @pytest.mark.parametrize("inside", [True, False])
    async def test_calls_that_are_being_served_are_answered(self, world, inside):
        one, other = await world.add(), await world.add()
        calls = [(await world.connect(other, one)).hold(1)]
        await one.holding.wait()
        if inside:
            calls.append((await world.connect(one, one)).hold(2))
            await until(lambda: len(one.log) == 2)
        stopping = asyncio.create_task(one.container.shutdown())
        await turns()
        assert not stopping.done()
        one.let_go.set()
        await stopping
        assert await calls[0] == 1
        if inside:  # it is our own call, which has ended at once
            with pytest.raises(ContainerClosedError):
                await calls[1]

    async def test_new_requests_are_refused_meanwhile(self, world):
        one, other = await world.add(), await world.add()
        proxy = await world.connect(other, one)
        held = proxy.hold(1)
        await one.holding.wait()
        stopping = asyncio.create_task(one.container.shutdown())
        await turns()
        with pytest.raises(RemoteException, match=r"ContainerClosedError.*shut down"):
            await proxy.echo(2)
        # Over a new connection as well.
        late = await world.add()
        with pytest.raises(ConnectionLost, match="being shut down"):
            await world.connect(late, one)
        with pytest.raises(ContainerClosedError, match="takes no more agents"):
            Worker(one.container)
        one.let_go.set()
        await stopping
        assert await held == 1
        with pytest.raises(ConnectionLost, match="No such file"):
            await proxy.echo(3)

    async def test_calls_over_the_bound_are_cancelled_and_said_so(self, world, caplog):
        one, other = await world.add(), await world.add()
        call = (await world.connect(other, one)).hold(1)
        await one.holding.wait()
        with caplog.at_level(logging.WARNING, "aiomas"):
            async with asyncio.timeout(2):
                await one.container.shutdown(timeout=0.05)
        with pytest.raises(RemoteException, match="CancelledError"):
            await call
        (record,) = caplog.records
        assert "agents/0/hold" in record.getMessage()
        assert "0.05 s" in record.getMessage()

    @pytest.mark.parametrize("timeout", [0, 0.01])
    async def test_calls_that_clean_up_when_cancelled_are_waited_for(self, world, timeout):
        one, other = await world.add(), await world.add()
        call = (await world.connect(other, one)).stubborn()
        await one.holding.wait()
        await one.container.shutdown(timeout=timeout)
        assert one.log == ["cancelled", "cleaned up"]
        await call

    @every_transport
    async def test_handlers_for_an_old_peer_that_is_gone_are_drained_too(self, world):
        one = await world.add()
        await call_hold_and_hang_up(one)
        stopping = asyncio.create_task(one.container.shutdown())
        await turns()
        assert not stopping.done()
        one.let_go.set()
        async with asyncio.timeout(2):
            await stopping

    async def test_handlers_for_an_old_peer_that_is_gone_are_cancelled_too(self, world):
        one = await world.add()
        task = await call_hold_and_hang_up(one)
        await one.container.shutdown(timeout=0.01)
        assert task.cancelled()

    @pytest.mark.parametrize("inside", [True, False])
    async def test_own_calls_end_at_once(self, world, inside):
        one, other = await world.add(), await world.add()
        target = one if inside else other
        proxy = await one.container.connect(target.addr)
        call = proxy.hold(1)
        await target.holding.wait()
        stopping = asyncio.create_task(one.container.shutdown())
        async with asyncio.timeout(2):
            with pytest.raises(ContainerClosedError, match="was shut down"):
                await call
        with pytest.raises(ContainerClosedError):
            proxy.echo(2)
        one.let_go.set()
        await stopping
        with pytest.raises(ConnectionResetError):
            proxy.echo(3)
        with pytest.raises(ContainerClosedError):
            await one.container.connect(other.addr)
        with pytest.raises(ContainerClosedError):
            await one.container.connect(one.addr)

    @pytest.mark.parametrize("where", ["inside", "outside", "not connected yet"])
    async def test_calls_of_a_handler_that_is_being_drained_are_made(self, world, where):
        one, other = await world.add(), await world.add()
        target = {"inside": Worker(one.container)}.get(where, other)
        if where == "not connected yet":
            one.peer = one.container.proxy(target.addr)
        else:
            one.peer = await one.container.connect(target.addr)
        call = (await world.connect(other, one)).hold_and_ask("x")
        await one.holding.wait()
        stopping = asyncio.create_task(one.container.shutdown())
        await turns()
        one.let_go.set()
        assert await call == "x"
        assert target.log == ["x"]
        await stopping

    async def test_a_handler_that_is_being_drained_can_connect(self, world):
        one, other = await world.add(), await world.add()
        call = (await world.connect(other, one)).hold_and_connect(other.addr)
        await one.holding.wait()
        stopping = asyncio.create_task(one.container.shutdown())
        await turns()
        one.let_go.set()
        assert await call == "connected"
        await stopping

    @pytest.mark.parametrize("timeout", [0, 5, None])
    @pytest.mark.parametrize("there", ["silent", "nobody"])
    async def test_attempts_to_connect_end_at_once(self, world, timeout, there):
        loop = asyncio.get_running_loop()
        one, other = await world.add(), await world.add()
        held = (await world.connect(other, one)).hold(1)  # so that the shutdown takes a while
        await one.holding.wait()
        url = f"ipc://[{world.unix_path}]/0"
        async with contextlib.AsyncExitStack() as stack:
            if there == "silent":
                await stack.enter_async_context(
                    await _endpoint.listen(asyncio.Protocol, world.unix_path, loop)
                )
            elif timeout == 0:
                return
            connecting = asyncio.create_task(one.container.connect(url, timeout=timeout))
            await asyncio.sleep(0.05)
            stopping = asyncio.create_task(one.container.shutdown())
            async with asyncio.timeout(1):
                with pytest.raises(ContainerClosedError):
                    await connecting
            assert not stopping.done()
            one.let_go.set()
            await stopping
            assert await held == 1

    async def test_an_attempt_that_ends_with_the_pool_says_why(self, world, monkeypatch):
        one = await world.add()
        began = asyncio.Event()

        async def never(*args, **kwds):
            began.set()
            await asyncio.get_running_loop().create_future()

        monkeypatch.setattr(_endpoint, "dial", never)
        call = one.container.proxy(f"ipc://[{world.unix_path}]/0").echo(1)
        await began.wait()
        await one.container.shutdown()
        with pytest.raises(ContainerClosedError):
            await call

    @pytest.mark.parametrize("inside", [True, False])
    async def test_a_handler_can_await_it(self, world, inside):
        one, other = await world.add(), await world.add()
        proxy = await (one if inside else other).container.connect(one.addr)
        call = proxy.stop_all()
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionResetError):
                await call
            await until(lambda: one.log == ["stopped"])

    async def test_several_handlers_can_await_it(self, world):
        one, other = await world.add(), await world.add()
        proxy = await world.connect(other, one)
        held = proxy.hold("held")
        await one.holding.wait()
        calls = [proxy.stop_all() for _ in range(3)]
        await turns(10)
        one.let_go.set()
        async with asyncio.timeout(5):
            assert await held == "held"
            for call in calls:
                with pytest.raises(ConnectionResetError):
                    await call
            await one.container.shutdown()
            await until(lambda: one.log == ["held"] + ["stopped"] * 3)

    async def test_a_handler_can_join_it_when_it_is_under_way(self, world):
        one, other = await world.add(), await world.add()
        proxy = await world.connect(other, one)

        async def stop_later():
            await one.let_go.wait()
            await one.container.shutdown()
            one.log.append("stopped")

        one.__dict__["hold"] = aiomas.expose(stop_later)
        call = proxy.hold()
        await until(lambda: one.container._handlers)
        stopping = asyncio.create_task(one.container.shutdown())
        await turns()
        one.let_go.set()
        async with asyncio.timeout(5):
            await stopping
            with pytest.raises(ConnectionResetError):
                await call
            await until(lambda: one.log == ["stopped"])

    async def test_requests_that_arrive_with_it_are_answered_or_refused(self, world):
        one, other = await world.add(), await world.add()
        proxy = await world.connect(other, one)
        one.let_go.set()
        calls = [proxy.hold(n) for n in range(100)]
        await asyncio.sleep(0)
        await one.container.shutdown()
        for n, result in enumerate(await asyncio.gather(*calls, return_exceptions=True)):
            assert result == n or isinstance(result, RemoteException | ConnectionResetError)

    @pytest.mark.parametrize("kind", ["tcp", "unix"])
    async def test_a_connection_that_comes_with_it_does_not_survive(self, unix_path, kind):
        # In the turn that is left out, asyncio itself loses the connection until it is collected.
        for delay in (0, 2, 3, 4, 5):
            container = await Container.create(address_of(kind, unix_path), as_coro=True)
            assert container._server is not None
            (listener,) = container._server.sockets
            with socket.socket(listener.family) as sock:
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    sock.connect(listener.getsockname())
                await turns(delay)
                await container.shutdown(as_coro=True)
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(2):
                    with contextlib.suppress(ConnectionResetError):
                        assert await loop.sock_recv(sock, 1) == b""

    async def test_the_server_is_given_to_the_container(self, world):
        one = await world.add()
        server = one.container._server
        assert server is not None
        await one.container.shutdown()
        assert not server.is_serving()

    async def test_a_container_without_a_server_can_be_shut_down(self):
        loop = asyncio.get_running_loop()
        container = Container("tcp://h:1/", loop, AsyncioClock(), {})
        await container.shutdown(as_coro=True)


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return write_certs(trustme.CA(), tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="module")
def other_certs(tmp_path_factory):
    return write_certs(trustme.CA(), tmp_path_factory.mktemp("other"))


class TestTls:
    @pytest.fixture
    async def quiet(self):
        """In its debug mode, asyncio reports each handshake that fails as an error of the loop."""
        loop = asyncio.get_running_loop()
        debug = loop.get_debug()
        loop.set_debug(False)
        yield
        loop.set_debug(debug)

    async def test_two_containers_talk(self, world, certs, caplog):
        one = await world.add(("127.0.0.1", 0), ssl=certs)
        other = await world.add(("localhost", 0), ssl=contexts(certs))
        proxy = await world.connect(one, other)
        assert await proxy.call_back(one) == "called back"
        assert await (await world.connect(other, one)).echo(1) == 1
        (client,) = one.container._pool.clients[:1]
        assert client.channel.get_extra_info("cipher")

    async def test_unix_sockets_and_local_queues_go_without(self, world, certs):
        one = await world.add(("127.0.0.1", 0), ssl=certs)
        for addr in (world.unix_path, aiomas.get_queue("x")):
            other = await world.add(addr, ssl=certs)
            assert await (await world.connect(one, other)).echo(1) == 1
            # But what such a container dials over TCP is encrypted.
            assert await (await world.connect(other, one)).echo(2) == 2
            (client,) = other.container._pool.clients
            assert client.channel.get_extra_info("cipher")

    async def test_another_authority_is_refused(self, world, certs, other_certs, quiet):
        one = await world.add(("127.0.0.1", 0), ssl=certs)
        other = await world.add(("127.0.0.1", 0), ssl=other_certs)
        async with asyncio.timeout(5):
            for a, b in ((one, other), (other, one)):
                with pytest.raises(OSError, match=r"(?i)certificate"):
                    await a.container.connect(b.addr, timeout=10)
        # A client that trusts the server, but shows a certificate that the server does not trust.
        wrong = (contexts(certs)[0], contexts(mixed(certs, other_certs))[1])
        third = await world.add(("127.0.0.1", 0), ssl=wrong)
        async with asyncio.timeout(5):
            with pytest.raises(OSError):  # a reset, an alert or the end
                await third.container.connect(one.addr)

    async def test_a_plain_dialler_is_refused_within_a_bound(self, world, certs, quiet):
        tls = await world.add(("127.0.0.1", 0), ssl=certs)
        plain = await world.add(("127.0.0.1", 0))
        async with asyncio.timeout(5):
            with pytest.raises(OSError):
                await plain.container.connect(tls.addr)
            with pytest.raises(OSError):
                await tls.container.connect(plain.addr)

    @pytest.mark.parametrize("ssl", [5, ("a", "b"), (None, None), "x"], ids=repr)
    async def test_what_is_no_ssl_is_a_clear_error(self, ssl):
        with pytest.raises(TypeError, match="SSLCerts or two SSLContexts"):
            await Container.create(("127.0.0.1", 0), ssl=ssl, as_coro=True)

    async def test_a_missing_file_is_an_os_error(self, certs):
        missing = certs._replace(keyfile="nothing")
        with pytest.raises(FileNotFoundError):
            await Container.create(("127.0.0.1", 0), ssl=missing, as_coro=True)


def write_certs(ca, folder) -> SSLCerts:
    leaf = ca.issue_cert("localhost", "127.0.0.1")
    paths = [str(folder / name) for name in ("ca.pem", "cert.pem", "key.pem")]
    ca.cert_pem.write_to_path(paths[0])
    leaf.cert_chain_pems[0].write_to_path(paths[1])
    leaf.private_key_pem.write_to_path(paths[2])
    return SSLCerts(*paths)


def contexts(certs):
    return aiomas.make_ssl_server_context(*certs), aiomas.make_ssl_client_context(*certs)


def mixed(certs, other) -> SSLCerts:
    return SSLCerts(certs.cafile, other.certfile, other.keyfile)


async def scenario(folder, kind):
    """What a program does: containers, calls in all directions, a loss, a shutdown."""
    local_queue.clear_queue_cache()
    addr = [address_of(kind, f"{folder}/{kind}", str(n)) for n in range(2)]
    async with Container.open(addr[0]) as first, Container.open(addr[1]) as second:
        one, other = Worker(first), Worker(second)
        proxy = await first.connect(other.addr)
        assert await asyncio.gather(*(proxy.echo(n) for n in range(200))) == list(range(200))
        assert await proxy.ask(one.addr, "echo", "there and back") == "there and back"
        assert await (await first.connect(one.addr)).call_back(one) == "called back"
        with pytest.raises(RemoteException, match="boom"):
            await proxy.fail()
        with pytest.raises(AgentNotFoundError):
            await first.connect(second.base_url + "77")
        call = proxy.hold("lost")
        await other.holding.wait()
        await asyncio.gather(*(client.close() for client in second._accepted))
        with pytest.raises(ConnectionResetError):
            await call
        other.let_go.set()
        assert await proxy.hold("again") == "again"
        big = "x" * 1_000_000
        assert await proxy.echo(big) == big
        stopping = proxy.hold("drained")
        assert await stopping == "drained"


class TestLoops:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("loop", ["asyncio", "debug", "uvloop"])
    def test_a_program_runs_on_each_loop(self, unix_path, loop, kind, caplog):
        factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(debug=loop == "debug", loop_factory=factory) as runner:
            if loop == "debug":
                runner.get_loop().slow_callback_duration = 10
            runner.run(scenario(Path(unix_path).parent, kind))
        assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []

    def test_no_warning_is_given_about_coroutines_or_resources(self, unix_path):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            asyncio.run(scenario(Path(unix_path).parent, "unix"))
            gc.collect()
        assert [str(warning.message) for warning in caught] == []


class TestOfUsersAttributes:
    async def test_an_agent_may_have_an_attribute_aid_of_its_own(self, world):
        class Named(Worker):
            def __init__(self, container):
                super().__init__(container)
                self.aid = "unit-7"

        class Property(Worker):
            @property
            def aid(self) -> str:  # type: ignore[override]
                return "unit-8"

        one = await world.add()
        for cls in (Named, Property):
            agent = cls(one.container)
            proxy = await one.container.connect(agent.addr)
            assert await proxy.echo(agent.aid) == agent.aid
            assert await (await proxy.me()).echo("itself") == "itself"

    async def test_a_service_of_another_base_class_is_found(self, world):
        class Mixin:
            router = rpc.Service(["meter"])

        class Mixed(Mixin, Worker):
            pass

        one, other = await world.add(), await world.add()
        mixed = Mixed(one.container)
        # As an argument first, before anybody has called it.
        assert await (await world.connect(one, other)).call_back(mixed) == "called back"

    async def test_url_of_an_agent_and_of_its_proxy(self, world):
        one, other = await world.add(), await world.add()
        assert url_of(one) == url_of(await world.connect(other, one)) == one.addr
        with pytest.raises(TypeError, match="neither an agent nor a proxy"):
            url_of(rpc.Proxy(one.container._local, "x"))


class TestWrongArguments:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"addr": ("localhost", 70000)}, AddressError, "70000 is no port number"),
            ({"addr": "tcp://localhost:5555"}, AddressError, "is a URL"),
            ({"addr": "\0abstract"}, AddressError, "abstract socket"),
            ({"clock": 5}, TypeError, "clock must be a BaseClock, got 5"),
            ({"call_timeout": "5"}, TypeError, "call_timeout is a number of seconds .* got '5'"),
            ({"call_timeout": -1}, ValueError, "call_timeout is a positive number .* got -1"),
            ({"extra_serializers": Worker}, TypeError, "is a list of functions"),
            ({"extra_serializers": [(int, int, int)]}, TypeError, "list of functions"),
            ({"codec": codecs.JSON()}, TypeError, "subclass of Codec"),
            ({"ssl": SSLCerts("no.pem", "no.pem", "no.key")}, FileNotFoundError, r"no\.pem"),
        ],
    )
    async def test_of_create(self, unix_path, arguments, error, message):
        with pytest.raises(error, match=message):
            await Container.create(**{"addr": unix_path} | arguments, as_coro=True)

    async def test_of_connect(self, world):
        one = await world.add()
        with pytest.raises(TypeError, match="timeout is a number"):
            await one.container.connect("ipc://[/nowhere]/0", timeout="x")
        with pytest.raises(TypeError, match="proxy_type must be a class"):
            await one.container.connect("ipc://[/nowhere]/0", "x")
        with pytest.raises(FileNotFoundError, match="/nowhere"):
            await one.container.connect("ipc://[/nowhere]/0")


class TestConnectingAtAwkwardMoments:
    @pytest.mark.parametrize("gap", range(6))
    async def test_one_turn_after_all_others_gave_up(self, world, gap):
        one = await world.add()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = "tcp://{}:{}/0".format(*silent.getsockname())
            first = asyncio.create_task(one.container.connect(url))
            await asyncio.sleep(0.02)
            first.cancel()
            await turns(gap)
            with pytest.raises(ConnectTimeout):
                await one.container.connect(url, timeout=0.05)

    async def test_to_a_container_that_makes_way_for_another(self, world):
        one, other = await world.add(), await world.add()
        addr = f"{world.unix_path}0"
        held = (await world.connect(other, one)).hold(1)
        await one.holding.wait()
        stopping = asyncio.create_task(one.container.shutdown(as_coro=True))
        await turns()
        # Once it is there again it has an agent with the same id.
        connecting = asyncio.create_task(other.container.connect(one.addr, timeout=5))
        await asyncio.sleep(0.02)
        one.let_go.set()
        await stopping
        assert await held == 1
        again = await world.add(addr)
        assert await (await connecting).echo("again") == "again"
        assert again.log == ["again"]


class TestShutdownAtAwkwardMoments:
    async def test_everything_is_closed_if_it_is_cancelled(self, world):
        one, other = await world.add(), await world.add()
        call = (await world.connect(other, one)).hold(1)
        await one.holding.wait()
        stopping = asyncio.create_task(one.container._do_shutdown(5))
        await turns()
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert not Path(f"{world.unix_path}0").exists()
        with pytest.raises(ConnectionLost):
            await call
        one.let_go.set()

    async def test_what_a_handler_leaves_running_is_no_part_of_a_request(self, world):
        class Starter(Worker):
            @aiomas.expose
            async def start(self, url):
                peer = await self.container.connect(url)
                self.background = asyncio.create_task(self.run(peer))

            async def run(self, peer):
                await peer.hold("in the background")

        one, other, third = [await world.add() for _ in range(3)]
        starter = Starter(one.container)
        await (await world.connect(third, starter)).start(other.addr)
        await other.holding.wait()
        held = (await world.connect(third, one)).hold("a request")
        await one.holding.wait()
        stopping = asyncio.create_task(one.container.shutdown(as_coro=True))
        with pytest.raises(ContainerClosedError):  # at once, while the request is drained
            await starter.background
        assert not stopping.done()
        one.let_go.set()
        assert await held == "a request"
        await stopping

    async def test_a_function_that_hands_a_call_on_is_drained(self, world):
        class Forwarder(Worker):
            @aiomas.expose
            def forward(self, value):
                return self.peer.hold(value)

        one, other, third = [await world.add() for _ in range(3)]
        forwarder = Forwarder(one.container)
        forwarder.peer = await world.connect(one, other)
        call = (await world.connect(third, forwarder)).forward("handed on")
        await other.holding.wait()
        stopping = asyncio.create_task(one.container.shutdown(as_coro=True))
        await turns()
        other.let_go.set()
        assert await call == "handed on"
        await stopping

    def test_after_the_event_loop_is_clear(self, unix_path):
        loop = asyncio.new_event_loop()
        container = Container.create(unix_path, loop=loop)
        container.shutdown()
        loop.close()
        container.shutdown()  # that was done before
        loop = asyncio.new_event_loop()
        late = Container.create(aiomas.get_queue("late"), loop=loop)
        loop.close()
        with pytest.raises(RuntimeError, match="was closed before the container was shut down"):
            late.shutdown()


class TestMessagesThatAreTooDeep:
    @pytest.mark.parametrize("codec", [codecs.MsgPack, codecs.MsgPackBlosc])
    async def test_are_an_error_for_one_call_alone(self, world, codec):
        one, other = await world.add(codec=codec), await world.add(codec=codec)
        for container in (one.container, other.container):  # over a socket and inside
            proxy = await container.connect(one.addr)
            held = proxy.hold("all the while")
            for depth in range(1015, 1030):
                deep: Any = None
                for _ in range(depth):
                    deep = (deep,)
                try:
                    await asyncio.wait_for(proxy.echo(deep), 5)
                except (RemoteException, SerializationError):
                    continue
            one.let_go.set()
            assert await held == "all the while"
            one.let_go.clear()


class TestShutdownByHandlers:
    async def test_a_function_that_returns_the_shutdown(self, world):
        class Ender(Worker):
            @aiomas.expose
            def end(self):
                return self.container.shutdown(as_coro=True)

        one, other = await world.add(), await world.add()
        call = (await world.connect(other, Ender(one.container))).end()
        async with asyncio.timeout(5):  # and not after the 10 s that requests have to end
            with pytest.raises(ConnectionLost):
                await call

    async def test_a_handler_that_only_starts_it_is_drained(self, world):
        class Starter(Worker):
            @aiomas.expose
            async def end(self):
                self.ending = asyncio.create_task(self.container.shutdown(as_coro=True))
                await self.let_go.wait()
                return "the reply"

        one, other = await world.add(), await world.add()
        starter = Starter(one.container)
        call = (await world.connect(other, starter)).end()
        await until(lambda: hasattr(starter, "ending"))
        await turns()
        starter.let_go.set()
        assert await call == "the reply"
        await starter.ending

    async def test_a_handler_that_shuts_down_when_it_is_cancelled(self, world):
        class Late(Worker):
            @aiomas.expose
            async def late(self):
                self.holding.set()
                try:
                    await self.let_go.wait()
                finally:
                    await self.container.shutdown(as_coro=True)

        one, other = await world.add(), await world.add()
        late = Late(one.container)
        call = (await world.connect(other, late)).late()
        await late.holding.wait()
        async with asyncio.timeout(5):
            await one.container.shutdown(as_coro=True, timeout=0.05)
        with pytest.raises((ConnectionLost, RemoteException)):
            await call

    async def test_after_one_that_was_cancelled_another_one_is_done(self, world):
        one, other = await world.add(), await world.add()
        call = (await world.connect(other, one)).hold(1)
        await one.holding.wait()
        first = asyncio.create_task(one.container.shutdown(as_coro=True))
        await turns()
        assert one.container._shutdown is not None
        one.container._shutdown.cancel()
        await first
        await one.container.shutdown(as_coro=True)
        await turns()
        assert not one.container._handlers
        with pytest.raises((ConnectionLost, RemoteException)):
            await call


@pytest.mark.parametrize("loop_factory", [None, uvloop.new_event_loop])
def test_a_container_that_nobody_holds_is_still_there(loop_factory, unix_path):
    async def make():
        return Worker(await Container.create(unix_path, as_coro=True)).addr

    async def main():
        url = await make()
        await turns()
        gc.collect()
        async with Container.open(unix_path + "2") as other:
            assert await (await other.connect(url)).echo("still there") == "still there"
            await (await other.connect(url)).end()
        assert not Path(unix_path).exists()

    class Worker(Agent):
        @aiomas.expose
        def echo(self, value):
            return value

        @aiomas.expose
        def end(self):
            self.ending = aiomas.create_task(self.container.shutdown(as_coro=True))

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert not _endpoint._held


class Counter(Agent):
    count = 0

    @aiomas.expose
    def add(self) -> int:
        self.count += 1
        return self.count


def test_connecting_to_a_container_that_answers_too_late_exceeds_the_default_deadline():
    async def main() -> None:
        faults = testing.Faults(seed=1)
        async with (
            Container.open(faults.queue("late")) as there,
            Container.open(local_queue.get_queue("here"), call_timeout=1.0) as here,
        ):
            counter = Counter(there)
            await here.connect(counter.addr)
            faults.to_client = testing.Rates(delay=(2.0, 2.0))
            with pytest.raises(DeadlineExceeded):
                await here.connect(counter.addr)
            faults.to_client = testing.Rates()

    testing.run(main())


def test_a_call_that_was_not_sent_and_may_not_be_repeated_fails_with_what_went_wrong():
    async def main() -> None:
        queue = local_queue.get_queue("there")
        async with Container.open(local_queue.get_queue("here")) as here:
            proxy = here.proxy("local://there/0")
            call = aiomas.with_options(proxy, retries=3).add()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            async with Container.open(queue) as there:
                counter = Counter(there)
                with pytest.raises(ConnectionLost) as caught:
                    await call
                assert caught.value.outcome is Outcome.NOT_SENT
                assert counter.count == 0

    testing.run(main())
