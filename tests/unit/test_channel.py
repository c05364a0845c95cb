"""Channels over real sockets: requests, replies, flow, the end of a connection, hostile bytes."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import struct
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from aiomas import _protocol, codecs, local_queue
from aiomas import channel as channels
from aiomas._current import Call, CallOptions, serving
from aiomas._limits import Limits
from aiomas._logs import LimitedLog
from aiomas.channel import Channel, ChannelProtocol, Request, open_connection, start_server
from aiomas.exceptions import (
    AddressError,
    ConnectionLost,
    DeadlineExceeded,
    DecodeError,
    Outcome,
    Overloaded,
    ProtocolError,
    RemoteException,
    SerializationError,
)

KINDS = ["tcp", "unix", "local"]
CODECS = [codecs.JSON, codecs.MsgPack, codecs.MsgPackBlosc]


@pytest.fixture(autouse=True)
def bad_peers(monkeypatch):
    """A log of bad peers in which no other test has used up the lines that pass."""
    monkeypatch.setattr(_protocol, "bad_peers", LimitedLog(_protocol.logger))


@pytest.fixture
def address(request, unix_path):
    """An address to listen on, for each transport; with indirect=True of one kind."""
    return address_of(getattr(request, "param", "tcp"), unix_path)


def address_of(kind, unix_path):
    local_queue.clear_queue_cache()
    return {
        "tcp": ("127.0.0.1", 0),
        "unix": unix_path,
        "local": local_queue.get_queue("q"),
    }[kind]


every_transport = pytest.mark.parametrize("address", KINDS, indirect=True)


class Pair:
    """A server, and a client connected to it; `served` are the server's ends."""

    def __init__(self, address, handler=None, **kwds):
        self.address = address
        self.handler = handler
        self.kwds = kwds
        self.served: list[Channel] = []
        self.accepted = asyncio.Event()
        self.accepted_second = asyncio.Event()
        self.clients: list[Channel] = []

    async def __aenter__(self):
        self.server = await start_server(self.address, self._connected, **self.kwds)
        if isinstance(self.address, tuple):
            self.address = self.server.sockets[0].getsockname()
        self.client = await self.connect()
        await self.accepted.wait()
        return self

    async def __aexit__(self, *exc_info):
        for channel in (*self.clients, *self.served):
            await channel.close()
        self.server.close()
        await self.server.wait_closed()

    async def connect(self, **kwds) -> Channel:
        kwds = {name: self.kwds[name] for name in self.kwds if name != "backlog"} | kwds
        self.clients.append(await open_connection(self.address, **kwds))
        return self.clients[-1]

    def _connected(self, channel):
        self.served.append(channel)
        if self.handler is not None:
            channel.serve(self.handler)
        (self.accepted_second if self.accepted.is_set() else self.accepted).set()

    async def raw(self):
        """Connect with a plain stream."""
        if isinstance(self.address, str):
            return await asyncio.open_unix_connection(self.address)
        return await asyncio.open_connection(*self.address)


def echo(request):
    request.reply(request.content)


def framed(payload: bytes) -> bytes:
    return struct.pack("!L", len(payload)) + payload


def message(*parts) -> bytes:
    return framed(json.dumps(parts).encode())


async def read_message(reader):
    (size,) = struct.unpack("!L", await reader.readexactly(4))
    return json.loads(await reader.readexactly(size))


async def close(writer):
    writer.close()
    await writer.wait_closed()


class TestRequests:
    @every_transport
    async def test_a_request_is_answered(self, address):
        async with Pair(address) as pair:
            future = pair.client.send(["spam", 1])
            request = await pair.served[0].recv()
            assert request.content == ["spam", 1]
            assert repr(request) == "<Request 0 ['spam', 1]>"
            await request.reply({"eggs": None})
            assert await future == {"eggs": None}

    @every_transport
    async def test_both_ends_can_ask(self, address):
        async with Pair(address, echo) as pair:
            pair.client.serve(lambda request: request.reply(request.content * 2))
            ours = pair.client.send(2)
            theirs = pair.served[0].send(4)
            assert [await ours, await theirs] == [2, 8]

    @pytest.mark.parametrize("codec", CODECS)
    async def test_each_codec_and_serializer_travels(self, unix_path, codec):
        serializer = codecs.uuid_serializer
        async with Pair(unix_path, echo, codec=codec, extra_serializers=[serializer]) as pair:
            import uuid

            value = uuid.uuid4()
            assert await pair.client.send(value) == value
            assert isinstance(pair.client.codec, codec)

    async def test_many_requests_are_answered_in_any_order(self, unix_path):
        async with Pair(unix_path) as pair:
            futures = [pair.client.send(n) for n in range(100)]
            requests = [await pair.served[0].recv() for _ in futures]
            assert [r.content for r in requests] == list(range(100))
            for request in reversed(requests):
                request.reply(request.content + 1)
            assert await asyncio.gather(*futures) == list(range(1, 101))

    async def test_what_is_sent_at_once_leaves_in_batches(self, unix_path):
        async with Pair(unix_path, echo) as pair:
            assert await asyncio.gather(*map(pair.client.send, range(1000))) == list(range(1000))

    async def test_the_remote_traceback_is_what_the_caller_gets(self, unix_path):
        async with Pair(unix_path) as pair:
            future = pair.client.send("?")
            request = await pair.served[0].recv()
            try:
                raise ValueError("boom")
            except ValueError as exc:
                await request.fail(exc)
            with pytest.raises(RemoteException, match="ValueError: boom") as caught:
                await future
            assert "Traceback (most recent call last):" in caught.value.remote_traceback
            assert caught.value.origin == pair.client.peer

    async def test_a_failure_may_be_any_content(self, unix_path):
        async with Pair(unix_path) as pair:
            for content in ("a text", ["ValueError", "boom", "line"]):
                future = pair.client.send("?")
                await (await pair.served[0].recv()).fail(content)
                with pytest.raises(RemoteException) as caught:
                    await future
                assert caught.value.remote_traceback == content

    @pytest.mark.parametrize("codec", CODECS)
    async def test_an_argument_that_cannot_be_sent_is_refused_at_the_call(self, unix_path, codec):
        seen = []

        def handler(request):
            seen.append(request.content)
            echo(request)

        async with Pair(unix_path, handler, codec=codec) as pair:
            with pytest.raises(SerializationError, match=r"no serializer for builtins.object"):
                pair.client.send(object())
            assert await pair.client.send("fine") == "fine"
            assert seen == ["fine"]

    @pytest.mark.parametrize("codec", CODECS)
    async def test_a_result_that_cannot_be_sent_is_answered_with_an_error(self, unix_path, codec):
        def handler(request):
            request.reply(object() if request.content == "?" else request.content)

        async with Pair(unix_path, handler, codec=codec) as pair:
            with pytest.raises(RemoteException, match=r"SerializationError.*builtins.object"):
                await pair.client.send("?")
            assert await pair.client.send("fine") == "fine"

    async def test_a_message_over_the_limit_is_refused_where_it_is_made(self, unix_path):
        async with Pair(unix_path, lambda request: request.reply("x" * (17 << 20))) as pair:
            with pytest.raises(SerializationError, match="over the limit"):
                pair.client.send("x" * (17 << 20))
            with pytest.raises(RemoteException, match=r"SerializationError.*over the limit"):
                await pair.client.send("much, please")

    async def test_the_limit_is_a_parameter(self):
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        _, small = await loop.create_connection(
            lambda: ChannelProtocol(codecs.JSON(), loop=loop, limits=Limits(max_frame=100)),
            sock=ours,
        )
        with pytest.raises(SerializationError, match="max_frame=100"):
            small.channel.send("x" * 100)
        other = await open_connection(None, sock=theirs)
        future = other.send("x" * 100)
        with pytest.raises(ConnectionLost):
            await future
        await small.channel.wait_closed()

    async def test_the_callback_may_be_a_coroutine_function(self, unix_path):
        async def connected(channel):
            request = await channel.recv()
            await request.reply("done")
            await channel.wait_closed()

        async with await start_server(unix_path, connected):
            client = await open_connection(unix_path)
            assert await client.send("?") == "done"
            await client.close()

    async def test_requests_that_wait_are_served_first_when_serving_begins(self, unix_path):
        async with Pair(unix_path) as pair:
            futures = [pair.client.send(n) for n in range(3)]
            first = await pair.served[0].recv()
            seen = []

            def handler(request):
                seen.append(request.content)
                echo(request)

            pair.served[0].serve(handler)
            futures += [pair.client.send(n) for n in range(3, 6)]
            first.reply(0)
            await asyncio.gather(*futures)
            assert seen == [1, 2, 3, 4, 5]

    async def test_a_message_can_be_written_as_it_is(self, unix_path):
        async with Pair(unix_path) as pair:
            await pair.client._protocol.write([channels.REQUEST, 7, "by hand"])
            request = await pair.served[0].recv()
            assert (request.message_id, request.content) == (7, "by hand")

    async def test_parameters_reach_the_event_loop(self, address):
        async with Pair(address, echo, backlog=1) as pair:
            assert await pair.client.send(1) == 1
        with pytest.raises(TypeError):
            await start_server(address, echo, unknown=1)
        with pytest.raises(AddressError):
            await start_server(None, echo)


class TestReceiving:
    async def test_only_one_can_wait_for_a_request(self, unix_path):
        async with Pair(unix_path) as pair:
            waiting = asyncio.create_task(pair.served[0].recv())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="Somebody else receives"):
                await pair.served[0].recv()

            pair.client.send("for the first").cancel()
            assert (await waiting).content == "for the first"

    async def test_nobody_can_wait_where_a_handler_serves(self, unix_path):
        async with Pair(unix_path, echo) as pair:
            with pytest.raises(RuntimeError):
                await pair.served[0].recv()

    async def test_who_stops_to_wait_leaves_the_request_for_the_next(self, unix_path):
        async with Pair(unix_path) as pair:
            waiting = asyncio.create_task(pair.served[0].recv())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])

            future = pair.client.send(1)
            await (await pair.served[0].recv()).reply(2)
            assert await future == 2

    async def test_what_came_before_the_end_is_still_received(self, unix_path):
        async with Pair(unix_path) as pair:
            futures = [pair.client.send(n) for n in range(2)]
            await pair.client.close()
            await pair.served[0].wait_closed()
            assert [(await pair.served[0].recv()).content for _ in range(2)] == [0, 1]
            with pytest.raises(ConnectionResetError):
                await pair.served[0].recv()
            for future in futures:
                with pytest.raises(ConnectionLost):
                    await future

    async def test_who_waits_when_the_connection_ends_is_told(self, unix_path):
        async with Pair(unix_path) as pair:
            for channel in (pair.served[0], pair.client):
                waiting = asyncio.create_task(channel.recv())
                await asyncio.sleep(0)
                await pair.client.close()
                with pytest.raises(ConnectionResetError):
                    await waiting

    async def test_a_reply_to_one_who_is_gone_is_dropped(self, unix_path):
        async with Pair(unix_path) as pair:
            pair.client.send(1).cancel()
            request = await pair.served[0].recv()
            await pair.client.close()
            await pair.served[0].wait_closed()
            await request.reply(1)
            await request.fail(ValueError())


class TestGivingUp:
    @every_transport
    async def test_a_call_that_was_given_up_harms_nobody(self, address):
        async with Pair(address) as pair:
            cancelled, kept = pair.client.send("cancelled"), pair.client.send("kept")
            timed_out = pair.client.send("timed out")
            cancelled.cancel()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(timed_out, 0.01)
            requests = [await pair.served[0].recv() for _ in range(3)]
            for request in requests[:2]:
                await request.reply(request.content)
            await requests[2].fail("too late")
            assert await kept == "kept"

            again = pair.client.send("again")
            await (await pair.served[0].recv()).reply("fine")
            assert await again == "fine"
            assert not pair.client._session.pending

    async def test_of_many_calls_near_their_timeout_the_others_succeed(self, unix_path):
        held = []

        def handler(request):
            if request.content % 2:
                held.append(request)
            else:
                echo(request)

        async with Pair(unix_path, handler) as pair:
            results = await asyncio.gather(
                *(asyncio.wait_for(pair.client.send(n), 0.1) for n in range(200)),
                return_exceptions=True,
            )
            for request in held:
                request.reply("too late")
            assert results[::2] == list(range(0, 200, 2))
            assert all(isinstance(result, TimeoutError) for result in results[1::2])
            assert await pair.client.send(0) == 0


class TestTheEnd:
    @every_transport
    async def test_pending_calls_fail_at_once_when_the_peer_is_gone(self, address):
        async with Pair(address) as pair:
            futures = [pair.client.send(n) for n in range(3)]
            await pair.served[0].recv()
            pair.served[0].transport.abort()
            async with asyncio.timeout(2):
                for future in futures:
                    with pytest.raises(ConnectionResetError, match="was lost") as caught:
                        await future
                    assert isinstance(caught.value, ConnectionLost)
            assert not pair.client.is_open
            with pytest.raises(ConnectionResetError, match="not sent"):
                pair.client.send("too late")

    async def test_pending_calls_fail_at_once_when_our_end_closes(self, unix_path):
        async with Pair(unix_path) as pair:
            future = pair.client.send(1)
            pair.client.close()
            assert future.done()
            with pytest.raises(ConnectionLost, match="closed by this end"):
                await future
            with pytest.raises(ConnectionLost, match="not sent"):
                pair.client.send(2)

    async def test_the_errors_of_several_calls_are_separate_exceptions(self, unix_path):
        async with Pair(unix_path) as pair:
            futures = [pair.client.send(n) for n in range(2)]
            pair.client.close()
            first, second = [future.exception() for future in futures]
            assert first is not second

    @every_transport
    async def test_what_was_sent_before_closing_is_delivered(self, address):
        async with Pair(address) as pair:
            for n in range(100):
                pair.client.send(n).cancel()
            await pair.client.close()
            assert [(await pair.served[0].recv()).content for _ in range(100)] == list(range(100))

    async def test_closing_twice_and_waiting_twice_does_no_harm(self, unix_path):
        async with Pair(unix_path) as pair:
            waiters = [asyncio.ensure_future(wait(pair.client)) for _ in range(2)]
            await asyncio.sleep(0)
            waiters[0].cancel()
            pair.client.close()
            await pair.client.close()
            await waiters[1]
            await pair.client.wait_closed()
            with pytest.raises(asyncio.CancelledError):
                await waiters[0]

    async def test_callbacks_learn_who_ended_it(self, unix_path):
        async with Pair(unix_path) as pair:
            ended, lost = [], []
            for name, channel in (("client", pair.client), ("server", pair.served[0])):
                channel.on_closed(lambda name=name: ended.append(name))
                channel.on_lost(lambda error, name=name: lost.append((name, error)))
            await pair.client.close()
            await pair.served[0].wait_closed()
            await asyncio.sleep(0)
            assert sorted(ended) == ["client", "server"]
            ((name, error),) = lost
            assert name == "server"
            assert isinstance(error, ConnectionResetError)

    async def test_closing_gives_up_on_a_peer_that_does_not_read(self, unix_path, monkeypatch):
        monkeypatch.setattr(_protocol, "CLOSE_TIMEOUT", 0.05)
        async with Pair(unix_path) as pair:
            reader, writer = await pair.raw()
            await pair.accepted_second.wait()
            stuck = pair.served[1]
            for _ in range(50):
                stuck.send("x" * 100_000).cancel()
                await asyncio.sleep(0)
            async with asyncio.timeout(2):
                await stuck.close()
            await close(writer)
            del reader

    async def test_the_transport_is_known(self, address):
        async with Pair(address) as pair:
            assert pair.client.get_extra_info("peername") == pair.address
            assert pair.client.get_extra_info("nothing", "default") == "default"
            assert pair.client.peer == pair.address
            assert str(pair.address[1]) in repr(pair.client)

    async def test_a_server_closes_while_clients_are_connected(self, unix_path):
        async with Pair(unix_path, echo) as pair:
            pair.server.close()
            async with asyncio.timeout(2):
                await pair.server.wait_closed()
            assert await pair.client.send("still there") == "still there"

    @pytest.mark.parametrize("who", ["client", "server"])
    @every_transport
    async def test_a_closed_connection_leaves_nothing_behind(self, address, who):
        async with Pair(address) as pair:
            future = pair.client.send("pending")
            request = await pair.served[0].recv()
            references = [
                weakref.ref(item)
                for channel in (pair.client, pair.served[0])
                for item in (channel, channel._protocol, channel.transport)
            ]
            await (pair.client if who == "client" else pair.served[0]).close()
            await pair.served[0].wait_closed()
            await pair.client.wait_closed()
            assert future.exception()
            pair.clients.clear()
            pair.served.clear()
            del pair.client, future, request
            for _ in range(3):
                await asyncio.sleep(0)
            gc.collect()
            assert [ref() for ref in references if ref() is not None] == []

    async def test_a_killed_process_fails_all_calls_at_once(self, unix_path):
        code = (
            "import asyncio, sys\nfrom aiomas import channel\n"
            "async def main():\n"
            "    await channel.start_server(sys.argv[1], lambda ch: ch.serve(print))\n"
            "    print('up', flush=True)\n"
            "    await asyncio.Event().wait()\n"
            "asyncio.run(main())\n"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, unix_path, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        await process.stdout.readline()
        client = await open_connection(unix_path)
        futures = [client.send(n) for n in range(10)]
        await asyncio.sleep(0)
        process.kill()
        async with asyncio.timeout(5):
            for future in futures:
                with pytest.raises(ConnectionError):
                    await future
        await process.wait()
        await process.stdout.read()
        await client.close()


async def wait(channel):
    await channel.wait_closed()


@pytest.mark.parametrize("address", ["tcp", "unix"], indirect=True)
async def test_what_was_sent_before_the_end_arrives_although_the_peer_goes_on_sending(address):
    arrived: list[int] = []

    def handler(request):
        arrived.append(len(request.content))
        request.reply("x" * 5000)  # so little that it never waits for a reader

    async with Pair(address, handler) as pair:
        client = await pair.connect(extensions=True)
        await pair.accepted_second.wait()
        served = pair.served[1]
        calls = [client.send("x" * 2_000_000) for _ in range(8)]
        while not arrived:  # noqa: ASYNC110 - so that replies are there which nobody has read
            await asyncio.sleep(0)
        closing = asyncio.create_task(client.close())
        await served.wait_closed()
        await closing
        assert arrived == [2_000_000] * 8
        await asyncio.gather(*calls, return_exceptions=True)


class TestFlow:
    async def test_a_reply_waits_while_the_peer_does_not_read(self, unix_path):
        async with Pair(unix_path) as pair:
            reader, writer = await pair.raw()
            writer.write(b"".join(message(0, n, None) for n in range(1000)))
            await pair.accepted_second.wait()
            stuck = pair.served[1]
            replied = 0
            while True:
                waiter = asyncio.ensure_future(answer(await stuck.recv(), "x" * 10_000))
                replied += 1
                done, _ = await asyncio.wait([waiter], timeout=0.05)
                if not done:
                    break
                assert replied < 500
            # It goes on to read, although it cannot write.
            writer.write(message(0, 1000, "last"))
            while (await stuck.recv()).content != "last":
                pass
            # And it goes on where it was when the peer reads again.
            for n in range(replied):
                assert await read_message(reader) == [1, n, "x" * 10_000]
            await waiter
            await close(writer)

    async def test_who_waits_to_write_is_woken_when_the_connection_ends(self, unix_path):
        async with Pair(unix_path) as pair:
            _, writer = await pair.raw()
            await pair.accepted_second.wait()
            stuck = pair.served[1]
            while not stuck._protocol.paused:
                stuck.send("x" * 10_000).cancel()
                await asyncio.sleep(0)
            waiting = [asyncio.ensure_future(drained(stuck)) for _ in range(2)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            stuck.transport.abort()
            async with asyncio.timeout(2):
                await waiting[1]
                await stuck.wait_closed()
            await asyncio.wait(waiting[:1])
            await close(writer)

    @pytest.mark.parametrize("codec", [codecs.JSON, codecs.MsgPack])
    @every_transport
    async def test_two_peers_that_flood_each_other_do_not_deadlock(self, address, codec):
        data = "x" * 20_000
        async with Pair(address, echo, codec=codec) as pair:
            pair.client.serve(echo)
            futures = [
                channel.send(data) for _ in range(300) for channel in (pair.client, pair.served[0])
            ]
            async with asyncio.timeout(30):
                assert set(await asyncio.gather(*futures)) == {data}

    async def test_frames_wait_on_our_side_and_keep_their_order(self, unix_path):
        async with Pair(unix_path) as pair:
            futures = [pair.client.send([n, "x" * 10_000]) for n in range(200)]
            for n in range(200):
                request = await pair.served[0].recv()
                assert request.content[0] == n
                request.reply(n)
            assert await asyncio.gather(*futures) == list(range(200))

    async def test_frames_wait_outside_of_the_transport(self, unix_path):
        async with Pair(unix_path) as pair:
            _, writer = await pair.raw()
            await pair.accepted_second.wait()
            stuck = pair.served[1]
            for _ in range(300):
                stuck.send("x" * 10_000).cancel()
                await asyncio.sleep(0)
            assert stuck._protocol.paused
            assert stuck.transport.get_write_buffer_size() < 500_000
            stuck.transport.abort()
            await stuck.wait_closed()
            await close(writer)

    async def test_closing_sends_what_waits_because_the_peer_did_not_read(self, unix_path):
        async with Pair(unix_path) as pair:
            reader, writer = await pair.raw()
            await pair.accepted_second.wait()
            slow = pair.served[1]
            count = 0
            while not slow._protocol.paused or count < 100:
                slow.send("x" * 10_000).cancel()
                count += 1
                await asyncio.sleep(0)
            slow.close()
            for n in range(count):
                assert (await read_message(reader))[1] == n
            assert await reader.read() == b""
            await close(writer)


async def answer(request: Request, content):
    await request.reply(content)


async def drained(channel: Channel):
    await channel._protocol.drained()  # type: ignore[attr-defined]


UNREADABLE = {
    "garbage": framed(b"\x00\xff\xfe garbage"),
    "no frame at all": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    "empty frame": framed(b""),
    "oversize": struct.pack("!L", 0xFFFF_FFFF),
    "just oversize": struct.pack("!L", (16 << 20) + 1),
    "unknown type": message(3, 0, None),
    "no type": framed(b"{}"),
    "a number": framed(b"1"),
    "too short": message(0, 0),
    "too long": message(0, 0, None, None),
    "id is no number": message(0, "x", None),
    "id is a truth": message(0, True, None),
    "a reply never asked for": message(1, 0, None),
    "an error never asked for": message(2, 99, "boom"),
    "a reply to a negative id": message(1, -1, None),
    "deep": framed(b"[" * 100_000),
}


class TestHostileBytes:
    @pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE.keys())
    async def test_the_connection_closes_alone_with_one_line_in_the_log(
        self, address, data, caplog
    ):
        async with Pair(address, echo) as pair:
            reader, writer = await pair.raw()
            writer.write(message(0, 0, "a good one first"))
            assert await read_message(reader) == [1, 0, "a good one first"]

            with caplog.at_level(logging.INFO):
                writer.write(data)
                async with asyncio.timeout(2):
                    assert await read_to_the_end(reader) == b""
            await close(writer)

            (record,) = [r for r in caplog.records if r.name.startswith("aiomas")]
            assert record.levelno == logging.WARNING
            assert "sent" in record.getMessage()
            assert str(writer.get_extra_info("sockname")) in record.getMessage()
            assert len(record.getMessage()) < 400
            assert await pair.client.send("the others go on") == "the others go on"

    async def test_what_came_before_and_what_comes_after_the_bad_one(self, address):
        seen = []
        async with Pair(address, lambda request: seen.append(request.content)) as pair:
            reader, writer = await pair.raw()
            writer.write(message(0, 0, "before") + UNREADABLE["garbage"] + message(0, 1, "after"))
            await read_to_the_end(reader)
            assert seen == ["before"]
            await close(writer)

    @pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE.keys())
    async def test_our_pending_calls_learn_what_the_peer_sent(self, data):
        if data == UNREADABLE["a reply never asked for"]:
            data = message(1, 1, None)
        async with await asyncio.start_server(
            lambda r, w: streams.set_result((r, w)), "127.0.0.1"
        ) as server:
            streams = asyncio.get_running_loop().create_future()
            client = await open_connection(server.sockets[0].getsockname())
            _, writer = await streams
            future = client.send("?")
            lost: list[ConnectionLost] = []
            client.on_lost(lost.append)
            writer.write(data)
            async with asyncio.timeout(2):
                with pytest.raises(ProtocolError, match="sent") as caught:
                    await future
            assert isinstance(caught.value, ConnectionResetError)
            await client.wait_closed()
            await asyncio.sleep(0)
            assert len(lost) == 1
            with pytest.raises(ProtocolError):
                await client.recv()
            writer.close()

    async def test_a_header_in_pieces_is_no_reason_to_close(self, address):
        async with Pair(address, echo) as pair:
            reader, writer = await pair.raw()
            for byte in message(0, 0, "slowly"):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
            assert await read_message(reader) == [1, 0, "slowly"]
            await close(writer)

    async def test_the_memory_for_a_frame_is_not_set_aside_in_advance(self, address):
        async with Pair(address, echo) as pair:
            reader, writer = await pair.raw()
            writer.write(struct.pack("!L", 16 << 20) + b"[0, 0,")
            assert await pair.client.send(1) == 1
            sizes = [sum(map(len, channel._session.reader.parts)) for channel in pair.served]
            assert max(sizes) < 100
            await close(writer)
            assert await reader.read() == b""

    @pytest.mark.parametrize("codec", CODECS)
    @pytest.mark.parametrize(
        "content",
        [
            {"__type__": [99, None]},
            {"__type__": "nonsense"},
            {"__type__": [0, "no uuid"]},
            [{"deep": {"__type__": [-1, 0]}}],
        ],
        ids=str,
    )
    async def test_an_object_that_cannot_be_made_is_an_error_for_that_call_alone(
        self, unix_path, codec, content
    ):
        options = {"codec": codec, "extra_serializers": [codecs.uuid_serializer]}
        async with Pair(unix_path, echo, **options) as pair:
            others = pair.client.send(1)
            bad = pair.client.send(content)
            with pytest.raises(RemoteException, match="DecodeError"):
                await bad
            assert await others == 1
            assert await pair.client.send(2) == 2

    @pytest.mark.parametrize("codec", CODECS)
    async def test_a_result_that_cannot_be_made_is_an_error_for_that_call_alone(
        self, unix_path, codec
    ):
        def handler(request):
            request.reply({"__type__": [99, None]} if request.content == "bad" else 1)

        async with Pair(unix_path, handler, codec=codec) as pair:
            others = pair.client.send("good")
            gone = pair.client.send("bad")
            gone.cancel()
            with pytest.raises(DecodeError, match="99"):
                await pair.client.send("bad")
            assert await others == 1
            assert await pair.client.send("good") == 1

    async def test_random_bytes_never_escape(self, address):
        import random

        rng = random.Random(1)
        async with Pair(address, echo) as pair:
            for _ in range(50):
                reader, writer = await pair.raw()
                data = bytearray(message(0, 0, ["agents/0/x", [1], {}]))
                for _ in range(rng.randrange(1, 4)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                writer.write(bytes(data))
                writer.write_eof()
                await read_to_the_end(reader)
                await close(writer)
            assert await pair.client.send("fine") == "fine"


async def read_to_the_end(reader):
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


def test_names_are_exported():
    for name in channels.__all__:
        assert hasattr(channels, name)
    assert channels.DEFAULT_CODEC is codecs.JSON
    assert (channels.REQUEST, channels.RESULT, channels.EXCEPTION) == (0, 1, 2)


async def test_what_reply_and_close_return_can_be_a_task(unix_path):
    async def serve(channel):
        request = await channel.recv()
        as_task: Any = asyncio.create_task  # for coroutines only, which these once were
        await as_task(request.reply("a reply"))
        await as_task(channel.close())

    async with await start_server(unix_path, serve):
        channel = await open_connection(unix_path)
        assert await channel.send("x") == "a reply"
        as_task: Any = asyncio.create_task
        await as_task(channel.close())
        await as_task(channel.close())


class TestCallsOfHandlers:
    async def test_are_spared_when_own_calls_are_ended(self, unix_path):
        async with Pair(unix_path) as pair:
            own = pair.client.send("own")

            async def handler():
                serving.set(
                    Call("a", SimpleNamespace(peer="p", peer_url=None), None, one_way=False)
                )
                return await pair.client.send("nested")

            nested = asyncio.create_task(handler())
            requests = [await pair.served[0].recv() for _ in range(2)]
            pair.client.fail_own_calls(ConnectionLost("over"))
            with pytest.raises(ConnectionLost, match="over"):
                await own
            for request in requests:
                await request.reply("an answer")
            assert await nested == "an answer"


class TestDebugMode:
    async def test_an_error_says_what_was_sent_and_where(self, unix_path):
        loop = asyncio.get_running_loop()
        before = loop.get_debug()
        loop.set_debug(True)
        async with Pair(unix_path) as pair:
            failing, lost = pair.client.send(["spam", 1]), pair.client.send("lost")
            await (await pair.served[0].recv()).fail("an error")
            with pytest.raises(RemoteException) as caught:
                await failing
            (note,) = caught.value.__notes__
            assert "['spam', 1]" in note
            assert "test_channel.py" in note
            await pair.client.close()
            with pytest.raises(ConnectionLost) as closed:
                await lost
            assert "'lost'" in closed.value.__notes__[0]
            assert not pair.client.outgoing._sent
        loop.set_debug(before)


async def test_a_handler_that_raises_does_not_stop_the_requests_that_wait(unix_path):
    reported: list[dict] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    async with Pair(unix_path) as pair:
        calls = [pair.client.send(number) for number in range(3)]
        served = pair.served[0]
        while served.serving < 3:  # noqa: ASYNC110 - there is no event for this
            await asyncio.sleep(0)

        def handler(request):
            if request.content == 0:
                msg = "boom"
                raise ValueError(msg)
            request.reply(request.content)

        served.serve(handler)
        assert await asyncio.gather(*calls[1:]) == [1, 2]
        assert await pair.client.send(3) == 3
        assert [str(context["exception"]) for context in reported] == ["boom"]
    loop.set_exception_handler(None)
    with pytest.raises(ConnectionLost):
        await calls[0]


async def test_a_call_that_comes_too_late_to_be_sent_takes_no_number():
    async with Pair(("127.0.0.1", 0), echo) as pair:
        channel = await pair.connect(extensions=True)
        past = CallOptions(deadline=asyncio.get_running_loop().time() - 1)

        for _ in range(2):
            with pytest.raises(DeadlineExceeded) as caught:
                await channel.send("late", past)
            assert caught.value.outcome is Outcome.NOT_SENT

        assert await channel.send("next") == "next"


async def test_a_call_for_which_there_is_no_room_takes_no_number():
    limits = Limits(write_cap=100_000)
    async with Pair(("127.0.0.1", 0), echo) as pair:
        channel = await pair.connect(extensions=True, limits=limits)
        first = channel.send("x" * 10_000_000)  # more than the operating system takes at once
        for options in (None, CallOptions(one_way=True)):
            with pytest.raises(Overloaded) as caught:
                await channel.send("y" * 200_000, options)
            assert caught.value.outcome is Outcome.NOT_SENT

        assert await channel.send("next") == "next"
        assert len(await first) == 10_000_000
