"""The shortest way for ordinary messages, past the layers that can do everything.

Nearly all messages are short requests without options, and their results, while nothing is in
their way.  What `_session`, `_outgoing`, `_intake`, `_outbox` and `_protocol` do with them is done
here in one piece each: a function call costs as much as most of the steps in between, and what a
function needs is in variables of its own, which are found faster than attributes.  That doubles
the number of calls per second.

Each of these functions hands over to the layers whatever is not ordinary, and has done nothing by
then, or undone it; so what they promise is said, and tested, there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from aiomas._current import CallOptions, Now, serving
from aiomas._heartbeat import Heartbeat
from aiomas._intake import Intake, Replier
from aiomas._outbox import Outbox
from aiomas._session import REQUEST, RESULT, Event, Session
from aiomas._stats import Counters
from aiomas._wire import HEADER_SIZE, LARGE_FRAME, SHORT, SHORT_HEADERS, unpack_header
from aiomas.codecs import Codec

Future = asyncio.Future[Any]
Send = Callable[..., Future]
Answer = Callable[[int, Any], None]
Receive = Callable[[bytes], None]

# Bytes in which a search takes little time, however few messages they are: as much as is received
# in one go, and what was left before it.
_LONGEST_CHUNK = LARGE_FRAME


class Watch:
    """Whether something has to be done for each request that is sent, beside sending it."""

    __slots__ = ("idle", "of_handlers")

    def __init__(self) -> None:
        self.idle = False
        """Whether that is not so.

        There are no deadlines, say; and somebody will soon look whether callers have given up.
        """
        self.of_handlers: set[int] = set()
        """The numbers of the requests that are part of serving others."""


def sender(  # noqa: C901 - in one piece, which is what this module is for
    session: Session[Future],
    codec: Codec,
    outbox: Outbox,
    counters: Counters,
    watch: Watch,
    loop: asyncio.AbstractEventLoop,
    otherwise: Send,
) -> Send:
    """Return a function that sends a request and returns the future of its reply.

    Args:
        session: numbers it.
        codec: encodes it.
        outbox: takes it.
        counters: count it.
        watch: what has to be done for it.
        loop: the event loop.
        otherwise: does all of this for others.
    """
    usual = encode = _encoder(codec)
    waiting, is_closing = session.waiting, outbox.is_closing
    put, put_long, max_frame = outbox.send, outbox.send_long, session.max_frame
    batch, batch_size, flush = outbox.batch, outbox.batch_size, outbox.flush
    short = min(SHORT, max_frame)
    now, create_future, of_handlers = Now.of(loop), loop.create_future, watch.of_handlers
    get_serving = serving.get

    def send(content: Any, options: CallOptions | None = None) -> Future:
        nonlocal usual, encode
        call = get_serving()
        if (
            options is not None
            or outbox.blocked
            or not watch.idle
            or is_closing()
            or (call is not None and call.deadline is not None)
        ):
            return otherwise(content, options)
        number = session.next_id
        try:
            payload = encode([REQUEST, number, content])
        except Exception:  # noqa: BLE001 - it holds objects, or cannot be encoded, as is said there
            usual = encode = codec.encode  # objects do not come alone
            return otherwise(content, options)
        size = len(payload)
        if size < short:
            session.next_id = number + 1
            waiting[number] = future = create_future()
            if outbox.batch_first is not None:  # then this is all that Outbox.send() does
                batch.append(SHORT_HEADERS[size] + payload)
                if len(batch) >= batch_size:
                    flush()
            else:
                put(SHORT_HEADERS[size] + payload, number)
            if encode is not usual:
                encode = usual
        elif size <= max_frame:
            session.next_id = number + 1
            waiting[number] = future = create_future()
            put_long(payload, number)
            if size >= LARGE_FRAME:  # so will the next one be, probably
                encode = codec.encode_large
        else:
            return otherwise(content, options)
        counters.calls_out += 1
        if now.server is not None or (call is not None and call.active):
            of_handlers.add(number)
        return future

    return send


def answerer(session: Session[Future], codec: Codec, outbox: Outbox, otherwise: Answer) -> Answer:
    """Return a function that sends the result of a request.

    Args:
        session: the state of the connection.
        codec: encodes it.
        outbox: takes it.
        otherwise: does that for others.
    """
    usual = encode = _encoder(codec)
    put, put_long, max_frame = outbox.send, outbox.send_long, session.max_frame
    batch, batch_size, flush = outbox.batch, outbox.batch_size, outbox.flush
    short = min(SHORT, max_frame)

    def answer(number: int, result: Any) -> None:
        nonlocal usual, encode
        if outbox.blocked:
            otherwise(number, result)
            return
        try:
            payload = encode([RESULT, number, result])
        except Exception:  # noqa: BLE001 - it holds objects, or cannot be encoded, as is said there
            usual = encode = codec.encode  # objects do not come alone
            otherwise(number, result)
            return
        size = len(payload)
        if size < short:
            if batch:  # then this is all that Outbox.send() does
                batch.append(SHORT_HEADERS[size] + payload)
                if len(batch) >= batch_size:
                    flush()
            else:
                put(SHORT_HEADERS[size] + payload)
            if encode is not usual:
                encode = usual
        elif size <= max_frame:
            put_long(payload)
            if size >= LARGE_FRAME:  # so will the next one be, probably
                encode = codec.encode_large
        else:
            otherwise(number, result)

    return answer


def _encoder(codec: Codec) -> Callable[[Any], bytes | memoryview]:
    """Return what most messages can be encoded with."""
    shortcuts = codec.shortcuts()
    return codec.encode if shortcuts is None else shortcuts.encode


class Connection(Replier, Protocol):
    """Where messages come from; the channel's protocol."""

    heartbeat: Heartbeat | None
    """Finds out that the peer has vanished."""

    def take_all(self, events: Iterator[Event]) -> bool:
        """Do what messages ask for, and return whether there is nothing wrong with them."""


def receiver(  # noqa: C901, PLR0915 - as above
    connection: Connection,
    session: Session[Future],
    codec: Codec,
    intake: Intake,
    outbox: Outbox,
    counters: Counters,
    loop: asyncio.AbstractEventLoop,
) -> Receive:
    """Return a function that takes what was received; nothing in it raises anything there.

    Args:
        connection: the connection, for those who serve, and for all other messages.
        session: knows what was sent and what comes next.
        codec: the codec of the messages.
        intake: has what serves requests.
        outbox: takes what is answered.
        counters: count them.
        loop: the event loop.
    """
    reader, waiting = session.reader, session.waiting
    most, most_bytes = intake.usual
    max_frame, time = session.max_frame, loop.time
    shallow, is_shallow = min(codec.max_nesting, max_frame), codec.is_shallow
    shortcuts = codec.shortcuts()
    unpack, mark = (None, b"") if shortcuts is None else (shortcuts.decode, shortcuts.mark)

    def receive(data: bytes) -> None:  # noqa: C901, PLR0912 - as above
        size = len(data)
        counters.bytes_in += size
        if connection.heartbeat is not None:
            connection.heartbeat.heard_at = time()
        if outbox.said:
            outbox.heard()
        if reader.parts:
            data = reader.join(data)
            size = len(data)
        if (
            unpack is None
            or size > _LONGEST_CHUNK
            # "mark in data" takes four times as long: it raises an error inside, as no number.
            or data.partition(mark)[1]
            or not session.settled
        ):
            connection.take_all(session.events(reader.cut(data)))
            return
        serve = None
        position, start = 0, HEADER_SIZE
        while start <= size:
            (length,) = unpack_header(data, position)
            end = start + length
            if end > size:
                break
            payload = data[start:end]
            position, start = end, end + HEADER_SIZE
            if length <= shallow or (length <= max_frame and is_shallow(payload)):
                try:
                    kind, number, content = unpack(payload, use_list=False)
                    # (Small numbers are there once only, where not, it takes the long way.)
                    if kind is RESULT and type(number) is int:
                        waiting.pop(number).set_result(content)
                        continue
                except asyncio.InvalidStateError:  # its caller has given up
                    continue
                except Exception:  # noqa: BLE001 - it gets a closer look below
                    kind = None
                if (
                    kind is REQUEST
                    and type(number) is int
                    and number == session.next_of_peer
                    and not outbox.blocked
                    and (
                        not intake.requests
                        or (intake.requests < most and intake.bytes < most_bytes)
                        or intake.limit_hit(length) is None
                    )
                    and (serve := serve or intake.begin_turn(connection)) is not None
                ):
                    session.next_of_peer = number + 1
                    counters.calls_in += 1
                    if serve(connection, number, content, length):
                        continue
                    counters.calls_in -= 1
                    session.next_of_peer = number
            if length > max_frame:  # to those who complain of it
                position = end - length - HEADER_SIZE
                break
            serve = None  # who knows how things are after this
            if not connection.take_all(session.events((payload,))):
                return
        if position:
            reader.begun = True
        if position < size:
            connection.take_all(session.events(reader.cut(data[position:])))

    return receive


def receive_nothing(data: bytes) -> None:
    """Take what comes after the end of a connection."""
    del data


def answer_nobody(message_id: int, result: Any) -> None:
    """Take the result of what a connection has left behind."""
    del message_id, result
