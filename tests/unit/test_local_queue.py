"""The in-process transport: its order, its addresses, and what becomes of data at the end."""

from __future__ import annotations

import asyncio
import errno
import gc
import weakref

import pytest

from aiomas import channel, local_queue
from aiomas.exceptions import AddressError
from aiomas.local_queue import (
    LocalQueue,
    LocalQueueServer,
    LocalQueueTransport,
    add_queue,
    clear_queue_cache,
    create_connection,
    create_server,
    get_queue,
)


class Recorder(asyncio.Protocol):
    """Writes everything that happens into a list that several of them share."""

    def __init__(self, name: str, log: list) -> None:
        self.name = name
        self.log = log
        self.transport: LocalQueueTransport

    def connection_made(self, transport):
        self.transport = transport
        self.log.append((self.name, "made"))

    def data_received(self, data):
        self.log.append((self.name, data))

    def connection_lost(self, exc):
        assert exc is None
        self.log.append((self.name, "lost"))


class Line:
    """Servers and clients whose events are in one log."""

    def __init__(self) -> None:
        self.log: list = []
        self.served: list[Recorder] = []

    async def serve(self, queue, name="server"):
        def factory():
            self.served.append(Recorder(f"{name}{len(self.served)}", self.log))
            return self.served[-1]

        return await create_server(factory, queue)

    async def connect(self, queue, name="client") -> Recorder:
        _, protocol = await create_connection(lambda: Recorder(name, self.log), queue)
        return protocol

    async def pair(self) -> tuple[Recorder, Recorder]:
        queue = LocalQueue("q")
        await self.serve(queue)
        client = await self.connect(queue)
        self.log.clear()
        return client, self.served[-1]


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class TestAddresses:
    def test_there_is_one_queue_for_each_id(self):
        clear_queue_cache()
        assert get_queue("a") is get_queue("a")
        assert get_queue("a") is not get_queue("b")
        assert get_queue("a").queue_id == "a"
        assert "'a'" in repr(get_queue("a"))
        assert str(get_queue("a")) == "LocalQueue('a')"

    def test_after_clearing_there_are_new_ones(self):
        old = get_queue("a")
        clear_queue_cache()
        assert get_queue("a") is not old

    @pytest.mark.parametrize("queue_id", ["", "a/b", 5, None, b"a"], ids=repr)
    def test_an_id_is_a_name(self, queue_id):
        with pytest.raises(AddressError, match="name without"):
            LocalQueue(queue_id)
        with pytest.raises(ValueError, match="name without"):
            get_queue(queue_id)

    async def test_a_queue_of_another_class_can_be_added(self):
        class OtherQueue(LocalQueue):
            pass

        clear_queue_cache()
        plain, other = get_queue("a"), OtherQueue("a")
        add_queue(other)
        add_queue(other)
        assert get_queue("a") is other
        async with await channel.start_server(other, print):
            add_queue(other)
            with pytest.raises(OSError, match=r"in use.*a") as caught:
                add_queue(plain)
            assert caught.value.errno == errno.EADDRINUSE
            assert get_queue("a") is other
        add_queue(plain)
        assert get_queue("a") is plain


class TestServer:
    async def test_a_queue_has_one_server_at_a_time(self):
        line, queue = Line(), LocalQueue("q")
        assert queue.server is None
        server = await line.serve(queue)
        assert isinstance(server, LocalQueueServer)
        assert queue.server is server
        with pytest.raises(OSError, match=r"in use.*q") as caught:
            await line.serve(queue)
        assert caught.value.errno == errno.EADDRINUSE
        assert queue.server is server
        server.close()
        assert queue.server is None
        async with await line.serve(queue) as second:
            server.close()  # once more: it is not ours any more
            assert queue.server is second

    async def test_without_a_server_a_connection_is_refused(self):
        line, queue = Line(), LocalQueue("q")
        with pytest.raises(ConnectionRefusedError, match="no server"):
            await line.connect(queue)
        (await line.serve(queue)).close()
        with pytest.raises(ConnectionRefusedError):
            await line.connect(queue)

    async def test_closing_lets_connections_go_on(self):
        line, queue = Line(), LocalQueue("q")
        server = await line.serve(queue)
        client = await line.connect(queue)
        server.close()
        await server.wait_closed()
        client.transport.write(b"x")
        await turns()
        assert line.log[-1] == ("server0", b"x")

    async def test_it_knows_its_loop_and_whether_it_serves(self):
        server = await Line().serve(LocalQueue("q"))
        assert server.get_loop() is asyncio.get_running_loop()
        await server.start_serving()
        assert server.is_serving()
        serving = asyncio.create_task(server.serve_forever())
        await turns()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not server.is_serving()

    def test_both_ends_belong_to_one_loop(self):
        queue = LocalQueue("q")
        with asyncio.Runner() as one, asyncio.Runner() as other:
            one.run(Line().serve(queue))
            with pytest.raises(RuntimeError, match="another event loop"):
                other.run(Line().connect(queue))

    def test_a_loop_can_be_passed(self):
        queue = LocalQueue("q")
        with asyncio.Runner() as runner:

            async def scenario():
                loop = asyncio.get_running_loop()
                server = await create_server(asyncio.Protocol, queue, loop=loop, backlog=5)
                assert server.get_loop() is loop
                transport, _ = await create_connection(asyncio.Protocol, queue, loop=loop, ssl=None)
                transport.close()
                await turns()

            runner.run(scenario())


class TestOrder:
    async def test_bytes_arrive_after_the_call_that_wrote_them(self):
        line = Line()
        client, _ = await line.pair()
        client.transport.write(b"x")
        assert line.log == []
        await asyncio.sleep(0)
        assert line.log == [("server0", b"x")]

    async def test_bytes_arrive_in_the_order_of_the_writes_over_all_connections(self):
        line = Line()
        queues = [LocalQueue(name) for name in "ab"]
        clients: list[Recorder] = []
        for queue in queues:
            await line.serve(queue, queue.queue_id)
            clients += [await line.connect(queue, f"client{len(clients)}") for _ in range(2)]
        line.log.clear()

        ends = [end.transport for pair in zip(clients, line.served, strict=True) for end in pair]
        expected = []
        names = [end.name for pair in zip(line.served, clients, strict=True) for end in pair]
        for n, number in enumerate([3, 0, 7, 1, 1, 6, 2, 5, 4, 0]):
            ends[number].write(b"%d" % n)
            expected.append((names[number], b"%d" % n))
        await asyncio.sleep(0)
        assert line.log == expected

    async def test_what_is_written_on_arrival_comes_behind_what_was_written_before(self):
        line = Line()
        client, server = await line.pair()

        def answer(data):
            line.log.append(("server", data))
            server.transport.write(b"re:" + data)

        server.data_received = answer  # type: ignore[method-assign]
        for data in (b"1", b"2"):
            client.transport.write(data)
        await turns()
        assert line.log == [
            ("server", b"1"),
            ("server", b"2"),
            ("client", b"re:1"),
            ("client", b"re:2"),
        ]

    async def test_a_program_does_the_same_each_time(self):
        async def scenario() -> list:
            clear_queue_cache()
            seen: list = []

            def accept(number):
                def handle(request):
                    seen.append((number, request.content))
                    request.reply(request.content)

                return lambda ch: ch.serve(handle)

            servers = [await channel.start_server(get_queue(f"q{n}"), accept(n)) for n in range(3)]
            clients = [await channel.open_connection(get_queue(f"q{n}")) for n in (0, 1, 2, 0, 1)]

            async def talk(number, client):
                for n in range(5):
                    reply = await client.send((number, n))
                    seen.append(("reply", number, reply))

            await asyncio.gather(*(talk(*pair) for pair in enumerate(clients)))
            for client in clients:
                await client.close()
            for server in servers:
                server.close()
            return seen

        first = await scenario()
        assert len(first) == 50
        assert await scenario() == first

    async def test_requests_over_several_channels_arrive_in_the_order_of_the_calls(self):
        clear_queue_cache()
        seen = []
        server = await channel.start_server(
            get_queue("q"), lambda ch: ch.serve(lambda request: seen.append(request.content))
        )
        clients = [await channel.open_connection(get_queue("q")) for _ in range(3)]
        for n in range(90):
            clients[n * n % 3].send(n).cancel()
        await turns()
        assert seen == list(range(90))
        for client in clients:
            await client.close()
        server.close()


class TestWhatLiesBetween:
    async def test_a_queue_makes_the_ends_of_its_connections(self):
        class Loud(LocalQueueTransport):
            def carry(self, data):
                super().carry(None if data is None else data.upper())

        class LoudQueue(LocalQueue):
            def connect(self, loop, client, server, name):
                ours = Loud(loop, client, sockname=name, peername=self)
                theirs = LocalQueueTransport(loop, server, sockname=self, peername=name)
                ours.join(theirs)
                return ours, theirs

        line, queue = Line(), LoudQueue("q")
        await line.serve(queue)
        client = await line.connect(queue)
        assert type(client.transport) is Loud
        assert client.transport.get_extra_info("sockname") == "q#1"
        client.transport.write(b"hello")
        line.served[0].transport.write(b"hello")
        await turns()
        client.transport.close()
        await turns()
        assert line.log[2:] == [
            ("server0", b"HELLO"),
            ("client", b"hello"),
            ("client", "lost"),
            ("server0", "lost"),
        ]


class TestTransport:
    async def test_it_says_who_talks_to_whom(self):
        line = Line()
        client, server = await line.pair()
        queue = client.transport.get_extra_info("peername")
        assert isinstance(queue, LocalQueue)
        assert server.transport.get_extra_info("sockname") is queue
        name = client.transport.get_extra_info("sockname")
        assert name == server.transport.get_extra_info("peername") == "q#1"
        assert client.transport.get_extra_info("socket") is None

    async def test_held_back_data_keeps_its_order(self):
        line = Line()
        client, server = await line.pair()
        server.transport.pause_reading()
        assert not server.transport.is_reading()
        for data in (b"1", b"2"):
            client.transport.write(data)
        await turns()
        assert line.log == []

        client.transport.write(b"3")  # is on its way when reading goes on
        server.transport.resume_reading()
        client.transport.write(b"4")
        assert server.transport.is_reading()
        await turns()
        assert [data for _, data in line.log] == [b"1", b"2", b"3", b"4"]

    async def test_reading_can_be_paused_again_before_the_data_arrives(self):
        line = Line()
        client, server = await line.pair()
        server.transport.pause_reading()
        for data in (b"1", b"2"):
            client.transport.write(data)
        await turns()
        server.transport.resume_reading()
        server.transport.pause_reading()
        client.transport.write(b"3")
        await turns()
        assert line.log == []
        server.transport.resume_reading()
        await turns()
        assert [data for _, data in line.log] == [b"1", b"2", b"3"]

    async def test_reading_can_be_paused_by_who_gets_the_data(self):
        line = Line()
        client, server = await line.pair()

        def take_one(data):
            line.log.append(data)
            server.transport.pause_reading()

        server.data_received = take_one  # type: ignore[method-assign]
        for data in (b"1", b"2", b"3"):
            client.transport.write(data)
        for expected in ([b"1"], [b"1", b"2"], [b"1", b"2", b"3"]):
            await turns()
            assert line.log == expected
            server.transport.resume_reading()

    async def test_what_is_written_is_copied(self):
        line = Line()
        client, _ = await line.pair()
        data = bytearray(b"before")
        client.transport.write(data)
        data[:] = b"after!"
        client.transport.writelines([b"a", memoryview(b"b")])
        client.transport.write(b"")
        await turns()
        assert [data for _, data in line.log] == [b"before", b"ab"]

    @pytest.mark.parametrize("end", ["close", "abort"])
    async def test_what_was_written_before_the_end_is_delivered(self, end):
        line = Line()
        client, server = await line.pair()
        client.transport.write(b"x")
        getattr(client.transport, end)()
        getattr(client.transport, end)()
        assert client.transport.is_closing()
        assert not client.transport.is_reading()
        client.transport.write(b"too late")
        await turns()
        assert line.log == [("server0", b"x"), ("client", "lost"), ("server0", "lost")]
        assert server.transport.is_closing()
        server.transport.write(b"too late")
        server.transport.close()
        await turns()
        assert len(line.log) == 3

    async def test_both_ends_can_close_at_once(self):
        line = Line()
        client, server = await line.pair()
        client.transport.close()
        server.transport.close()
        await turns()
        assert sorted(line.log) == [("client", "lost"), ("server0", "lost")]

    async def test_what_was_held_back_when_the_peer_closed_is_delivered_first(self):
        line = Line()
        client, server = await line.pair()
        server.transport.pause_reading()
        client.transport.write(b"x")
        client.transport.close()
        await turns()
        assert line.log == [("client", "lost")]
        server.transport.resume_reading()
        await turns()
        assert line.log[1:] == [("server0", b"x"), ("server0", "lost")]

    async def test_what_arrives_at_a_closing_end_is_dropped(self):
        line = Line()
        client, server = await line.pair()
        client.transport.write(b"x")
        server.transport.close()
        await turns()
        assert ("server0", b"x") not in line.log

    async def test_the_protocol_can_be_replaced(self):
        line = Line()
        client, server = await line.pair()
        other = Recorder("other", line.log)
        server.transport.set_protocol(other)
        assert server.transport.get_protocol() is other
        client.transport.write(b"x")
        await turns()
        assert line.log == [("other", b"x")]

    async def test_there_is_no_buffer_and_no_half_closing(self):
        client, _ = await Line().pair()
        assert not client.transport.can_write_eof()
        assert client.transport.get_write_buffer_size() == 0
        client.transport.set_write_buffer_limits(high=5)

    async def test_a_closed_connection_leaves_nothing_behind(self):
        line = Line()
        client, server = await line.pair()
        references = [weakref.ref(x) for x in (client, client.transport, server, server.transport)]
        client.transport.close()
        await turns()
        line.served.clear()
        del client, server
        gc.collect()
        assert [ref() for ref in references if ref() is not None] == []


def test_names_are_exported():
    for name in local_queue.__all__:
        assert hasattr(local_queue, name)


async def test_an_error_of_the_server_is_none_of_the_client():
    def accept(_):
        msg = "boom"
        raise RuntimeError(msg)

    reported: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    queue = local_queue.get_queue("broken")
    server = await channel.start_server(queue, accept)
    client = await channel.open_connection(queue)
    assert client.is_open
    assert str(reported[0]["exception"]) == "boom"
    asyncio.get_running_loop().set_exception_handler(None)
    await client.close()
    server.close()
