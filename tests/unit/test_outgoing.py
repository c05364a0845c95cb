"""Own calls: their deadlines, what is left of those that were given up, and what became of them."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import pytest

from aiomas import channel as channels
from aiomas import codecs, local_queue
from aiomas._current import Call, CallOptions, serving
from aiomas._limits import Limits
from aiomas._outgoing import NotIdempotent, typed_failure
from aiomas._terms import Terms
from aiomas.channel import Channel
from aiomas.exceptions import (
    ConnectionLost,
    DeadlineExceeded,
    DecodeError,
    Outcome,
    Overloaded,
    PeerUnresponsive,
    ProtocolError,
    RemoteException,
    RemoteLookupError,
    SerializationError,
)
from aiomas.testing import VirtualTimeLoop

NOT_SENT, NOT_EXECUTED = Outcome.NOT_SENT, Outcome.NOT_EXECUTED
MAYBE, EXECUTED = Outcome.MAYBE_EXECUTED, Outcome.EXECUTED
RESULT, EXCEPTION, CALL, CANCEL, FAILURE = 1, 2, 3, 4, 7
MUCH = "x" * 100_000


@pytest.fixture
def anyio_backend():
    """Deadlines take no time here."""
    return "asyncio", {"loop_factory": VirtualTimeLoop}


class Line:
    """A client of ours, and the streams of a peer that is played by hand."""

    channel: Channel
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def __init__(self, path) -> None:
        self.path = path
        self.terms = Terms()
        self.server: Any = None

    async def connect(self, *, extended=True, call_timeout=None, **limits) -> Channel:
        streams: asyncio.Queue = asyncio.Queue()
        self.server = await asyncio.start_unix_server(
            lambda reader, writer: streams.put_nowait((reader, writer)), self.path
        )
        self.terms = Terms(
            limits=Limits(**{"heartbeat": None, **limits}), call_timeout=call_timeout
        )
        dialling = asyncio.create_task(channels.dial(self.path, self.terms, extensions=extended))
        self.reader, self.writer = await streams.get()
        if extended:
            _, message_id, content = await self.read()
            self.write(RESULT, message_id, content[1][0])
        self.channel = await dialling
        return self.channel

    def write(self, *parts) -> None:
        payload = json.dumps(parts).encode()
        self.writer.write(struct.pack("!L", len(payload)) + payload)

    async def read(self) -> Any:
        (size,) = struct.unpack("!L", await self.reader.readexactly(4))
        return json.loads(await self.reader.readexactly(size))

    async def close(self) -> None:
        if self.channel.is_open:
            self.channel.transport.abort()  # type: ignore[attr-defined]
        await self.channel.wait_closed()
        self.writer.transport.abort()
        self.server.close()
        await self.server.wait_closed()


@pytest.fixture
async def line(unix_path):
    line = Line(unix_path)
    yield line
    await line.close()


def options(**kwds) -> CallOptions:
    return CallOptions(**kwds)


def nothing_is_left_of(channel: Channel) -> bool:
    outgoing = channel.outgoing
    is_swept = outgoing in outgoing._sweeper._swept
    return not channel.pending and not is_swept and not outgoing._sent


async def outcomes_of(calls) -> list:
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(error, BaseException) for error in errors)
    return [error.outcome for error in errors]  # type: ignore[union-attr]


async def fill(channel: Channel) -> list[asyncio.Future]:
    """Send to a peer that does not read until some calls wait in our own buffer."""
    calls = []
    while len(channel._protocol.outbox._held) < 3:  # type: ignore[attr-defined]
        calls.append(channel.send(MUCH))
        await asyncio.sleep(0)
    return calls


class TestDeadlines:
    async def test_a_call_fails_when_its_time_is_up(self, line):
        channel = await line.connect()
        start = channel.loop.time()
        call = channel.send("spam", options(timeout=2.5))
        with pytest.raises(DeadlineExceeded, match="no reply in time") as caught:
            await call
        assert channel.loop.time() - start == 2.5
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.outcome is MAYBE
        assert caught.value.origin == channel.peer

    async def test_the_default_is_that_of_the_terms(self, line):
        channel = await line.connect(call_timeout=7.0)
        start = channel.loop.time()
        with pytest.raises(DeadlineExceeded):
            await channel.send("spam")
        assert channel.loop.time() - start == 7
        with pytest.raises(DeadlineExceeded):
            await channel.send("spam", options(timeout=9.0))
        assert channel.loop.time() - start == 7 + 9

    async def test_without_any_it_waits_for_ever(self, line):
        channel = await line.connect()
        call = channel.send("spam")
        await asyncio.sleep(1000)
        line.write(RESULT, 1, "at last")
        assert await call == "at last"

    @pytest.mark.parametrize(
        ("left", "timeout", "expected"), [(5, 9, 5), (9, 5, 5), (5, None, 5), (None, 5, 5)]
    )
    async def test_a_handler_has_what_is_left_of_its_callers_time(
        self, line, left, timeout, expected
    ):
        channel = await line.connect()
        start = channel.loop.time()
        call = Call("spam", line, None if left is None else start + left, one_way=False)
        token = serving.set(call)
        nested = channel.send("eggs", options(timeout=timeout))
        serving.reset(token)
        with pytest.raises(DeadlineExceeded):
            await nested
        assert channel.loop.time() - start == expected

    async def test_what_is_left_travels_with_the_call(self, line):
        channel = await line.connect()
        await asyncio.sleep(1.5)
        call = channel.send("spam", options(timeout=2.5))
        kind, message_id, (sent, content) = await line.read()
        assert (kind, content) == (CALL, "spam")
        assert sent == {"timeout": 2.5, "sent": 1.5}
        line.write(RESULT, message_id, "in time")
        assert await call == "in time"
        await asyncio.sleep(10)
        assert nothing_is_left_of(channel)

    async def test_holds_for_peers_that_know_nothing_of_it_as_well(self, line):
        channel = await line.connect(extended=False)
        call = channel.send("spam", options(timeout=2.5))
        assert await line.read() == [0, 0, "spam"]
        with pytest.raises(DeadlineExceeded):
            await call
        line.write(RESULT, 0, "too late")
        later = channel.send("later")
        assert await line.read() == [0, 1, "later"]
        line.write(RESULT, 1, "fine")
        assert await later == "fine"

    @pytest.mark.parametrize("one_way", [False, True])
    async def test_a_call_whose_time_is_up_already_is_not_sent_and_the_next_one_is(
        self, line, one_way
    ):
        channel = await line.connect()
        await asyncio.sleep(5)
        late = channel.send("too late", options(deadline=5.0, one_way=one_way))
        with pytest.raises(DeadlineExceeded) as caught:
            await late
        assert caught.value.outcome is NOT_SENT
        later = channel.send("later")
        assert await line.read() == [0, 1, "later"]  # the hello had 0, and there are no gaps
        line.write(RESULT, 1, "fine")
        assert await later == "fine"

    async def test_a_reply_that_comes_too_late_is_dropped(self, line):
        channel = await line.connect()
        with pytest.raises(DeadlineExceeded):
            await channel.send("spam", options(timeout=1.0))
        line.write(RESULT, 1, "too late")
        await asyncio.sleep(1)
        assert channel.is_open
        assert nothing_is_left_of(channel)

    async def test_the_timer_ends_with_the_call(self, line):
        channel = await line.connect()
        call = channel.send("spam", options(timeout=1000.0))
        call.cancel()
        await asyncio.sleep(1)
        assert nothing_is_left_of(channel)
        timers = [t for t in channel.loop._timeline._timers if not t[-1].cancelled()]
        assert [t for t in timers if t[0] > 500] == []


class TestGivingUp:
    async def test_a_cancelled_call_leaves_nothing_and_the_peer_is_told(self, line):
        channel = await line.connect()
        calls = [channel.send(n) for n in range(3)]
        calls[1].cancel()
        assert [await line.read() for _ in range(3)] == [[0, n + 1, n] for n in range(3)]
        await asyncio.sleep(0.25)
        assert channel.pending == 2
        assert await line.read() == [CANCEL, 2, None]
        for n in (1, 3):
            line.write(RESULT, n, "fine")
        assert [await calls[0], await calls[2]] == ["fine", "fine"]
        await asyncio.sleep(0.25)
        assert nothing_is_left_of(channel)

    async def test_a_call_whose_time_was_up_is_cancelled_over_there_too(self, line):
        channel = await line.connect()
        with pytest.raises(DeadlineExceeded):
            await channel.send("spam", options(timeout=1.0))
        assert (await line.read())[0] == CALL
        assert await line.read() == [CANCEL, 1, None]

    async def test_a_peer_that_knows_nothing_of_it_is_not_told(self, line):
        channel = await line.connect(extended=False)
        channel.send("spam").cancel()
        await asyncio.sleep(1)
        assert nothing_is_left_of(channel)
        later = channel.send("later")
        assert [await line.read() for _ in range(2)] == [[0, 0, "spam"], [0, 1, "later"]]
        line.write(RESULT, 1, "fine")
        assert await later == "fine"

    async def test_while_nobody_calls_nothing_is_swept(self, line):
        channel = await line.connect()
        assert nothing_is_left_of(channel)
        call = channel.send("spam")
        line.write(RESULT, 1, "fine")
        await call
        await asyncio.sleep(0.5)  # the next call may come soon, so it goes on once
        assert nothing_is_left_of(channel)

    async def test_the_sweep_goes_on_for_as_long_as_a_call_is_pending(self, line):
        channel = await line.connect()
        kept = channel.send("kept")
        await asyncio.sleep(10.1)
        late = channel.send("given up")
        late.cancel()
        await asyncio.sleep(0.25)
        assert channel.pending == 1
        assert [await line.read() for _ in range(3)][-1] == [CANCEL, 2, None]
        kept.cancel()

    async def test_the_end_of_the_connection_is_the_end_of_the_sweep(self, line):
        channel = await line.connect()
        call = channel.send("spam")
        line.writer.transport.abort()
        with pytest.raises(ConnectionLost):
            await call
        assert nothing_is_left_of(channel)

    async def test_over_a_local_queue_it_is_noticed_at_once(self):
        queue = local_queue.LocalQueue("outgoing")
        cancelled: list = []
        requests: list = []
        server = await channels.start_server(
            queue, lambda channel: channel.serve(requests.append, cancelled.append)
        )
        channel = await channels.open_connection(queue, extensions=True)
        call = channel.send("spam")
        await asyncio.sleep(0)
        call.cancel()
        before = channel.loop.time()
        for _ in range(5):
            await asyncio.sleep(0)
        assert channel.pending == 0
        assert channel.loop.time() == before
        assert len(cancelled) + (not requests) == 1
        await channel.close()
        server.close()


class TestOutcomes:
    async def test_a_call_on_a_closed_connection_was_not_sent(self, line):
        channel = await line.connect()
        await channel.close()
        with pytest.raises(ConnectionLost) as caught:
            channel.send("spam")
        assert caught.value.outcome is NOT_SENT

    @pytest.mark.parametrize("one_way", [False, True])
    async def test_what_cannot_be_encoded_was_not_sent(self, line, one_way):
        channel = await line.connect(max_frame=1000)
        for content in (object(), "x" * 1000):
            with pytest.raises(SerializationError) as caught:
                channel.send(content, options(one_way=one_way))
            assert caught.value.outcome is NOT_SENT
        later = channel.send("later")
        assert await line.read() == [0, 1, "later"]
        line.write(RESULT, 1, "fine")
        assert await later == "fine"

    async def test_calls_that_were_written_may_have_run_when_the_connection_is_lost(self, line):
        channel = await line.connect()
        calls = [channel.send(n) for n in range(3)]
        await line.read()
        line.writer.transport.abort()
        assert await outcomes_of(calls) == [MAYBE] * 3

    async def test_calls_of_this_turn_were_not_sent_when_the_connection_is_lost(self, line):
        channel = await line.connect()
        written = channel.send("written")
        await line.read()
        calls = [channel.send(n) for n in range(3)]
        channel.transport.abort()
        assert await outcomes_of([written, *calls]) == [MAYBE, *[NOT_SENT] * 3]

    async def test_calls_that_waited_for_the_peer_to_read_were_not_sent(self, line):
        channel = await line.connect()
        calls = await fill(channel)
        calls += [channel.send("small") for _ in range(2)]
        waiting = len(channel._protocol.outbox._held)
        assert 3 <= waiting < len(calls)
        channel.transport.abort()
        assert await outcomes_of(calls) == [MAYBE] * (len(calls) - waiting) + [NOT_SENT] * waiting

    @pytest.mark.parametrize("one_way", [False, True])
    async def test_they_were_not_sent_either_if_the_peer_hangs_up(self, line, one_way):
        channel = await line.connect()
        calls = await fill(channel)
        last = channel.send("last", options(one_way=one_way))
        line.writer.transport.abort()
        with pytest.raises(ConnectionLost) as caught:
            await last
        assert caught.value.outcome is NOT_SENT
        await asyncio.gather(*calls, return_exceptions=True)

    async def test_what_our_own_close_still_sends_may_run(self, line):
        channel = await line.connect()
        calls = await fill(channel)
        calls.append(channel.send("last"))
        channel.close()
        assert await outcomes_of(calls) == [MAYBE] * len(calls)
        assert [(await line.read())[2] for _ in calls][-1] == "last"

    async def test_a_call_of_the_turn_in_which_we_close_may_run(self, line):
        channel = await line.connect()
        call = channel.send("last words")
        channel.close()
        assert await outcomes_of([call]) == [MAYBE]
        assert await line.read() == [0, 1, "last words"]

    async def test_calls_that_are_ended_while_the_connection_goes_on_may_run(self, line):
        channel = await line.connect()
        call = channel.send("own")
        channel.fail_own_calls(ConnectionLost("shutting down"))
        assert await outcomes_of([call]) == [MAYBE]
        call = channel.send("all")
        channel.fail_all_calls(ConnectionLost("shutting down"))
        assert await outcomes_of([call]) == [MAYBE]
        assert [(await line.read())[2] for _ in range(2)] == ["own", "all"]

    async def test_a_call_that_waits_for_the_peer_when_its_time_is_up_may_run_yet(self, line):
        channel = await line.connect()
        filling = await fill(channel)
        call = channel.send("last", options(timeout=1.0))
        assert await outcomes_of([call]) == [MAYBE]
        messages = [await line.read() for _ in range(len(filling) + 1)]
        assert messages[-1][2][1] == "last"
        for future in filling:
            future.cancel()

    async def test_calls_end_with_what_the_connection_ended_with(self, line):
        channel = await line.connect()
        calls = [channel.send(n) for n in range(2)]
        await line.read()
        line.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in errors] == [ProtocolError] * 2
        assert errors[0] is not errors[1]
        assert errors[0].outcome is MAYBE  # type: ignore[union-attr]

    async def test_a_heartbeat_that_was_missed_leaves_it_open(self, line):
        channel = await line.connect(heartbeat=1.0)
        call = channel.send("spam")
        with pytest.raises(PeerUnresponsive) as caught:
            await call
        assert caught.value.outcome is MAYBE

    @pytest.mark.parametrize(("extended", "expected"), [(True, EXECUTED), (False, MAYBE)])
    async def test_an_exception_says_that_it_has_run_where_refusals_are_different(
        self, line, extended, expected
    ):
        channel = await line.connect(extended=extended)
        call = channel.send("spam")
        message_id = (await line.read())[1]
        line.write(EXCEPTION, message_id, "Traceback ...\nValueError: boom")
        with pytest.raises(RemoteException, match="boom") as caught:
            await call
        assert type(caught.value) is RemoteException
        assert caught.value.outcome is expected

    async def test_a_reply_that_cannot_be_decoded_says_that_it_has_run(self, line):
        channel = await line.connect()
        call = channel.send("spam")
        await line.read()
        line.write(RESULT, 1, {"__type__": [99, None]})
        with pytest.raises(DecodeError) as caught:
            await call
        assert caught.value.outcome is EXECUTED

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("lookup", RemoteLookupError),
            ("overloaded", Overloaded),
            ("deadline", DeadlineExceeded),
            ("not idempotent", NotIdempotent),
            ("bad request", RemoteException),
            ("of tomorrow", RemoteException),
        ],
    )
    @pytest.mark.parametrize("outcome", Outcome)
    async def test_a_typed_failure_is_an_exception_of_its_kind(self, line, kind, expected, outcome):
        channel = await line.connect()
        call = channel.send("spam")
        await line.read()
        line.write(FAILURE, 1, [kind, "what was wrong", outcome])
        with pytest.raises(expected, match="what was wrong") as caught:
            await call
        assert type(caught.value) is expected
        assert caught.value.outcome is outcome
        assert caught.value.origin == channel.peer

    @pytest.mark.parametrize(
        "content",
        [None, [], ["lookup", "text"], ["lookup", "text", "whatever"], ["a", "b", ["c"]], {}, 5],
        ids=str,
    )
    def test_a_failure_that_is_badly_formed_is_one_all_the_same(self, content):
        error = typed_failure("peer", content)
        assert type(error) is RemoteException
        assert error.remote_traceback == content
        assert error.outcome is MAYBE


class TestOneWay:
    async def test_is_done_when_it_was_written_and_leaves_nothing(self, line):
        channel = await line.connect()
        assert await channel.send("spam", options(one_way=True)) is None
        assert channel.pending == 0
        assert await line.read() == [CALL, 1, [{"one_way": True}, "spam"]]

    async def test_waits_until_the_peer_reads(self, line):
        channel = await line.connect()
        calls = await fill(channel)
        call = channel.send("spam", options(one_way=True))
        await asyncio.sleep(5)
        assert not call.done()
        for _ in calls:
            await line.read()
        assert await call is None
        for other in calls:
            other.cancel()

    async def test_to_a_peer_that_replies_all_the_same_drops_the_reply(self, line):
        channel = await line.connect(extended=False)
        for n, kind in enumerate((RESULT, EXCEPTION)):
            assert await channel.send("spam", options(one_way=True)) is None
            assert await line.read() == [0, n, "spam"]
            line.write(kind, n, "nobody is interested")
        await asyncio.sleep(0.5)
        assert channel.is_open
        assert nothing_is_left_of(channel)

    async def test_is_done_although_the_connection_is_lost_after_it_was_written(self, line):
        channel = await line.connect()
        call = channel.send("spam", options(one_way=True))
        channel._protocol.outbox.flush()
        channel.transport.abort()
        assert await call is None

    async def test_was_not_sent_if_the_connection_is_lost_in_the_same_turn(self, line):
        channel = await line.connect()
        channel.send("leaves at once").add_done_callback(asyncio.Future.exception)
        call = channel.send("spam", options(one_way=True))
        channel.transport.abort()
        with pytest.raises(ConnectionLost) as caught:
            await call
        assert caught.value.outcome is NOT_SENT


class TestCounting:
    async def test_calls_and_errors_are_counted(self, line):
        channel = await line.connect()
        counters = line.terms.counters
        good, bad = channel.send("good"), channel.send("bad")
        line.write(RESULT, 1, "fine")
        line.write(EXCEPTION, 2, "an error")
        await asyncio.gather(good, bad, return_exceptions=True)
        await channel.send("one way", options(one_way=True))
        assert (counters.calls_out, counters.errors) == (3, 1)
        assert counters.bytes_out > 0
        assert counters.bytes_in > 0


async def test_a_repetition_is_not_sent_to_a_peer_that_does_not_know_what_that_is(line):
    channel = await line.connect(extended=False)
    with pytest.raises(NotIdempotent) as caught:
        await channel.send("spam", options(again=True))
    assert caught.value.outcome is NOT_SENT
    first = channel.send("first")
    assert await line.read() == [0, 0, "first"]
    first.cancel()


async def test_a_bare_connection_repeats_nothing(line):
    channel = await line.connect()
    with pytest.raises(ValueError, match="retries= needs the proxy of a container"):
        channel.send("spam", options(retries=1))


@pytest.mark.parametrize("codec", [codecs.JSON, codecs.MsgPack, codecs.MsgPackBlosc])
async def test_a_time_without_an_end_is_none(codec):
    queue = local_queue.LocalQueue("for ever")
    server = await channels.start_server(
        queue, lambda channel: channel.serve(lambda r: r.reply(r.deadline)), codec=codec
    )
    channel = await channels.open_connection(queue, extensions=True, codec=codec)
    assert await channel.send("spam", options(timeout=float("inf"))) is None
    await channel.close()
    server.close()
