"""Where aiomas 0.6.1 and 2.0 differ: programs for either run unchanged, so each spelling works."""

from __future__ import annotations

import asyncio
import inspect
import socket
import time
from contextlib import asynccontextmanager
from typing import Any

import arrow
import pytest

import aiomas
from aiomas import local_queue, rpc, subproc, util

LOOPBACK = ("127.0.0.1", 0)
ASYNC = {"async": True}  # a word of the language today


class Callee(aiomas.Agent):
    @aiomas.expose
    def spam(self, times):
        return "spam" * times


class Service:
    router = rpc.Service()

    @aiomas.expose
    def answer(self, value=41):
        return value + 1

    @aiomas.expose
    async def call_back(self, callee, value):
        return await callee.answer(value)


class TestRunningLoop:
    """`Container.create()` and `shutdown()`, inside and outside of an event loop."""

    @pytest.mark.parametrize("keywords", [{}, {"as_coro": True}, ASYNC])
    async def test_inside_of_a_loop_they_return_an_awaitable(self, keywords):
        container = await aiomas.Container.create(LOOPBACK, **keywords)
        callee = Callee(container)

        assert await (await container.connect(callee.addr)).spam(1) == "spam"
        await container.shutdown(**keywords)

    @pytest.mark.parametrize("keywords", [{}, {"as_coro": False}, {"async": False}])
    def test_outside_of_a_loop_they_block(self, loop, keywords):
        for _ in range(3):
            container = aiomas.Container.create(LOOPBACK, **keywords)
            callee = Callee(container)

            async def call(callee=callee):
                return await (await callee.container.connect(callee.addr)).spam(1)

            assert aiomas.run(call()) == "spam"
            assert container.shutdown(**keywords) is None

    @pytest.mark.parametrize("keywords", [{"as_coro": True}, ASYNC])
    def test_outside_of_a_loop_an_awaitable_can_be_had(self, loop, keywords):
        container = aiomas.run(aiomas.Container.create(LOOPBACK, **keywords))
        aiomas.run(container.shutdown(**keywords))

    def test_as_coro_of_shutdown_may_be_given_by_position(self, loop):
        container = aiomas.Container.create(LOOPBACK)
        aiomas.run(container.shutdown(True))

    async def test_new_code_uses_async_with(self):
        async with aiomas.Container.open(LOOPBACK, codec=aiomas.MsgPack) as container:
            callee = Callee(container)
            assert await (await container.connect(callee.addr)).spam(1) == "spam"
        with pytest.raises(ConnectionError):
            await container.connect(callee.addr)

    @pytest.mark.parametrize("keyword", ["asynchronous", "asyn"])
    async def test_other_keywords_are_refused(self, keyword):
        wrong: Any = {keyword: True}
        with pytest.raises(TypeError, match=keyword):
            await aiomas.Container.create(LOOPBACK, **wrong)
        async with aiomas.Container.open(LOOPBACK) as container:
            with pytest.raises(TypeError, match=keyword):
                await container.shutdown(**wrong)


class TestTaskWithLoudErrors:
    def test_its_names(self):
        assert getattr(aiomas, "async") is aiomas.create_task
        assert getattr(util, "async") is util.create_task
        assert util.create_task is aiomas.create_task

    @pytest.mark.parametrize("keywords", [{}, {"ignore_cancel": True}])
    async def test_it_starts_a_task(self, keywords):
        assert await aiomas.create_task(asyncio.sleep(0, "result"), **keywords) == "result"


def test_the_dict_service_is_one_class_with_two_names():
    assert rpc.RoutingDict is rpc.ServiceDict


class TestWhatAServerGets:
    @pytest.mark.parametrize("keyword", ["router", "rpc_service", None])
    @pytest.mark.parametrize("what", ["a router", "an object", "a dict service"])
    async def test_start_server(self, keyword, what):
        service = served(what)
        args, keywords = ((service,), {}) if keyword is None else ((), {keyword: service})
        async with await rpc.start_server(LOOPBACK, *args, **keywords) as server:
            client = await rpc.open_connection(server.sockets[0].getsockname())
            assert await client.remote.answer() == 42
            await client.close()

    @pytest.mark.parametrize("keyword", ["router", "rpc_service"])
    @pytest.mark.parametrize("what", ["a router", "an object", "a dict service"])
    async def test_open_connection(self, keyword, what):
        service = served(what)
        async with await rpc.start_server(LOOPBACK, Service()) as server:
            addr = server.sockets[0].getsockname()
            client = await rpc.open_connection(addr, **{keyword: service})
            assert await client.remote.call_back(service, 1) == 2
            await client.close()

    @pytest.mark.parametrize("keyword", ["router", "rpc_service", None])
    async def test_rpcclient(self, keyword):
        clients: asyncio.Queue[rpc.RpcClient] = asyncio.Queue()
        service = Service()

        def connected(channel):
            args: Any
            keywords: Any
            args, keywords = ((service,), {}) if keyword is None else ((), {keyword: service})
            clients.put_nowait(rpc.RpcClient(channel, *args, **keywords))

        async with await aiomas.channel.start_server(LOOPBACK, connected) as server:
            client = await rpc.open_connection(server.sockets[0].getsockname())
            assert await client.remote.answer() == 42
            await client.close()

    async def test_one_of_the_two_keywords_is_enough(self):
        with pytest.raises(TypeError, match="two names"):
            await rpc.start_server(LOOPBACK, router=Service(), rpc_service=Service())


def served(what: str) -> Any:
    return {
        "a router": Service().router,
        "an object": Service(),
        "a dict service": rpc.ServiceDict({"answer": aiomas.expose(lambda value=41: value + 1)}),
    }[what]


@pytest.mark.parametrize("name", ["rpc_service", "rpc_service_process"])
async def test_serving_has_two_names(name):
    services: asyncio.Queue[Any] = asyncio.Queue()

    async def connected(channel):
        if name == "rpc_service":
            await rpc.rpc_service(Service().router, channel)
        else:
            await rpc.rpc_service_process(None, Service().router, channel)  # type: ignore[arg-type]
        services.put_nowait("ended")

    async with await aiomas.channel.start_server(LOOPBACK, connected) as server:
        client = await rpc.open_connection(server.sockets[0].getsockname())
        assert await client.remote.answer() == 42
        await client.close()
        assert await services.get() == "ended"


class TestClosing:
    @asynccontextmanager
    async def client(self):
        async with await rpc.start_server(LOOPBACK, Service()) as server:
            client = await rpc.open_connection(server.sockets[0].getsockname())
            yield client
            await client.close()

    async def test_a_plain_call_closes_at_once(self):
        async with self.client() as client:
            client.close()
            with pytest.raises(ConnectionError):
                client.remote.answer()
        async with self.client() as client:
            client.channel.close()
            assert client.channel.transport.is_closing()

    async def test_what_it_returns_can_be_awaited(self):
        async with self.client() as client:
            assert await client.close() is None
            assert await client.close() is None
        async with self.client() as client:
            assert await client.channel.close() is None
            assert await client.channel.close() is None


class TestResetCallback:
    async def test_it_is_called_when_the_other_side_closes(self):
        accepted: asyncio.Queue[rpc.RpcClient] = asyncio.Queue()
        reset = asyncio.get_running_loop().create_future()
        async with await rpc.start_server(LOOPBACK, Service(), accepted.put_nowait) as server:
            client = await rpc.open_connection(
                server.sockets[0].getsockname(), rpc_service=Service()
            )
            client.on_connection_reset(reset.set_result)
            await (await accepted.get()).close()

            assert isinstance(await reset, ConnectionResetError)

    async def test_it_is_not_called_when_we_close(self):
        resets: list[Exception] = []
        async with await rpc.start_server(LOOPBACK, Service()) as server:
            client = await rpc.open_connection(
                server.sockets[0].getsockname(), rpc_service=Service()
            )
            client.on_connection_reset(resets.append)
            await client.close()
        assert resets == []


class TestWaitingForAServer:
    """`timeout=`: 0 is one attempt, a number or None repeat it."""

    def opener(self, kind):
        if kind == "channel":
            return aiomas.channel.open_connection
        return rpc.open_connection

    @pytest.mark.parametrize("kind", ["channel", "rpc"])
    async def test_one_attempt(self, free_port, kind):
        with pytest.raises(ConnectionRefusedError):
            await self.opener(kind)(("127.0.0.1", free_port))
        with pytest.raises(ConnectionRefusedError):
            await self.opener(kind)(("127.0.0.1", free_port), timeout=0)

    @pytest.mark.parametrize("kind", ["channel", "rpc"])
    async def test_the_last_error_is_raised_when_the_time_is_over(self, free_port, kind):
        before = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            await self.opener(kind)(("127.0.0.1", free_port), timeout=0.1)
        assert time.monotonic() - before < 5

    @pytest.mark.parametrize("kind", ["channel", "rpc"])
    @pytest.mark.parametrize("timeout", [30, None])
    async def test_attempts_are_repeated_until_there_is_a_server(self, unix_path, kind, timeout):
        connecting = asyncio.ensure_future(self.opener(kind)(unix_path, timeout=timeout))
        await asyncio.sleep(0.03)
        assert not connecting.done()
        async with await rpc.start_server(unix_path, Service()):
            connection = await connecting
            await connection.close()

    @pytest.mark.parametrize("timeout", [30, None])
    async def test_a_container_waits_for_another(self, unix_path, timeout):
        async with aiomas.Container.open(LOOPBACK) as one:
            connecting = asyncio.ensure_future(
                one.connect(f"ipc://[{unix_path}]/0", timeout=timeout)
            )
            await asyncio.sleep(0.03)
            assert not connecting.done()
            async with aiomas.Container.open(unix_path) as two:
                Callee(two)
                assert await (await connecting).spam(1) == "spam"

    async def test_a_container_takes_the_timeout_by_position(self, free_port):
        async with aiomas.Container.open(LOOPBACK) as container:
            with pytest.raises(ConnectionRefusedError):
                await container.connect(f"tcp://127.0.0.1:{free_port}/0", 0.1)

    async def test_the_bound_holds_though_the_peer_accepts_and_stays_silent(self):
        with socket.create_server(LOOPBACK) as silent:
            _, port = silent.getsockname()
            async with aiomas.Container.open(LOOPBACK) as container:
                before = time.monotonic()
                with pytest.raises(TimeoutError):
                    await container.connect(f"tcp://127.0.0.1:{port}/0", timeout=0.1)
                assert time.monotonic() - before < 5


class TestInProcessTransport:
    def test_its_names(self):
        assert aiomas.get_queue is local_queue.get_queue
        assert set(local_queue.__all__) >= {
            "LocalQueue",
            "LocalQueueServer",
            "LocalQueueTransport",
            "clear_queue_cache",
            "create_connection",
            "create_server",
            "get_queue",
        }

    def test_there_is_one_queue_for_each_id(self):
        queue = aiomas.get_queue("spec")

        assert isinstance(queue, local_queue.LocalQueue)
        assert queue.queue_id == "spec"
        assert aiomas.get_queue("spec") is queue
        local_queue.clear_queue_cache()
        assert aiomas.get_queue("spec") is not queue

    @pytest.mark.parametrize("queue_id", [5, None, "", "a/b"])
    def test_an_id_is_a_name(self, queue_id):
        with pytest.raises(ValueError, match="queue's id"):
            aiomas.get_queue(queue_id)

    async def test_create_server_and_create_connection(self):
        queue = aiomas.get_queue("spec-raw")
        received = asyncio.get_running_loop().create_future()

        class Protocol(asyncio.Protocol):
            def data_received(self, data):
                received.set_result(data)

        server = await local_queue.create_server(Protocol, queue)
        transport, protocol = await local_queue.create_connection(asyncio.Protocol, queue)
        assert isinstance(server, local_queue.LocalQueueServer)
        assert isinstance(transport, local_queue.LocalQueueTransport)
        assert isinstance(protocol, asyncio.Protocol)
        transport.write(b"ohai")
        assert await received == b"ohai"
        transport.close()
        server.close()
        await server.wait_closed()
        assert queue.server is None
        with pytest.raises(ConnectionRefusedError):
            await local_queue.create_connection(asyncio.Protocol, queue)

    async def test_channels_and_rpc(self):
        queue = aiomas.get_queue("spec-rpc")
        async with await rpc.start_server(queue, Service()):
            client = await rpc.open_connection(queue)
            assert await client.remote.answer() == 42
            assert client.channel.get_extra_info("peername") is queue
            await client.close()

    async def test_containers_and_their_urls(self):
        async with (
            aiomas.Container.open(aiomas.get_queue("one")) as one,
            aiomas.Container.open(aiomas.get_queue("two")) as two,
        ):
            callee = Callee(one)
            assert callee.addr == "local://one/0"
            assert await (await two.connect("local://one/0")).spam(1) == "spam"
            with pytest.raises(ConnectionRefusedError):
                await two.connect("local://three/0")


class Spawned(aiomas.Agent):
    def __init__(self, container, number=0, *, word="spam"):
        super().__init__(container)
        self.number, self.word = number, word

    @aiomas.expose
    def args(self):
        return [self.number, self.word]

    @aiomas.expose
    def now(self):
        return self.container.clock.time()

    @classmethod
    def create(cls, container, *args, **kwargs):
        return cls(container, *args, **kwargs)

    @classmethod
    async def create_slowly(cls, container, *args, **kwargs):
        await asyncio.sleep(0)
        return cls(container, *args, **kwargs)


@aiomas.agent_factory
def marked_factory(container, *args, **kwargs):
    return Spawned(container, *args, **kwargs)


def unmarked_factory(container):
    raise AssertionError("must not be called")


class NoAgent:
    def __init__(self, container):
        raise AssertionError("must not be called")


class TestChildProcesses:
    """`aiomas.subproc`, here in a task instead of a process."""

    @asynccontextmanager
    async def manager(self, **kwargs):
        queue = aiomas.get_queue("spec-subproc")
        running = asyncio.ensure_future(subproc.start(queue, **kwargs))
        async with aiomas.Container.open(LOOPBACK) as container:
            manager = await container.connect("local://spec-subproc/0", timeout=10)
            try:
                yield container, manager
            finally:
                assert await manager.stop() is None
                await running

    @pytest.mark.parametrize(
        "target", ["Spawned", "Spawned.create", "Spawned.create_slowly", "marked_factory"]
    )
    async def test_spawn_returns_a_proxy_and_the_address(self, target, monkeypatch):
        name = importable(monkeypatch)
        async with self.manager() as (container, manager):
            proxy, addr = await manager.spawn(f"{name}:{target}", 5, word="eggs")

            assert await proxy.args() == [5, "eggs"]
            assert addr == "local://spec-subproc/1"
            assert await (await container.connect(addr)).args() == [5, "eggs"]

    @pytest.mark.parametrize("target", ["unmarked_factory", "NoAgent", "Callee.spam"])
    async def test_anything_else_is_refused_before_it_is_called(self, target, monkeypatch):
        name = importable(monkeypatch)
        async with self.manager() as (_, manager):
            with pytest.raises(aiomas.RemoteException, match="PermissionError"):
                await manager.spawn(f"{name}:{target}")

    async def test_only_modules_of_the_allow_list_are_used(self, monkeypatch):
        name = importable(monkeypatch)
        async with self.manager(allow=["another_module"]) as (_, manager):
            with pytest.raises(aiomas.RemoteException, match="PermissionError"):
                await manager.spawn(f"{name}:Spawned")
        async with self.manager(allow=[name]) as (_, manager):
            proxy, _ = await manager.spawn(f"{name}:Spawned")
            assert await proxy.args() == [0, "spam"]

    async def test_set_time(self, monkeypatch):
        name = importable(monkeypatch)
        async with self.manager(clock=aiomas.ExternalClock("2015-01-01")) as (_, manager):
            proxy, _ = await manager.spawn(f"{name}:Spawned")
            await manager.set_time(5)
            assert await proxy.now() == 5
            with pytest.raises(aiomas.RemoteException, match="ValueError"):
                await manager.set_time(5)

    def test_start_and_manager_exist(self):
        assert inspect.iscoroutinefunction(subproc.start)
        assert issubclass(subproc.Manager, aiomas.Agent)


def importable(monkeypatch: pytest.MonkeyPatch) -> str:
    """Make this module importable by a name, however the tests were collected."""
    import sys
    from types import ModuleType

    module = ModuleType("spec_agents")
    module.__dict__.update(globals())
    module.__dict__["Spawned"] = type("Spawned", (Spawned,), {"__module__": "spec_agents"})
    monkeypatch.setitem(sys.modules, "spec_agents", module)
    return "spec_agents"


def test_names_to_objects():
    assert util.obj_from_str("aiomas.agent:Container.create").__func__ is (
        aiomas.Container.create.__func__  # type: ignore[attr-defined]
    )
    assert util.obj_from_str("aiomas:Agent") is aiomas.Agent


async def test_serialization_error():
    error = aiomas.exceptions.SerializationError
    async with await rpc.start_server(LOOPBACK, Service()) as server:
        client = await rpc.open_connection(server.sockets[0].getsockname())
        with pytest.raises(error):
            client.remote.answer(object())  # raised here, and nothing is sent
        assert await client.remote.answer() == 42
        await client.close()


class TestEventLoopArgument:
    """`loop=` is accepted where it was accepted."""

    def test_functions_take_a_loop(self):
        loop = asyncio.new_event_loop()
        queue = aiomas.get_queue("spec-loop")

        async def main():
            async def echo(channel):
                request = await channel.recv()
                await request.reply(request.content)
                await channel.close()

            async with await aiomas.channel.start_server(queue, echo, loop=loop):
                channel = await aiomas.channel.open_connection(queue, loop=loop)
                assert await channel.send("ohai") == "ohai"
                await channel.close()
            async with await rpc.start_server(queue, Service(), loop=loop):
                client = await rpc.open_connection(queue, loop=loop)
                assert await client.remote.answer() == 42
                await client.close()

        aiomas.run(main(), loop=loop)
        aiomas.run(aiomas.create_task(asyncio.sleep(0), loop=loop), loop=loop)
        loop.close()

    def test_a_container_takes_a_loop_for_itself_and_for_its_clock(self, loop):
        other = asyncio.new_event_loop()
        container = aiomas.Container.create(LOOPBACK, loop=other)

        assert container.loop is other
        sleep = container.clock.sleep(0)
        assert sleep.get_loop() is other
        other.run_until_complete(sleep)
        container.shutdown()
        other.close()

    def test_clocks_take_a_loop(self):
        loop = asyncio.new_event_loop()
        for clock in (aiomas.AsyncioClock(loop=loop), aiomas.ExternalClock(0, loop=loop)):
            assert clock.sleep(0).get_loop() is loop
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


async def test_arithmetic_with_dates_of_the_default_clock():
    clock = aiomas.AsyncioClock()
    now = clock.utcnow()

    assert isinstance(now, arrow.Arrow)
    assert now.shift(hours=1) - now == now.shift(hours=1).datetime - now.datetime
    await clock.sleep_until(clock.utcnow().shift(seconds=0.01))
    with pytest.raises(ValueError, match="past"):
        clock.sleep_until(now.shift(seconds=-1))
