"""What the two ends of a real connection agree on first, and how they notice a peer's silence."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
import struct
from typing import Any

import pytest

from aiomas import _hello, _protocol, codecs, local_queue, rpc
from aiomas import channel as channels
from aiomas._current import CallOptions
from aiomas._hello import Hello
from aiomas._limits import Limits
from aiomas._logs import LimitedLog
from aiomas._terms import Terms
from aiomas.channel import Channel, open_connection, start_server
from aiomas.exceptions import (
    ConnectionLost,
    HandshakeError,
    Outcome,
    PeerUnresponsive,
    RemoteException,
    RemoteLookupError,
)
from aiomas.testing import VirtualTimeLoop

CODECS = [codecs.JSON, codecs.MsgPack, codecs.MsgPackBlosc]
TWO_CODECS = list(itertools.permutations(CODECS, 2))
PING, PONG = 5, 6


@pytest.fixture
def anyio_backend():
    """Silence takes no time here."""
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture(autouse=True)
def bad_peers(monkeypatch):
    monkeypatch.setattr(_protocol, "bad_peers", LimitedLog(_protocol.logger))


class Spam:
    router = rpc.Service()

    @rpc.expose
    def echo(self, value):
        return value


class Site:
    """Servers and clients that end with the test; `served` are the servers' ends."""

    def __init__(self) -> None:
        self.served: list[Channel] = []
        self.dialled: list[Channel] = []
        self.servers: list[Any] = []
        self.streams: asyncio.Queue = asyncio.Queue()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, address, handler=None, **kwds):
        """Start a server; its handler gets all requests, without one they wait."""

        def connected(channel):
            self.served.append(channel)
            if handler is not None:
                channel.serve(handler)

        self.servers.append(await start_server(address, connected, **kwds))
        return self.servers[-1]

    async def connect(self, address, **kwds) -> Channel:
        self.dialled.append(await open_connection(address, **kwds))
        return self.dialled[-1]

    async def serve_by_hand(self, path) -> None:
        """Start a server whose connections are in `streams`."""

        def connected(reader, writer):
            self.writers.append(writer)
            self.streams.put_nowait((reader, writer))

        self.servers.append(await asyncio.start_unix_server(connected, path))

    async def dial_by_hand(self, path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(path)
        self.writers.append(writer)
        return reader, writer

    async def close(self) -> None:
        for channel in (*self.dialled, *self.served):
            channel.transport.abort()  # type: ignore[attr-defined]
            await channel.wait_closed()
        for writer in self.writers:
            writer.transport.abort()
        for server in self.servers:
            server.close()
            await server.wait_closed()


@pytest.fixture
async def site():
    site = Site()
    yield site
    await site.close()


def echo(request):
    request.reply(request.content)


def message(*parts) -> bytes:
    payload = json.dumps(parts).encode()
    return struct.pack("!L", len(payload)) + payload


async def read_message(reader):
    (size,) = struct.unpack("!L", await reader.readexactly(4))
    return json.loads(await reader.readexactly(size))


async def welcome(site) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Answer the hello of a client by hand, saying that we are what it is."""
    reader, writer = await site.streams.get()
    kind, message_id, (path, args, _) = await read_message(reader)
    assert (kind, path) == (0, "aiomas/hello")
    writer.write(message(1, message_id, args[0]))
    return reader, writer


async def silent_peer(site, path, **limits) -> tuple[Channel, Any, Any]:
    """Return a client, and the streams of a peer that has said hello and nothing more."""
    await site.serve_by_hand(path)
    welcoming = asyncio.create_task(welcome(site))
    client = await site.connect(path, extensions=True, limits=Limits(**limits))
    return client, *await welcoming


class TestAgreeing:
    @pytest.mark.parametrize("kind", ["tcp", "unix", "local"])
    @pytest.mark.parametrize("codec", CODECS)
    async def test_who_asks_for_the_extensions_gets_them(self, unix_path, kind, codec):
        local_queue.clear_queue_cache()
        address: Any = {
            "tcp": ("127.0.0.1", 0),
            "unix": unix_path,
            "local": local_queue.get_queue("hello"),
        }[kind]
        served: list[rpc.RpcClient] = []
        server = await rpc.start_server(address, Spam(), served.append, codec=codec)
        if kind == "tcp":
            address = server.sockets[0].getsockname()

        client = await rpc.open_connection(address, codec=codec, extensions=True)

        assert client.channel.extended
        assert served[0].channel.extended
        assert await client.remote.echo("spam") == "spam"
        with pytest.raises(RemoteLookupError) as caught:  # what only typed failures tell
            await client.remote.nope()
        assert caught.value.outcome is Outcome.NOT_EXECUTED
        await client.close()
        await served[0].channel.wait_closed()
        server.close()
        await server.wait_closed()

    @pytest.mark.parametrize("extensions", [False, True])
    async def test_who_has_dialled_is_not_asked(self, site, unix_path, extensions):
        await site.serve(unix_path, echo)
        client = await site.connect(unix_path, extensions=extensions)
        client.serve(lambda request: request.reply("no hello"))
        assert await client.send("accepted") == "accepted"
        question = _hello.question(Hello().speaking(codecs.JSON()))
        assert await site.served[0].send(question) == "no hello"
        assert client.extended is extensions

    async def test_who_does_not_ask_does_not_get_them(self, site, unix_path):
        await site.serve(unix_path, echo)
        client = await site.connect(unix_path)
        assert await client.send("spam") == "spam"
        assert not client.extended
        assert not site.served[0].extended

    async def test_a_peer_that_knows_of_none_gets_what_every_version_knows(self, site, unix_path):
        await site.serve_by_hand(unix_path)

        async def old():
            reader, writer = await site.streams.get()
            _, message_id, (path, *_) = await read_message(reader)
            writer.write(message(2, message_id, f"LookupError: {path}"))
            return reader, writer

        answering = asyncio.create_task(old())
        client = await site.connect(unix_path, extensions=True)
        reader, writer = await answering
        assert not client.extended
        given_up = client.send("given up", CallOptions(timeout=5.0))
        assert await read_message(reader) == [0, 1, "given up"]
        given_up.cancel()
        await asyncio.sleep(1000)  # neither is it told that, nor asked whether it is alive
        answer = client.send("next")
        assert await read_message(reader) == [0, 2, "next"]
        writer.write(message(1, 2, "fine"))
        assert await answer == "fine"

    @pytest.mark.parametrize(
        "change", [{"version": 0}, {"extensions": ["ping"]}, {"extensions": []}], ids=str
    )
    async def test_a_peer_that_knows_only_some_gets_none(self, site, unix_path, change):
        await site.serve(unix_path, echo)
        reader, writer = await site.dial_by_hand(unix_path)
        hello = Hello().speaking(codecs.JSON()).content() | change
        writer.write(message(0, 0, ["aiomas/hello", [hello], {}]))
        kind, _, content = await read_message(reader)
        assert kind == 1
        assert "refusal" not in content
        assert not site.served[0].extended

    async def test_a_hello_is_the_first_message_or_none(self, site, unix_path):
        await site.serve(unix_path, echo)
        reader, writer = await site.dial_by_hand(unix_path)
        hello = ["aiomas/hello", [Hello().speaking(codecs.JSON()).content()], {}]
        for n, content in enumerate(["spam", hello]):
            writer.write(message(0, n, content))
            assert (await read_message(reader))[2] == json.loads(json.dumps(content))
        assert not site.served[0].extended

    async def test_what_a_newer_version_says_beyond_that_is_passed_over(self, site, unix_path):
        await site.serve(unix_path, echo)
        reader, writer = await site.dial_by_hand(unix_path)
        hello = Hello().speaking(codecs.JSON()).content()
        hello |= {"version": 9, "extensions": [*hello["extensions"], "streams"], "new": True}
        writer.write(message(0, 0, ["aiomas/hello", [hello], {}]))
        assert "refusal" not in (await read_message(reader))[2]
        assert site.served[0].extended

    async def test_a_peer_that_hangs_up_instead_of_answering_is_an_error(self, site, unix_path):
        await site.serve_by_hand(unix_path)
        connecting = asyncio.create_task(site.connect(unix_path, extensions=True))
        _, writer = await site.streams.get()
        writer.close()
        with pytest.raises(ConnectionLost):
            await connecting

    @pytest.mark.parametrize("one_way", [False, True])
    async def test_what_only_extended_connections_know_is_no_message_elsewhere(
        self, site, unix_path, one_way
    ):
        await site.serve(unix_path, echo)
        reader, writer = await site.dial_by_hand(unix_path)
        writer.write(message(3, 0, [{"one_way": one_way}, "spam"]))
        assert await reader.read() == b""


class Point:
    """Something that needs a serializer."""


class Circle:
    """Something else."""


def serializer_of(cls):
    return lambda: (cls, lambda _: None, lambda _: cls())


class TestRefusing:
    @pytest.mark.parametrize(("ours", "theirs"), TWO_CODECS, ids=lambda codec: codec.name)
    async def test_another_codec(self, site, unix_path, ours, theirs, caplog):
        served: list = []
        await site.serve(unix_path, served.append, codec=theirs)
        with caplog.at_level(logging.INFO), pytest.raises(HandshakeError) as caught:
            await site.connect(unix_path, codec=ours, extensions=True)
        text = str(caught.value)
        assert f"speaks {theirs.name} with []" in text
        assert f"came in {ours.name} with []" in text
        await site.served[0].wait_closed()
        (record,) = [r for r in caplog.records if r.name.startswith("aiomas")]
        assert record.levelno == logging.WARNING
        assert served == []

    @pytest.mark.parametrize("codec", CODECS)
    async def test_other_serializers(self, site, unix_path, codec, caplog):
        point, circle = serializer_of(Point), serializer_of(Circle)
        await site.serve(unix_path, echo, codec=codec, extra_serializers=[point, circle])
        with caplog.at_level(logging.INFO), pytest.raises(HandshakeError) as caught:
            await site.connect(
                unix_path, codec=codec, extra_serializers=[circle, point], extensions=True
            )
        for text in (f"{codec.name} with ['Point', 'Circle']", "with ['Circle', 'Point']"):
            assert text in str(caught.value)
        assert "extra_serializers" in str(caught.value)
        await site.served[0].wait_closed()
        (record,) = [r for r in caplog.records if r.name.startswith("aiomas")]
        assert record.levelno == logging.WARNING
        for text in ("['Point', 'Circle']", "['Circle', 'Point']"):
            assert text in record.getMessage()

    async def test_is_final_for_one_who_would_try_for_ever(self, site, unix_path):
        await site.serve(unix_path, echo, codec=codecs.MsgPack)
        with pytest.raises(HandshakeError):
            await site.connect(unix_path, extensions=True, timeout=None)
        assert len(site.served) == 1

    @pytest.mark.parametrize("shown", [None, "", "wrong"])
    async def test_one_who_does_not_know_the_token(self, unix_path, shown):
        async with await channels.listen(
            unix_path, lambda _: None, lambda: Terms(expects="secret")
        ):
            with pytest.raises(HandshakeError, match="token") as caught:
                await channels.dial(unix_path, Terms(hello=Hello(token=shown)), extensions=True)
            assert "secret" not in str(caught.value)
            known = Terms(hello=Hello(token="secret"))
            client = await channels.dial(unix_path, known, extensions=True)
            assert client.extended
            await client.close()

    @pytest.mark.parametrize(("ours", "theirs"), TWO_CODECS, ids=lambda codec: codec.name)
    async def test_a_request_in_another_codec_is_answered_in_it(
        self, site, unix_path, ours, theirs
    ):
        await site.serve(unix_path, echo, codec=theirs)
        client = await site.connect(unix_path, codec=ours)
        with pytest.raises(RemoteException, match=f"HandshakeError.*{theirs.name}") as caught:
            await client.send("spam")
        assert f"came in {ours.name}" in str(caught.value)
        await client.wait_closed()


class TestSilence:
    async def test_a_peer_is_asked_and_then_lost(self, site, unix_path, caplog):
        client, reader, _ = await silent_peer(site, unix_path)
        loop = asyncio.get_running_loop()
        start = loop.time()
        future = client.send("?")
        lost: list[ConnectionLost] = []
        client.on_lost(lost.append)
        with pytest.raises(PeerUnresponsive, match=r"3 times heartbeat=10\.0 s") as caught:
            await future
        assert loop.time() - start == pytest.approx(30)
        assert "asyncio.to_thread" in str(caught.value)
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        await client.wait_closed()
        await asyncio.sleep(0)
        assert isinstance(lost[0], PeerUnresponsive)
        assert await read_message(reader) == [0, 1, "?"]
        assert [(await read_message(reader))[0] for _ in range(2)] == [PING, PING]
        (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert "heartbeat" in record.getMessage()

    async def test_the_times_are_parameters(self, site, unix_path):
        client, *_ = await silent_peer(site, unix_path, heartbeat=2.0, heartbeat_misses=5)
        start = asyncio.get_running_loop().time()
        await client.wait_closed()
        assert asyncio.get_running_loop().time() - start == pytest.approx(10)

    async def test_any_byte_counts_for_a_peer(self, site, unix_path):
        client, _, writer = await silent_peer(site, unix_path)
        slowly = message(0, 0, "a long story")
        for byte in slowly:
            await asyncio.sleep(29)
            writer.write(bytes([byte]))
        assert (await client.recv()).content == "a long story"
        assert client.is_open

    async def test_a_peer_that_answers_lives_for_ever(self, site, unix_path):
        await site.serve(unix_path, echo)
        client = await site.connect(unix_path, extensions=True)
        await asyncio.sleep(10_000)
        assert await client.send("still there") == "still there"

    async def test_both_ends_watch(self, site, unix_path):
        await site.serve(unix_path)
        reader, writer = await site.dial_by_hand(unix_path)
        hello = Hello().speaking(codecs.JSON()).content()
        writer.write(message(0, 0, ["aiomas/hello", [hello], {}]))
        await read_message(reader)
        with pytest.raises(PeerUnresponsive):
            await site.served[0].recv()

    async def test_a_ping_is_answered_with_our_time(self, site, unix_path):
        client, reader, writer = await silent_peer(site, unix_path)
        writer.write(message(PING, 1234, None))
        now = round(client.loop.time() * 1000)
        assert await read_message(reader) == [PONG, 1234, now]

    async def test_a_ping_of_a_peer_that_does_not_read_is_not_answered(self, site, unix_path):
        client, reader, writer = await silent_peer(site, unix_path)
        protocol: Any = client._protocol
        outbox = protocol.outbox
        calls = []
        while not outbox.held_bytes:
            calls.append(client.send("x" * 100_000))
            await asyncio.sleep(0)
        held, received = outbox.held_bytes, protocol.terms.counters.bytes_in
        pings = message(PING, 1234, None) * 1000
        writer.write(pings)
        while protocol.terms.counters.bytes_in < received + len(pings):  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert outbox.held_bytes == held
        for number in range(1, len(calls) + 1):
            assert (await read_message(reader))[:2] == [0, number]
        writer.write(message(PING, 5678, None))  # from now on it reads again
        assert (await read_message(reader))[:2] == [PONG, 5678]
        for call in calls:
            call.cancel()

    async def test_without_heartbeat_nobody_is_asked(self, site, unix_path):
        client, reader, writer = await silent_peer(site, unix_path, heartbeat=None)
        await asyncio.sleep(10_000)
        assert client.is_open
        answer = client.send("first words")
        assert await read_message(reader) == [0, 1, "first words"]
        writer.write(message(1, 1, "an answer"))
        assert await answer == "an answer"

    async def test_a_local_queue_does_not_depend_on_time(self, site):
        local_queue.clear_queue_cache()
        queue = local_queue.get_queue("silence")
        await site.serve(queue, echo)
        client = await site.connect(queue, extensions=True)
        assert client.extended
        assert client._protocol.heartbeat is None

    async def test_a_closed_connection_is_not_watched(self, site, unix_path):
        client, *_ = await silent_peer(site, unix_path)
        await client.close()
        heartbeat = client._protocol.heartbeat  # type: ignore[attr-defined]
        assert heartbeat is not None
        assert heartbeat._timer.cancelled()


class TestClosing:
    async def test_the_peer_is_told_at_once_and_ends_the_connection(self, site, unix_path):
        client, reader, writer = await silent_peer(site, unix_path)
        closing = asyncio.ensure_future(client.close())
        assert await reader.read() == b""
        assert not closing.done()
        writer.close()
        await closing
        assert client.loop.time() < _protocol.LINGER_TIMEOUT

    async def test_a_peer_that_does_not_end_it_is_not_waited_for(self, site, unix_path):
        client, *_ = await silent_peer(site, unix_path)
        before = client.loop.time()
        await client.close()
        assert client.loop.time() == pytest.approx(before + _protocol.LINGER_TIMEOUT)

    async def test_nor_is_one_that_goes_on_sending(self, site, unix_path):
        client, _, writer = await silent_peer(site, unix_path)
        before = client.loop.time()
        closing = asyncio.ensure_future(client.close())
        for number in itertools.count():
            if closing.done():
                break
            writer.write(message(0, number, "x" * 1000))
            await asyncio.sleep(0.01)
        assert client.loop.time() == pytest.approx(before + _protocol.LINGER_TIMEOUT, abs=0.05)

    async def test_a_peer_that_is_slow_to_read_gets_all_though_it_goes_on_sending(self, site):
        server = await asyncio.start_server(
            lambda *streams: site.streams.put_nowait(streams), "127.0.0.1", 0, limit=1000
        )
        site.servers.append(server)
        # What its system takes for it does not matter then.
        server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        welcoming = asyncio.create_task(welcome(site))
        client = await site.connect(server.sockets[0].getsockname(), extensions=True)
        reader, writer = await welcoming
        site.writers.append(writer)
        calls = [client.send("x" * 2_000_000) for _ in range(12)]
        closing = asyncio.ensure_future(client.close())
        for number in range(12):
            assert (await read_message(reader))[:2] == [0, number + 1]
            writer.write(message(0, number, "x" * 100_000))
            await asyncio.sleep(0.4)
        assert client.loop.time() > 4 * _protocol.LINGER_TIMEOUT
        writer.close()
        await closing
        await asyncio.gather(*calls, return_exceptions=True)

    async def test_without_the_extensions_it_ends_at_once(self, site, unix_path):
        await site.serve_by_hand(unix_path)
        client = await site.connect(unix_path)
        before = client.loop.time()
        await client.close()
        assert client.loop.time() == before


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has all of these")
class TestTheSystem:
    @staticmethod
    def options(channel: Channel) -> dict[str, int]:
        sock = channel.get_extra_info("socket")
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        options = {n: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, n)) for n in names}
        return options | {"on": sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)}

    @pytest.mark.parametrize(
        ("limits", "expected"),
        [
            ({}, (10, 10, 3, 30_000)),
            ({"heartbeat": 4.0, "heartbeat_misses": 5, "write_timeout": 7.0}, (4, 4, 5, 20_000)),
            ({"heartbeat": 1.0, "write_timeout": 7.0}, (1, 1, 3, 7_000)),
            ({"heartbeat": 0.01}, (1, 1, 3, 30_000)),
            ({"heartbeat": None}, (10, 10, 3, 30_000)),
            ({"write_timeout": None}, (10, 10, 3, 0)),
            # More than the system can be told.
            ({"heartbeat": 1e10, "write_timeout": 3e6}, (32_767, 32_767, 3, 2**31 - 1)),
            ({"heartbeat": None, "write_timeout": 3e6}, (10, 10, 3, 2**31 - 1)),
            ({"heartbeat_misses": 1000}, (10, 10, 127, 10_000_000)),
        ],
        ids=str,
    )
    async def test_watches_both_ends_of_a_tcp_connection(self, site, limits, expected):
        server = await site.serve(("127.0.0.1", 0), echo, limits=Limits(**limits))
        address = server.sockets[0].getsockname()
        client = await site.connect(address, limits=Limits(**limits))
        assert await client.send("accepted") == "accepted"
        for channel in (client, site.served[0]):
            assert tuple(self.options(channel).values()) == (*expected, 1)

    async def test_each_end_has_its_own_limits(self, site):
        server = await site.serve(("127.0.0.1", 0), echo, limits=Limits(heartbeat=2.0))
        client = await site.connect(server.sockets[0].getsockname())
        assert await client.send("accepted") == "accepted"
        idle = [self.options(c)["TCP_KEEPIDLE"] for c in (client, site.served[0])]
        assert idle == [10, 2]
