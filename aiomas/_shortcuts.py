"""The shortest way for ordinary messages, past the layers that can do everything.

Nearly all messages are short requests without options, and their results, while nothing is in
their way.  What `_session`, `_outgoing`, `_intake`, `_outbox` and `_protocol` do with them is done
here in one piece each: a function call costs as much as most of the steps in between, and what a
function needs is in variables of its own, which are found faster than attributes.  That doubles
the number of calls per second.

Each of these functions hands over to the layers whatever is not ordinary, and has done nothing by
then; so what they promise is said, and tested, there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from aiomas._current import CallOptions, Now, serving
from aiomas._intake import Intake
from aiomas._outbox import BATCH, Outbox
from aiomas._session import REQUEST, RESULT, Session, State
from aiomas._stats import Counters
from aiomas._wire import LARGE_PAYLOAD, SHORT, SHORT_HEADERS
from aiomas.codecs import Codec, Unpack

Future = asyncio.Future[Any]
Send = Callable[..., Future]
Answer = Callable[[int, Any], None]
Receive = Callable[[Iterable[bytes], Unpack], bool]

_OPEN = State.OPEN  # to find a member of an enumeration takes as long as calling a function


class Watch:
    """Whether something has to be done for each request that is sent, beside sending it."""

    __slots__ = ("each", "of_handlers", "planned")

    def __init__(self) -> None:
        self.each = False
        """Whether that is so: there are deadlines, say, or asyncio's debug mode."""
        self.planned = False
        """Whether somebody will soon look whether callers have given up."""
        self.of_handlers: set[int] = set()
        """The numbers of the requests that are part of serving others."""


def sender(
    session: Session[Future],
    codec: Codec,
    outbox: Outbox,
    counters: Counters,
    watch: Watch,
    loop: asyncio.AbstractEventLoop,
    plan: Callable[[], None],
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
        plan: lets somebody look whether its caller gives up.
        otherwise: does all of this for others.
    """
    codec_encode: Callable[[Any], bytes | memoryview] = codec.encode
    encode = codec_encode
    waiting, is_closing = session.waiting, outbox.is_closing
    put, put_long, max_frame = outbox.send, outbox.send_long, session.max_frame
    batch, flush = outbox.batch, outbox.flush
    now, create_future, of_handlers = Now.of(loop), loop.create_future, watch.of_handlers

    def send(content: Any, options: CallOptions | None = None) -> Future:
        nonlocal encode
        call = serving.get()
        if (
            options is not None
            or watch.each
            or outbox.blocked
            or session.state is not _OPEN
            or is_closing()
            or (call is not None and call.deadline is not None)
        ):
            return otherwise(content, options)
        number = session.next_id
        try:
            payload = encode([REQUEST, number, content])
        except Exception:  # noqa: BLE001 - it cannot be encoded, which is said there
            return otherwise(content, options)
        size = len(payload)
        if size > max_frame:
            return otherwise(content, options)
        session.next_id = number + 1
        waiting[number] = future = create_future()
        if size < SHORT:
            if batch and outbox.batch_first is not None:  # then this is all that Outbox.send() does
                batch.append(SHORT_HEADERS[size] + payload)
                if len(batch) >= BATCH:
                    flush()
            else:
                put(SHORT_HEADERS[size] + payload, number)
            if encode is not codec_encode:
                encode = codec_encode
        else:
            put_long(payload, number)
            if size >= LARGE_PAYLOAD:  # so will the next one be, probably
                encode = codec.encode_large
        counters.calls_out += 1
        if now.server is not None or (call is not None and call.active):
            of_handlers.add(number)
        if not watch.planned:
            plan()
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
    codec_encode: Callable[[Any], bytes | memoryview] = codec.encode
    encode = codec_encode
    put, put_long, max_frame = outbox.send, outbox.send_long, session.max_frame
    batch, flush, short = outbox.batch, outbox.flush, min(SHORT, max_frame)

    def answer(number: int, result: Any) -> None:
        nonlocal encode
        if session.state is not _OPEN or outbox.blocked:
            otherwise(number, result)
            return
        try:
            payload = encode([RESULT, number, result])
        except Exception:  # noqa: BLE001 - it cannot be encoded, which is said there
            otherwise(number, result)
            return
        size = len(payload)
        if size < short:
            if batch:  # then this is all that Outbox.send() does
                batch.append(SHORT_HEADERS[size] + payload)
                if len(batch) >= BATCH:
                    flush()
            else:
                put(SHORT_HEADERS[size] + payload)
            if encode is not codec_encode:
                encode = codec_encode
        elif size <= max_frame:
            put_long(payload)
            if size >= LARGE_PAYLOAD:  # so will the next one be, probably
                encode = codec.encode_large
        else:
            otherwise(number, result)

    return answer


def receiver(  # noqa: C901 - in one piece, which is what this module is for
    session: Session[Future],
    codec: Codec,
    intake: Intake,
    outbox: Outbox,
    counters: Counters,
    source: Any,
    otherwise: Callable[[bytes], bool],
) -> Receive:
    """Return a function that takes messages, as payloads that hold no objects.

    It returns whether all was well.

    Args:
        session: knows what was sent and what comes next.
        codec: the codec of the messages.
        intake: has what serves requests.
        outbox: takes what is answered.
        counters: count them.
        source: the connection, for those who serve.
        otherwise: takes any other message, and returns whether all was well.
    """
    waiting, shallow, is_shallow = session.waiting, codec.max_nesting, codec.is_shallow

    def receive(payloads: Iterable[bytes], unpack: Unpack) -> bool:  # noqa: C901
        serve = None
        for payload in payloads:
            size = len(payload)
            if session.settled and (size <= shallow or is_shallow(payload)):
                try:
                    kind, number, content = unpack(payload)
                except Exception:  # noqa: BLE001 - it gets a closer look below
                    kind = number = None
                if type(number) is not int or type(kind) is not int:
                    pass
                elif kind == RESULT:
                    future = waiting.pop(number, None)
                    if future is not None:
                        if not future.done():  # else its caller has given up
                            future.set_result(content)
                        continue
                elif (
                    kind == REQUEST
                    and number == session.next_of_peer
                    and session.state is _OPEN
                    and not outbox.blocked
                    and not intake.waiting
                    and (not intake.requests or intake.limit_hit(size) is None)
                    and (serve := serve or intake.begin_turn(source)) is not None
                ):
                    session.next_of_peer = number + 1
                    if serve(source, number, content, size):
                        counters.calls_in += 1
                        continue
                    session.next_of_peer = number
            if not otherwise(payload):
                return False
        return True

    return receive
