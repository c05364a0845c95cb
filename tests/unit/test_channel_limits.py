"""What one connection may take: requests and bytes that are held, and the patience to write."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
from typing import Any

import pytest

from aiomas import _protocol
from aiomas import channel as channels
from aiomas._current import CallOptions
from aiomas._limits import Limits
from aiomas._logs import LimitedLog
from aiomas._terms import Terms
from aiomas.channel import Channel
from aiomas.exceptions import (
    ConnectionLost,
    DeadlineExceeded,
    Outcome,
    Overloaded,
    PeerUnresponsive,
    RemoteException,
)
from aiomas.testing import VirtualTimeLoop

MUCH = "x" * 100_000


@pytest.fixture
def anyio_backend():
    """Patience takes no time here."""
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture(autouse=True)
def bad_peers(monkeypatch):
    monkeypatch.setattr(_protocol, "bad_peers", LimitedLog(_protocol.logger))


class Pair:
    """A client and a server of ours; the server can also be dialled by hand."""

    def __init__(self, path) -> None:
        self.path = path
        self.served: list[Channel] = []
        self.accepted: asyncio.Queue[Channel] = asyncio.Queue()
        self.writers: list[asyncio.StreamWriter] = []
        self.clients: list[Channel] = []
        self.server: Any = None

    async def serve(self, handler=None, **limits) -> Terms:
        terms = Terms(limits=Limits(**limits))

        def connected(channel):
            self.served.append(channel)
            self.accepted.put_nowait(channel)
            if handler is not None:
                channel.serve(handler)

        self.server = await channels.listen(self.path, connected, lambda: terms)
        return terms

    async def connect(self, *, extensions=True, **limits) -> Channel:
        terms = Terms(limits=Limits(**limits))
        self.clients.append(await channels.dial(self.path, terms, extensions=extensions))
        return self.clients[-1]

    async def connect_by_hand(self):
        """Return a channel of the server, and the streams of its client."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        self.writers.append(writer)
        return await self.accepted.get(), reader, writer

    async def close(self) -> None:
        for channel in (*self.clients, *self.served):
            channel.transport.abort()  # type: ignore[attr-defined]
            await channel.wait_closed()
        for writer in self.writers:
            writer.transport.abort()
        if self.server is not None:
            self.server.close()
            await self.server.wait_closed()


@pytest.fixture
async def pair(unix_path):
    pair = Pair(unix_path)
    yield pair
    await pair.close()


def echo(request):
    request.reply(request.content)


def message(*parts) -> bytes:
    payload = json.dumps(parts).encode()
    return struct.pack("!L", len(payload)) + payload


async def read_message(reader):
    (size,) = struct.unpack("!L", await reader.readexactly(4))
    return json.loads(await reader.readexactly(size))


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def fill(channel: Channel) -> list[asyncio.Future]:
    """Send to a peer that does not read until something waits in our own buffer."""
    calls = []
    while not channel._protocol.outbox.held_bytes:  # type: ignore[attr-defined]
        calls.append(channel.send(MUCH))
        await asyncio.sleep(0)
    return calls


class TestRequestsHeld:
    async def test_further_ones_are_answered_with_overloaded_and_the_connection_lives_on(
        self, pair
    ):
        held: list = []
        terms = await pair.serve(held.append, max_requests=3)
        client = await pair.connect()
        served = [client.send(n) for n in range(3)]
        for n in (3, 4):
            with pytest.raises(Overloaded, match="max_requests=3") as caught:
                await client.send(n)
            assert caught.value.outcome is Outcome.NOT_EXECUTED
        assert terms.counters.limits_hit == {"max_requests": 2}
        assert [request.content for request in held] == [0, 1, 2]

        held.pop().reply("room for one")
        assert await served.pop() == "room for one"
        served.append(client.send(5))
        with pytest.raises(Overloaded):
            await client.send(6)
        for request in held:
            request.fail("an error makes room as well")
        assert [type(e) for e in await asyncio.gather(*served, return_exceptions=True)] == [
            RemoteException
        ] * 3

    async def test_those_that_nobody_has_taken_yet_count(self, pair):
        await pair.serve(max_requests=2)
        client = await pair.connect()
        calls = [client.send(n) for n in range(3)]
        with pytest.raises(Overloaded):
            await calls[2]
        assert pair.served[0].serving == 2
        await (await pair.served[0].recv()).reply("taken")
        assert await calls[0] == "taken"
        assert pair.served[0].serving == 1
        third = client.send("once more")
        await (await pair.served[0].recv()).reply("second")
        await (await pair.served[0].recv()).reply("third")
        assert [await calls[1], await third] == ["second", "third"]

    async def test_those_that_were_given_up_make_room(self, pair):
        await pair.serve(max_requests=1)
        client = await pair.connect()
        given_up = client.send("given up")
        await turns()
        given_up.cancel()
        await asyncio.sleep(1)
        kept = client.send("kept")
        await (await pair.served[0].recv()).reply("fine")
        assert await kept == "fine"

    async def test_an_old_peer_reads_what_was_the_matter(self, pair):
        await pair.serve(lambda _: None, max_requests=1)
        client = await pair.connect(extensions=False)
        held = client.send(0)
        with pytest.raises(RemoteException, match=r"Overloaded: .*max_requests=1"):
            await client.send(1)
        assert not held.done()
        held.cancel()

    async def test_one_way_calls_over_the_limit_are_dropped_and_counted(self, pair):
        held: list = []
        terms = await pair.serve(held.append, max_requests=1)
        client = await pair.connect()
        await asyncio.gather(*(client.send(n, CallOptions(one_way=True)) for n in range(3)))
        await turns()
        assert [request.content for request in held] == [0]
        assert terms.counters.limits_hit == {"max_requests": 2}

    async def test_their_bytes_have_a_limit(self, pair):
        held: list = []
        terms = await pair.serve(held.append, max_request_bytes=250_000)
        client = await pair.connect()
        served = [client.send(MUCH) for _ in range(2)]
        with pytest.raises(Overloaded, match="max_request_bytes=250000"):
            await client.send(MUCH)
        assert terms.counters.limits_hit == {"max_request_bytes": 1}
        served.append(client.send("small"))
        await turns()
        assert len(held) == 3
        for request in held:
            request.reply("done")
        assert await asyncio.gather(*served) == ["done"] * 3
        assert holds_nothing(pair.served[0])

    async def test_replies_that_wait_for_the_peer_count_for_the_bytes(self, pair):
        terms = await pair.serve(lambda r: r.reply(MUCH), max_request_bytes=250_000)
        served, reader, writer = await pair.connect_by_hand()
        sent = 0
        while not terms.counters.limits_hit:
            writer.write(b"".join(message(0, sent + n, "y" * 10_000) for n in range(10)))
            sent += 10
            await asyncio.sleep(0)
            assert sent < 10_000
        assert terms.counters.limits_hit.keys() == {"max_request_bytes"}
        answers = [await read_message(reader) for _ in range(sent)]
        refused = [content for kind, _, content in answers if kind == 2]
        assert refused
        assert all("max_request_bytes" in text for text in refused)
        assert served.is_open

    async def test_a_peer_that_does_not_read_gets_nothing_more_served(self, pair):
        seen: list = []

        def handler(request):
            seen.append(request.content)
            request.reply(MUCH)

        await pair.serve(handler)
        served, reader, writer = await pair.connect_by_hand()
        writer.write(b"".join(message(0, n, n) for n in range(100)))
        await turns(50)
        begun = len(seen)
        assert 0 < begun < 100
        assert served.serving == 100 - begun
        assert [(await read_message(reader))[1] for _ in range(100)] == list(range(100))
        assert seen == list(range(100))


def holds_nothing(channel: Channel) -> bool:
    return (channel._intake.requests, channel._intake.bytes) == (0, 0)


class TestWriting:
    async def test_own_calls_over_the_cap_fail_and_the_connection_lives_on(self, pair):
        terms = await pair.serve(write_cap=350_000)
        channel, reader, writer = await pair.connect_by_hand()
        calls = await fill(channel)
        while channel._protocol.outbox.held_bytes < 300_000:
            calls.append(channel.send(MUCH))
        with pytest.raises(Overloaded, match="write_cap=350000") as caught:
            await channel.send(MUCH)
        assert caught.value.outcome is Outcome.NOT_SENT
        with pytest.raises(Overloaded, match="write_cap"):
            await channel.send(MUCH, CallOptions(one_way=True))
        assert terms.counters.limits_hit == {"write_cap": 2}
        assert channel.pending == len(calls)

        for n in range(len(calls)):
            assert await read_message(reader) == [0, n, MUCH]
            writer.write(message(1, n, "answer"))
        assert await asyncio.gather(*calls) == ["answer"] * len(calls)
        later = channel.send("later")
        # Those that were refused have used up no numbers, which have no gaps.
        assert await read_message(reader) == [0, len(calls), "later"]
        writer.write(message(1, len(calls), "fine"))
        assert await later == "fine"

    async def test_replies_over_the_cap_cut_the_connection(self, pair, caplog):
        terms = await pair.serve(write_cap=350_000)
        channel, _, writer = await pair.connect_by_hand()
        writer.write(b"".join(message(0, n, n) for n in range(50)))
        lost: list = []
        channel.on_lost(lost.append)
        requests = [await channel.recv() for _ in range(50)]
        for request in requests:
            request.reply(MUCH)
        await channel.wait_closed()
        await turns()
        (error,) = lost
        assert isinstance(error, PeerUnresponsive)
        assert "write_cap=350000" in str(error)
        assert terms.counters.limits_hit == {"write_cap": 1}
        (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert "write_cap" in record.getMessage()

    async def test_a_peer_that_takes_nothing_for_too_long_is_cut(self, pair, caplog):
        terms = await pair.serve()
        channel, _, _ = await pair.connect_by_hand()
        calls = await fill(channel)
        loop = asyncio.get_running_loop()
        start = loop.time()
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert loop.time() - start == pytest.approx(30, abs=1)
        assert {type(error) for error in errors} == {PeerUnresponsive}
        assert "write_timeout=30.0" in str(errors[0])
        assert terms.counters.limits_hit == {"write_timeout": 1}
        outcomes = [error.outcome for error in errors if isinstance(error, ConnectionLost)]
        # What never left our own buffer was not sent, and nobody knows about the rest.
        assert outcomes == sorted(outcomes)  # type: ignore[type-var]
        assert set(outcomes) == {Outcome.MAYBE_EXECUTED, Outcome.NOT_SENT}
        (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert "write_timeout" in record.getMessage()

    async def test_a_call_whose_time_is_up_while_it_waits_still_leaves_and_its_error_says_so(
        self, pair
    ):
        await pair.serve()
        channel, reader, _ = await pair.connect_by_hand()
        calls = await fill(channel)
        late = channel.send("late", CallOptions(timeout=1))
        with pytest.raises(DeadlineExceeded) as caught:
            await late
        received = [(await read_message(reader))[2] for _ in range(len(calls) + 1)]
        assert received[-1] == "late"
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        for call in calls:
            call.cancel()

    async def test_closing_sends_the_calls_that_wait_and_their_errors_say_so(self, pair):
        await pair.serve()
        channel, reader, _ = await pair.connect_by_hand()
        calls = await fill(channel)
        closing = channel.close()
        errors = await asyncio.gather(*calls, return_exceptions=True)
        received = [(await read_message(reader))[1] for _ in calls]
        await closing
        pair.served.clear()  # asyncio cannot abort what was closed with something in its buffer
        assert received == list(range(len(calls)))
        outcomes = {error.outcome for error in errors if isinstance(error, ConnectionLost)}
        assert outcomes == {Outcome.MAYBE_EXECUTED}

    async def test_calls_that_are_given_up_while_they_wait_may_still_run(self, pair):
        await pair.serve()
        channel, reader, _ = await pair.connect_by_hand()
        calls = await fill(channel)
        channel.fail_own_calls(ConnectionLost("that is enough"))
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [(await read_message(reader))[1] for _ in calls] == list(range(len(calls)))
        outcomes = {error.outcome for error in errors if isinstance(error, ConnectionLost)}
        assert outcomes == {Outcome.MAYBE_EXECUTED}

    async def test_a_peer_that_takes_something_now_and_then_is_not_cut(self, pair):
        await pair.serve()
        channel, reader, _ = await pair.connect_by_hand()
        calls = [channel.send(MUCH) for _ in range(50)]
        for n in range(50):
            assert (await read_message(reader))[1] == n
            if n % 5 == 4:  # with less, the operating system may not ask us for more
                await asyncio.sleep(29)
            assert channel.is_open
        for call in calls:
            call.cancel()

    async def test_a_peer_for_which_nothing_waits_is_not_cut(self, pair):
        await pair.serve(echo)
        client = await pair.connect(extensions=False)
        await asyncio.sleep(1000)
        assert await client.send("still there") == "still there"

    async def test_without_a_timeout_it_waits_for_ever(self, pair):
        await pair.serve(write_timeout=None)
        channel, *_ = await pair.connect_by_hand()
        calls = await fill(channel)
        await asyncio.sleep(10_000)
        assert channel.is_open
        for call in calls:
            call.cancel()

    async def test_a_peer_that_is_slow_to_read_is_not_taken_for_dead(self, pair):
        # The pings cannot reach it; write_timeout watches over it then.
        await pair.serve(echo, heartbeat=None)
        client = await pair.connect(heartbeat=1.0, write_timeout=100.0)
        served = pair.served[0]
        served.transport.pause_reading()
        calls = await fill(client)
        await asyncio.sleep(50)
        assert client.is_open
        served.transport.resume_reading()
        assert await asyncio.gather(*calls) == [MUCH] * len(calls)

    async def test_the_high_water_mark_is_a_parameter(self, pair):
        await pair.serve(write_high_water=1_000_000)
        channel, *_ = await pair.connect_by_hand()
        for _ in range(50):
            channel.send(MUCH).cancel()
            await asyncio.sleep(0)
        assert 1_000_000 < channel.transport.get_write_buffer_size() < 1_500_000
        assert channel._protocol.paused


class TestTheLog:
    async def test_a_flood_of_bad_peers_leaves_some_lines_only(self, pair, caplog):
        await pair.serve(echo)
        for _ in range(30):
            channel, _, writer = await pair.connect_by_hand()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await channel.wait_closed()
        lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert len(lines) == 10
        client = await pair.connect()
        assert await client.send("the others go on") == "the others go on"
