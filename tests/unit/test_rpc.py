"""Remote procedure calls: routers on both sides, proxies, the order of calls, failing handlers."""

from __future__ import annotations

import asyncio
import functools
import gc
import subprocess
import sys
import weakref
from typing import Any

import pytest

from aiomas import channel as channels
from aiomas import codecs, local_queue, rpc, util
from aiomas._current import CallOptions, is_serving
from aiomas.channel import Channel
from aiomas.exceptions import (
    ConnectionLost,
    DeadlineExceeded,
    RemoteException,
    SerializationError,
)
from aiomas.rpc import (
    Proxy,
    Router,
    RoutingDict,
    RpcClient,
    Service,
    ServiceDict,
    current_call,
    expose,
    with_options,
)
from tests.ids import plain

CODECS = [codecs.JSON, codecs.MsgPack, codecs.MsgPackBlosc]


class Sub:
    router = Service()

    @expose
    def where(self):
        return "sub"


class Spam:
    router = Service(["sub"])

    def __init__(self) -> None:
        self.sub = Sub()
        self.log: list = []
        self.hold = asyncio.Event()
        self.holding = asyncio.Event()

    @expose
    def echo(self, /, *args, **kwargs):
        self.log.append((args, kwargs))
        return args[0] if args else kwargs

    @expose
    async def later(self, value):
        self.log.append(value)
        self.holding.set()
        await self.hold.wait()
        return value

    @expose
    async def call(self, remote, value):
        return await remote.double(value)

    @expose
    def me(self):
        return self

    @expose
    def unserializable(self):
        return object()

    @expose
    def fail(self):
        msg = "boom"
        raise ValueError(msg)

    @expose
    async def fail_later(self):
        await asyncio.sleep(0)
        msg = "boom later"
        raise ValueError(msg)

    @expose
    def future(self):
        future = asyncio.get_running_loop().create_future()
        future.set_result("of a future")
        return future

    def hidden(self):
        """Is not exposed."""

    @expose
    def _private(self):
        """Cannot be called although it is exposed."""


class Caller:
    router = Service()

    @expose
    def double(self, value):
        return 2 * value


def address_of(kind, unix_path):
    local_queue.clear_queue_cache()
    return {
        "tcp": ("127.0.0.1", 0),
        "unix": unix_path,
        "local": local_queue.get_queue("q"),
    }[kind]


class Line:
    """A server with a service, and a client."""

    def __init__(self, addr, service=None, router=None, **kwds):
        self.addr = addr
        self.service = service or Spam()
        self.router = router
        self.kwds = kwds
        self.accepted: asyncio.Queue = asyncio.Queue()
        self.clients: list[RpcClient] = []

    async def __aenter__(self):
        self.server = await rpc.start_server(
            self.addr, self.service, self.accepted.put_nowait, **self.kwds
        )
        if isinstance(self.addr, tuple):
            self.addr = self.server.sockets[0].getsockname()
        self.client = await self.connect(router=self.router)
        self.remote = self.client.remote
        self.served = await self.accepted.get()
        self.clients.append(self.served)
        return self

    async def connect(self, **kwds):
        self.clients.append(await rpc.open_connection(self.addr, **self.kwds, **kwds))
        return self.clients[-1]

    async def __aexit__(self, *exc_info):
        if isinstance(self.service, Spam):
            self.service.hold.set()
        for client in self.clients:
            await client.close()
        self.server.close()
        await self.server.wait_closed()


@pytest.fixture
async def line(unix_path):
    async with Line(unix_path) as line:
        yield line


class TestCalls:
    @pytest.mark.parametrize("kind", ["tcp", "unix", "local"])
    @pytest.mark.parametrize("codec", CODECS)
    async def test_arguments_and_results_travel(self, unix_path, kind, codec):
        async with Line(address_of(kind, unix_path), codec=codec) as line:
            assert await line.remote.echo("x") == "x"
            assert await line.remote.echo(a=1, b=[2.5, None]) in (
                {"a": 1, "b": [2.5, None]},
                {"a": 1, "b": (2.5, None)},
            )
            assert line.service.log[0] == (("x",), {})

    async def test_parameters_may_have_any_name(self, line):
        assert await line.remote.echo(self=1, channel=2, path=3) == {
            "self": 1,
            "channel": 2,
            "path": 3,
        }

    async def test_sub_routers_are_reached_as_attributes(self, line):
        assert await line.remote.sub.where() == "sub"

    async def test_a_function_may_return_something_awaitable(self, line):
        assert await line.remote.future() == "of a future"

    async def test_a_client_that_serves_is_called_back(self, unix_path):
        caller = Caller()
        async with Line(unix_path, router=caller) as line:
            assert await line.remote.call(caller, 4) == 8
            assert await line.served.remote.double(5) == 10

    async def test_an_object_with_a_router_arrives_as_a_proxy(self, line):
        proxy = await line.remote.me()
        assert isinstance(proxy, Proxy)
        assert await proxy.echo("via proxy") == "via proxy"
        assert proxy.echo == line.remote.echo

    async def test_many_clients_are_served(self, line):
        clients = [await line.connect() for _ in range(3)]
        assert await asyncio.gather(*(c.remote.echo(n) for n, c in enumerate(clients))) == [0, 1, 2]

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("nope", "nope"),
            ("hidden", "hidden"),
            ("echo/x", "echo/x"),
            ("sub", "sub"),
            ("sub/nope", "sub/nope"),
            ("log/append", "log/append"),
            ("/echo", "/echo"),
            ("_private", "_private"),
            ("", "exposed"),
        ],
    )
    async def test_what_cannot_be_called_is_an_error_for_the_caller(self, line, path, message):
        with pytest.raises(RemoteException, match=f"LookupError.*{message}"):
            await line.client.channel.send([path, [], {}])
        assert await line.remote.echo(1) == 1

    @pytest.mark.parametrize("codec", [codecs.JSON, codecs.MsgPack])
    @pytest.mark.parametrize(
        "content",
        [
            None,
            "echo",
            [],
            ["echo"],
            ["echo", [], {}, None],
            [5, [], {}],
            [["echo"], [], {}],
            ["echo", "ab", {}],
            ["echo", {}, {}],
            ["echo", [], []],
            ["echo", None, None],
            {"path": "echo"},
        ],
        ids=str,
    )
    async def test_a_badly_formed_call_is_answered(self, unix_path, codec, content):
        async with Line(unix_path, codec=codec) as line:
            with pytest.raises(RemoteException, match=r"TypeError.*path, args, kwargs"):
                await line.client.channel.send(content)
            assert await line.remote.echo(1) == 1

    async def test_keywords_that_are_no_strings_are_an_error_of_the_call(self, unix_path):
        async with Line(unix_path, codec=codecs.MsgPack) as line:
            with pytest.raises(RemoteException, match="TypeError"):
                await line.client.channel.send(["echo", [], {1: 2}])
            assert await line.remote.echo(1) == 1

    async def test_wrong_arguments_are_an_error_of_the_call(self, line):
        with pytest.raises(RemoteException, match=r"TypeError.*missing"):
            await line.remote.later()
        with pytest.raises(RemoteException, match="TypeError"):
            await line.remote.me(1)

    @pytest.mark.parametrize("codec", CODECS)
    async def test_an_argument_that_cannot_be_sent_is_refused_at_the_call(self, unix_path, codec):
        async with Line(unix_path, codec=codec) as line:
            with pytest.raises(SerializationError, match=r"builtins\.object.*extra_serializers"):
                line.remote.echo(object())
            await line.remote.echo(1)
            assert line.service.log == [((1,), {})]

    @pytest.mark.parametrize("codec", CODECS)
    async def test_a_result_that_cannot_be_sent_is_answered_with_an_error(self, unix_path, codec):
        async with Line(unix_path, codec=codec) as line:
            with pytest.raises(RemoteException, match=r"SerializationError.*builtins\.object"):
                await line.remote.unserializable()
            assert await line.remote.echo(1) == 1

    async def test_what_cannot_be_called_from_there_cannot_be_passed(self, unix_path):
        async with Line(unix_path, router=Caller()) as line:
            with pytest.raises(SerializationError, match="is not served on this connection"):
                line.remote.echo(Caller())
            with pytest.raises(SerializationError, match=r"is a proxy.*pass the agent's address"):
                line.remote.echo(line.remote)
        async with Line(unix_path) as line:
            with pytest.raises(SerializationError, match="is not served on this connection"):
                line.remote.echo(Caller())

    @pytest.mark.parametrize("codec", CODECS)
    @pytest.mark.parametrize("bad", [[99, None], "nonsense", [0, 5], [0]], ids=str)
    async def test_an_object_that_cannot_be_made_is_an_error_for_that_call_alone(
        self, unix_path, codec, bad
    ):
        async with Line(unix_path, codec=codec) as line:
            others = line.remote.echo("others")
            with pytest.raises(RemoteException, match="DecodeError"):
                await line.remote.echo({"__type__": bad})
            assert await others == "others"
            assert await line.remote.echo(1) == 1


class TestFailingHandlers:
    @pytest.mark.parametrize("name", ["fail", "fail_later"])
    async def test_the_traceback_is_that_of_the_handler_alone(self, line, name):
        with pytest.raises(RemoteException, match="ValueError: boom") as caught:
            await getattr(line.remote, name)()
        trace = caught.value.remote_traceback
        assert trace.startswith("Traceback (most recent call last):")
        assert f"in {name}" in trace
        assert "aiomas/rpc.py" not in trace
        assert caught.value.origin == line.client.channel.peer

    @pytest.mark.parametrize("kind", ["sync", "async", "late"])
    @pytest.mark.parametrize(
        "error",
        [
            Exception("x"),
            asyncio.CancelledError("x"),
            GeneratorExit("x"),
            BaseException("x"),
            BaseExceptionGroup("x", [KeyError()]),
            StopIteration("x"),
            StopAsyncIteration("x"),
            TimeoutError("x"),
            ConnectionResetError("x"),
            RecursionError("x"),
        ],
        ids=plain,
    )
    async def test_whatever_it_raises_is_answered_and_harms_nobody(self, unix_path, kind, error):
        class Failing:
            router = Service()

            @expose
            def sync(self):
                raise error

            @expose
            async def async_(self):
                raise error

            @expose
            async def late(self):
                await asyncio.sleep(0)
                raise error

            @expose
            def fine(self):
                return "fine"

        async with Line(unix_path, Failing()) as line:
            name = "async_" if kind == "async" else kind
            others = line.remote.fine()
            async with asyncio.timeout(2):
                expected = type(error).__name__
                with pytest.raises(RemoteException, match=expected):
                    await getattr(line.remote, name)()
                assert await others == "fine"
                assert await line.remote.fine() == "fine"

    @pytest.mark.parametrize("name", ["sync", "late"])
    def test_an_exit_ends_the_program_as_everywhere(self, unix_path, name):
        code = """
import asyncio, sys
from aiomas import rpc

class Exiting:
    router = rpc.Service()

    @rpc.expose
    def sync(self):
        sys.exit(7)

    @rpc.expose
    async def late(self):
        await asyncio.sleep(0)
        sys.exit(7)

async def main():
    await rpc.start_server(sys.argv[1], Exiting())
    client = await rpc.open_connection(sys.argv[1])
    await getattr(client.remote, sys.argv[2])()

asyncio.run(main())
"""
        ran = subprocess.run(
            [sys.executable, "-c", code, unix_path, name], timeout=20, check=False, stderr=-1
        )
        assert ran.returncode == 7, ran.stderr

    async def test_a_handler_that_is_cancelled_answers(self, line):
        future = line.remote.later("x")
        await line.service.holding.wait()
        (task,) = line.served.dispatcher.handlers
        task.cancel()
        with pytest.raises(RemoteException, match="CancelledError"):
            await future
        assert not line.served.dispatcher.handlers

    async def test_a_caller_that_gave_up_harms_nobody(self, line):
        given_up, kept = line.remote.later("given up"), line.remote.later("kept")
        given_up.cancel()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(line.remote.later("timed out"), 0.02)
        line.service.hold.set()
        assert await kept == "kept"
        assert await line.remote.echo("next") == "next"
        assert line.service.log[:3] == ["given up", "kept", "timed out"]


class TestOrder:
    @pytest.mark.parametrize("kind", ["tcp", "unix", "local"])
    async def test_calls_start_in_the_order_in_which_they_were_made(self, unix_path, kind):
        started: list = []

        class Mixed:
            router = Service()

            @expose
            def sync(self, n):
                started.append(n)

            @expose
            async def quick(self, n):
                started.append(n)

            @expose
            async def slow(self, n):
                started.append(n)
                await asyncio.sleep(0)

            @expose
            def returns_coroutine(self, n):
                started.append(n)
                return asyncio.sleep(0)

            partial = staticmethod(expose(functools.partial(started.append)))

        async with Line(address_of(kind, unix_path), Mixed()) as line:
            names = ["sync", "quick", "slow", "returns_coroutine", "partial"]
            pattern = [n * n * 7 % 11 % len(names) for n in range(300)]
            futures = [getattr(line.remote, names[p])(n) for n, p in enumerate(pattern)]
            await asyncio.gather(*futures)
            assert started == list(range(300))

    async def test_a_handler_never_runs_before_the_call_has_returned(self, unix_path):
        async with Line(address_of("local", unix_path)) as line:
            future = line.remote.echo(1)
            assert line.service.log == []
            assert not future.done()
            await future

    async def test_awaiting_calls_lets_others_run(self, line):
        turns = 0

        async def others():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        for n in range(20):
            await line.remote.echo(n)
        task.cancel()
        assert turns >= 20


class TestClient:
    async def test_on_connection_reset_is_called_when_the_peer_ends_it(self, line):
        errors: list = []
        line.client.on_connection_reset(errors.append)
        line.served.channel.transport.abort()
        await line.client.channel.wait_closed()
        await asyncio.sleep(0)
        (error,) = errors
        assert isinstance(error, ConnectionResetError)

    async def test_on_connection_reset_is_not_called_when_we_end_it(self, line):
        errors: list = []
        line.client.on_connection_reset(errors.append)
        line.served.on_connection_reset(errors.append)
        await line.client.close()
        await line.served.channel.wait_closed()
        await asyncio.sleep(0)
        assert len(errors) == 1

    async def test_pending_calls_fail_at_once_and_later_ones_at_the_call(self, line):
        futures = [line.remote.later(n) for n in range(3)]
        await asyncio.sleep(0)
        line.served.channel.transport.abort()
        async with asyncio.timeout(2):
            for future in futures:
                with pytest.raises(ConnectionResetError):
                    await future
        with pytest.raises(ConnectionResetError, match="closed"):
            line.remote.echo(1)

    async def test_handlers_run_on_when_the_connection_is_lost(self, line):
        line.remote.later("x").cancel()
        await line.service.holding.wait()
        (task,) = line.served.dispatcher.handlers
        await line.client.close()
        await line.served.channel.wait_closed()
        assert not task.done()
        line.service.hold.set()
        await task

    async def test_service_is_done_when_the_connection_has_ended(self, line):
        assert line.client.service is None
        assert not line.served.service.done()
        await line.client.close()
        async with asyncio.timeout(2):
            await line.served.service

    async def test_a_service_that_was_cancelled_does_no_harm(self, line):
        line.served.service.cancel()
        assert await line.remote.echo(1) == 1
        await line.client.close()
        await line.served.channel.wait_closed()

    async def test_a_refused_call_is_answered_with_the_reason(self, line):
        line.served.dispatcher.refuse("NotNow: closed for lunch")
        with pytest.raises(RemoteException, match="closed for lunch"):
            await line.remote.echo(1)

    async def test_an_end_without_a_service_keeps_requests_for_recv(self, line):
        future = line.served.remote.anything(1)
        request = await line.client.channel.recv()
        assert request.content == ["anything", [1], {}]
        await request.reply("by hand")
        assert await future == "by hand"

    async def test_a_closed_connection_leaves_nothing_behind(self, unix_path):
        async with Line(unix_path) as line:
            assert await line.remote.sub.where() == "sub"
            items = [line.client, line.client.channel, line.client.channel._protocol]
            items += [line.served, line.served.channel, line.served.dispatcher]
            references = [weakref.ref(item) for item in items]
            await line.client.close()
            await line.served.channel.wait_closed()
            items.clear()
            line.clients.clear()
            del line.client, line.served, line.remote
            for _ in range(3):
                await asyncio.sleep(0)
            gc.collect()
            assert [ref() for ref in references if ref() is not None] == []

    async def test_its_repr_names_the_peer(self, line):
        assert str(line.client.channel.peer) in repr(line.client)


class TestServing:
    @pytest.mark.parametrize("form", ["object", "router"])
    @pytest.mark.parametrize("keyword", ["router", "rpc_service"])
    async def test_a_router_or_what_has_one_under_either_keyword(self, unix_path, form, keyword):
        def given(service):
            return {keyword: service if form == "object" else service.router}

        async with await rpc.start_server(unix_path, **given(Spam())):
            client = await rpc.open_connection(unix_path, **given(Caller()))
            assert await client.remote.echo("x") == "x"
            await client.close()

        connected: asyncio.Queue = asyncio.Queue()
        async with await rpc.start_server(unix_path, RoutingDict(), connected.put_nowait):
            channel = await channels.open_connection(unix_path)
            served = await connected.get()
            client = RpcClient(channel, **given(Caller()))
            assert await served.remote.double(2) == 4
            await client.close()

    @pytest.mark.parametrize("service", [5, object(), Spam, "router", {"f": print}], ids=plain)
    async def test_what_is_no_service_is_refused(self, unix_path, line, service):
        for action in (
            lambda: rpc.start_server(unix_path + "2", service),
            lambda: rpc.open_connection(unix_path, router=service),
            lambda: rpc.rpc_service(service, line.client.channel),
        ):
            with pytest.raises(ValueError, match="is no RPC service"):
                await action()
        with pytest.raises(ValueError, match="is no RPC service"):
            await rpc.start_server(unix_path + "2")
        with pytest.raises(ValueError, match="is no RPC service"):
            RpcClient(rpc_channel(), service)

    async def test_both_keywords_at_once_are_refused(self, unix_path):
        with pytest.raises(TypeError, match="two names"):
            await rpc.start_server(unix_path, Spam(), router=Spam())

    @pytest.mark.parametrize("name", ["rpc_service", "rpc_service_process"])
    async def test_a_channel_can_be_served_until_it_ends(self, line, name):
        client = await line.connect()
        served = await line.accepted.get()
        if name == "rpc_service":
            serving = asyncio.create_task(rpc.rpc_service(Caller().router, client.channel))
        else:
            serving = asyncio.create_task(
                rpc.rpc_service_process(client, Caller().router, client.channel)
            )
        assert await served.remote.double(3) == 6
        await served.close()
        async with asyncio.timeout(2):
            await serving

    async def test_a_dictionary_of_functions_is_a_service(self, unix_path):
        service = ServiceDict({"double": expose(lambda n: 2 * n), "sub": Sub()})
        async with Line(unix_path, service) as line:
            assert await line.remote.double(2) == 4
            assert await line.remote.sub.where() == "sub"
            service.dict["triple"] = expose(lambda n: 3 * n)
            assert await line.remote.triple(2) == 6

    async def test_the_callback_may_be_a_coroutine_function(self, unix_path):
        async def greet(client):
            await client.remote.double(1)
            greeted.set()

        greeted = asyncio.Event()
        async with await rpc.start_server(unix_path, Spam(), greet):
            client = await rpc.open_connection(unix_path, router=Caller())
            async with asyncio.timeout(2):
                await greeted.wait()
            await client.close()

    async def test_extra_serializers_travel(self, unix_path):
        import arrow

        async with Line(unix_path, extra_serializers=[util.arrow_serializer]) as line:
            date = arrow.utcnow()
            assert await line.remote.echo(date) == date


def rpc_channel() -> Channel:
    """Return a channel that goes nowhere."""
    from aiomas.channel import ChannelProtocol

    loop = asyncio.get_running_loop()
    protocol = ChannelProtocol(codecs.JSON(), loop=loop)
    transport = local_queue.LocalQueueTransport(loop, protocol, sockname="a", peername="b")
    protocol.connection_made(transport)
    return protocol.channel


class Sender:
    """Keeps what proxies send."""

    peer = "over there"

    def __init__(self) -> None:
        self.sent: list = []
        self.options: list = []

    def send(self, content, options=None):
        self.sent.append(content)
        self.options.append(options)
        return asyncio.get_running_loop().create_future()


class TestProxy:
    async def test_the_path_grows_with_each_attribute(self):
        sender = Sender()
        remote = Proxy(sender, "")
        remote.a(1)
        remote.a.b.c(2, x=3)
        assert sender.sent == [("a", (1,), {}), ("a/b/c", (2,), {"x": 3})]

    def test_the_root_is_no_function(self):
        with pytest.raises(AttributeError, match="no function"):
            Proxy(Sender(), "")()

    @pytest.mark.parametrize("name", ["_private", "__wrapped__", "__deepcopy__"])
    def test_private_names_are_no_way_in(self, name):
        proxy = Proxy(Sender(), "a")
        assert not hasattr(proxy, name)
        with pytest.raises(AttributeError, match="private"):
            getattr(proxy, name)

    def test_an_attribute_is_made_once(self):
        proxy = Proxy(Sender(), "")
        assert proxy.a is proxy.a

    def test_it_is_equal_to_another_for_the_same_thing(self):
        sender = Sender()
        one, same, other = Proxy(sender, "a"), Proxy(sender, "a"), Proxy(sender, "b")
        assert one == same
        assert hash(one) == hash(same)
        assert one != other
        assert one != Proxy(Sender(), "a")
        assert one != "a"
        assert len({one, same, other}) == 2

    def test_its_repr_says_what_and_where(self):
        assert repr(Proxy(Sender(), "a/b")) == "Proxy('over there', 'a/b')"
        assert str(Proxy(Sender(), "a/b")) == "Proxy('over there', 'a/b')"


def test_names_are_exported():
    for name in rpc.__all__:
        assert hasattr(rpc, name)
    assert RoutingDict is ServiceDict
    assert issubclass(ConnectionLost, ConnectionResetError)
    assert isinstance(Spam().router, Router)


class Shared:
    """Two of these want to have the same child, which has one path only."""

    router = Service(["sub"])

    def __init__(self, sub: Sub) -> None:
        self.sub = sub

    @expose
    def here(self):
        return "here"


async def test_a_router_that_cannot_be_made_is_an_error_for_one_call_alone(line_of):
    sub = Sub()
    root = RoutingDict({"spam": Spam()})
    root.dict["first"], root.dict["second"] = Shared(sub), Shared(sub)
    client = await line_of(root)
    assert await client.remote.first.sub.where() == "sub"
    for _ in range(2):  # not just the first time
        with pytest.raises(RemoteException, match="no exposed function at 'second/here'"):
            await client.remote.second.here()
    assert await client.remote.spam.echo("others go on") == "others go on"


@pytest.fixture
async def line_of():
    """A function that serves something over a local queue and returns a client."""
    clients: list[RpcClient] = []
    servers: list[channels.Server] = []

    async def connect(service, codec=codecs.JSON):
        queue = local_queue.get_queue(f"line-{len(servers)}")
        servers.append(await rpc.start_server(queue, service, codec=codec))
        clients.append(await rpc.open_connection(queue, codec=codec))
        return clients[-1]

    yield connect
    for client in clients:
        await client.close()
    for server in servers:
        server.close()


class TestOnConnectionReset:
    async def test_a_new_callback_takes_the_place_of_the_old_one(self, line_of):
        client = await line_of(Spam())
        called: list[str] = []
        client.on_connection_reset(lambda _: called.append("first"))
        client.on_connection_reset(lambda _: called.append("second"))
        client.channel._protocol.connection_lost(None)
        await asyncio.sleep(0)
        assert called == ["second"]

    async def test_none_removes_it(self, line_of):
        client = await line_of(Spam())
        client.on_connection_reset(lambda _: pytest.fail("was removed"))
        client.on_connection_reset(None)
        client.channel._protocol.connection_lost(None)
        await asyncio.sleep(0)

    async def test_what_cannot_be_called_is_refused(self, line_of):
        with pytest.raises(ValueError, match="callback must be a function"):
            (await line_of(Spam())).on_connection_reset("x")


def test_a_client_can_be_made_while_the_loop_does_not_run():
    loop = asyncio.new_event_loop()
    run = loop.run_until_complete
    server_channels: list[Channel] = []
    queue = local_queue.get_queue("not running")
    server = run(channels.start_server(queue, server_channels.append))
    client = run(rpc.open_connection(queue))
    early = client.remote.echo("early")
    for _ in range(3):
        run(asyncio.sleep(0))
    served = RpcClient(server_channels[0], Spam())
    assert run(early) == "early"
    assert run(client.remote.echo("late")) == "late"
    run(served.close())
    server.close()
    loop.close()


def test_a_proxy_can_be_asked_for_anything_before_it_is_made():
    blank = Proxy.__new__(Proxy)  # as copy and pickle do
    with pytest.raises(AttributeError, match="private"):
        blank.__deepcopy__  # noqa: B018


async def test_a_callback_that_comes_after_the_loss_is_called(line_of):
    client = await line_of(Spam())
    client.channel._protocol.connection_lost(None)
    await asyncio.sleep(0)
    called = asyncio.get_running_loop().create_future()
    client.on_connection_reset(called.set_result)
    async with asyncio.timeout(5):
        assert isinstance(await called, ConnectionResetError)


class Forwarder:
    """Hands calls on in several ways, none of them a coroutine function."""

    router = Service()

    def __init__(self) -> None:
        self.serving: list[bool] = []
        self.later: list[asyncio.Task] = []

    async def look(self):
        await asyncio.sleep(0)
        self.serving.append(is_serving())

    @expose
    def task(self):
        return asyncio.ensure_future(self.look())

    @expose
    def many(self):
        return asyncio.gather(self.look(), self.look())

    @expose
    def background(self):
        self.later.append(asyncio.ensure_future(self.look()))


@pytest.mark.parametrize("codec", [codecs.JSON, codecs.MsgPack])
async def test_what_a_function_starts_is_part_of_the_request_until_that_ends(line_of, codec):
    forwarder = Forwarder()
    client = await line_of(forwarder, codec)
    await client.remote.task()
    await client.remote.many()
    assert forwarder.serving == [True] * 3
    await client.remote.background()
    await forwarder.later[0]
    assert forwarder.serving == [True] * 3 + [False]


async def test_a_task_that_is_cancelled_before_it_starts_is_answered(line_of):
    spam = Spam()
    client = await line_of(spam)
    transport: Any = client.channel.transport
    dispatcher = transport._peer.get_protocol().intake._handler
    call = client.remote.later("x")
    while not dispatcher.handlers:  # noqa: ASYNC110 - there is no event for this
        await asyncio.sleep(0)
    for task in dispatcher.handlers:
        task.cancel()
    with pytest.raises(RemoteException, match="CancelledError"):
        await call
    assert await client.remote.echo("at once again") == "at once again"
    assert dispatcher._not_started == 0


class TestOptions:
    async def test_a_call_without_options_has_none(self, sender):
        Proxy(sender, "a")()
        assert sender.options == [None]

    async def test_they_go_with_each_call_of_the_new_proxy_alone(self, sender):
        remote = Proxy(sender, "")
        patient = with_options(remote, timeout=2.0)
        patient.a.b(1)
        patient.a.b(2)
        remote.a.b(3)
        assert sender.options == [CallOptions(timeout=2.0)] * 2 + [None]
        assert sender.sent == [("a/b", (n,), {}) for n in (1, 2, 3)]

    async def test_they_can_be_set_for_a_single_function(self, sender):
        remote = Proxy(sender, "")
        with_options(remote.a, timeout=2)(1)
        remote.a(2)
        assert sender.options == [CallOptions(timeout=2), None]

    async def test_what_is_not_given_stays_as_it_is(self, sender):
        proxy = with_options(Proxy(sender, "a"), timeout=2.0, retries=3)
        with_options(proxy, one_way=True)()
        with_options(proxy, timeout=5.0)()
        with_options(proxy, retries=0)()
        with_options(with_options(proxy, one_way=True), one_way=False)()
        with_options(proxy)()
        assert sender.options == [
            CallOptions(timeout=2.0, retries=3, one_way=True),
            CallOptions(timeout=5.0, retries=3),
            CallOptions(timeout=2.0),
            CallOptions(timeout=2.0, retries=3),
            CallOptions(timeout=2.0, retries=3),
        ]

    async def test_proxies_with_other_options_are_not_equal(self, sender):
        proxy = Proxy(sender, "a")
        assert with_options(proxy, timeout=2) == with_options(proxy, timeout=2)
        assert with_options(proxy, timeout=2) != with_options(proxy, timeout=3)
        assert with_options(proxy, timeout=2) != proxy
        assert hash(with_options(proxy, timeout=2)) == hash(with_options(proxy, timeout=2))

    @pytest.mark.parametrize("thing", [None, "proxy", print, Spam], ids=str)
    def test_only_proxies_have_them(self, thing):
        with pytest.raises(TypeError, match="takes a proxy"):
            with_options(thing, timeout=2)

    async def test_without_any_the_proxy_is_the_same(self, sender):
        proxy = Proxy(sender, "a")
        assert with_options(proxy) == proxy
        assert hash(with_options(proxy)) == hash(proxy)
        assert with_options(proxy, retries=0, one_way=False) == proxy
        assert with_options(with_options(proxy, retries=3), retries=0) == proxy
        with_options(proxy)()
        assert sender.options == [None]

    @pytest.mark.parametrize("timeout", ["2", b"2", True, [2], 2j], ids=plain)
    async def test_a_timeout_is_a_number(self, sender, timeout):
        with pytest.raises(TypeError, match="timeout is a number of seconds"):
            with_options(Proxy(sender, "a"), timeout=timeout)

    @pytest.mark.parametrize("timeout", [0, -1, -0.5, float("nan"), float("inf")])
    async def test_a_timeout_is_positive(self, sender, timeout):
        with pytest.raises(ValueError, match="timeout"):
            with_options(Proxy(sender, "a"), timeout=timeout)

    async def test_repetitions_are_a_whole_number_of_them(self, sender):
        with pytest.raises(ValueError, match="retries"):
            with_options(Proxy(sender, "a"), retries=-1)
        for retries in (1.5, "1"):
            with pytest.raises(TypeError, match="retries"):
                with_options(Proxy(sender, "a"), retries=retries)  # type: ignore[arg-type]

    async def test_a_call_has_so_much_time(self, unix_path):
        async with Line(unix_path) as line:
            with pytest.raises(DeadlineExceeded):
                await with_options(line.remote, timeout=0.01).later(1)
            assert await with_options(line.remote, timeout=60).echo(1) == 1

    async def test_a_handler_knows_what_its_caller_wants(self, unix_path):
        service = Curious()
        async with Line(unix_path, service) as line:
            client = await line.connect(extensions=True)
            loop = asyncio.get_running_loop()
            before = loop.time()
            await with_options(client.remote, timeout=60).ask()
            await with_options(client.remote, one_way=True).ask()
            await client.remote.ask()
            first, second, third = service.calls
            assert before + 59 < first.deadline <= loop.time() + 60
            assert [call.one_way for call in service.calls] == [False, True, False]
            assert [call.path for call in service.calls] == ["ask"] * 3
            assert second.deadline is third.deadline is third.time_left() is None
            assert 0 < first.time_left() <= 60
            assert first.peer_url is None
            assert "'ask'" in repr(first)
        with pytest.raises(LookupError, match="current_call"):
            current_call()


class Curious:
    router = Service()

    def __init__(self) -> None:
        self.calls: list = []

    @expose
    def ask(self):
        self.calls.append(current_call())


@pytest.fixture
async def sender():
    return Sender()


class Asker:
    """Asks who calls, within ordinary functions and after them."""

    router = Service()

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.later: list[asyncio.Task] = []

    @expose
    def ask(self):
        self.calls.append(current_call())
        assert current_call() is self.calls[-1]
        return self.calls[-1].path

    @expose
    def leave_behind(self):
        async def ask_later():
            await asyncio.sleep(0)
            return current_call()

        self.later.append(asyncio.ensure_future(ask_later()))

    @expose
    def in_a_task(self):
        async def ask():
            await asyncio.sleep(0)
            return current_call().path

        return asyncio.ensure_future(ask())


async def test_an_ordinary_function_has_a_call_until_it_ends(line_of):
    asker = Asker()
    client = await line_of(asker, codecs.MsgPack)
    replies = await asyncio.gather(client.remote.ask(), client.remote.ask())
    assert list(replies) == ["ask", "ask"]
    first, second = asker.calls
    assert first is not second
    assert not first.active
    assert not second.active
    with pytest.raises(LookupError):
        current_call()


async def test_what_a_function_leaves_behind_has_no_call(line_of):
    asker = Asker()
    client = await line_of(asker, codecs.MsgPack)
    await client.remote.leave_behind()
    with pytest.raises(LookupError):
        await asker.later[0]


async def test_tasks_whose_end_a_function_returns_have_its_call(line_of):
    client = await line_of(Asker(), codecs.MsgPack)
    calls = client.remote.ask(), client.remote.in_a_task(), client.remote.in_a_task()
    assert list(await asyncio.gather(*calls)) == ["ask", "in_a_task", "in_a_task"]
