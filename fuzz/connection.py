"""A connection: whatever a peer sends, nothing is raised, nobody waits for ever, nothing stays.

The first byte of an input picks the codec, the second how the stream is cut into pieces (``0``: not
at all, ``1``: into bytes, others are seeds).  The rest are steps, with ``SEPARATOR`` between them:

=============  ==================================================================================
``=[0, 1, 2]`` JSON, whose value is sent in a frame, encoded by the connection's codec
``#...``       these bytes, without a frame around them
``!call``      make a call; ``!drop`` cancels the last one
``!pause``     the transport takes no more; ``!resume`` again
``!turn``      let everything run that can; ``!wait`` lets five seconds pass before that
``!close``     close the connection from this end; ``!eof``, ``!lost``: the peer or the net does
anything else  these bytes, in a frame
=============  ==================================================================================
"""

from __future__ import annotations

import asyncio
import json
import random
import reprlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from fuzz.adapter import (
    CODECS,
    MAX_FRAME,
    Connection,
    DecodeError,
    SerializationError,
    codec_of_connection,
)
from fuzz.checks import Finding, check
from fuzz.transport import HIGH_WATER, Loop, Transport

SEPARATOR = b"\n~"
REQUEST, RESULT, EXCEPTION, REQUEST_WITH_OPTIONS, TYPED_FAILURE = 0, 1, 2, 3, 7
TYPES = range(8)
HELLO = "aiomas/hello"
WAIT = 5.0


def converse(data: bytes) -> None:
    """Do what *data* says with a new connection."""
    loop = Loop()
    try:
        loop.run_until_complete(_Conversation(loop, data).run())
        check(not loop.complaints, f"the event loop was told: {loop.complaints}")
    finally:
        loop.close()


class _Conversation:
    def __init__(self, loop: Loop, data: bytes) -> None:
        codec, cuts, *_ = *data[:2], 0, 0
        self.codec = list(CODECS)[codec % len(CODECS)]
        self.steps = data[2:].split(SEPARATOR)
        self.whole, self.in_bytes = cuts == ord("0"), cuts == ord("1")
        self.random = random.Random(cuts)  # noqa: S311 - where to cut is no secret
        self.loop = loop
        self.transport = Transport(loop)
        self.connection = Connection(self.codec, self.transport, loop)
        self.transport.protocol = self.connection.protocol
        self.received = b""
        self.calls: list[asyncio.Future[Any]] = []
        self.paused = False
        self.disturbed = False  # something else than a message may have ended the connection

    async def run(self) -> None:
        stream = b""
        for step in self.steps:
            if step[:1] == b"!":
                await self.feed(stream)
                stream = b""
                await self.command(step[1:])
            else:
                stream += self.encoded(step)
        await self.feed(stream)
        await self.command(b"resume")
        await self.loop.settle()
        self.check_replies(_Seen(self.codec, self.received))
        await self.end()

    def encoded(self, step: bytes) -> bytes:
        if step[:1] == b"#":
            return step[1:]
        if step[:1] == b"=":
            try:
                step = codec_of_connection(self.codec).encode(json.loads(step[1:]))
            except (ValueError, RecursionError, SerializationError):
                step = step[1:]
        return len(step).to_bytes(4, "big") + step

    async def feed(self, stream: bytes) -> None:
        for piece in self.pieces(stream):
            if self.transport.is_closing() or not self.transport.reading:
                return
            self.received += piece
            try:
                self.connection.protocol.data_received(piece)
            except Exception as exc:
                msg = f"data_received raised {exc!r:.500}"
                raise Finding(msg) from exc
            check(
                self.connection.open or self.transport.is_closing(),
                "the connection is neither open nor closed",
            )
            if self.random.random() < 0.5:  # noqa: PLR2004 - as likely as not
                await self.loop.settle()

    def pieces(self, stream: bytes) -> Iterator[bytes]:
        position = 0
        while position < len(stream):
            size = len(stream) if self.whole else 1 if self.in_bytes else self.random.randint(1, 64)
            yield stream[position : position + size]
            position += size

    async def command(self, name: bytes) -> None:  # noqa: C901, PLR0912 - a table of what there is
        if self.transport.is_closing():
            return
        protocol = self.connection.protocol
        match name:
            case b"call":
                if self.connection.open:
                    self.calls.append(self.connection.call())
            case b"drop":
                if self.calls:
                    self.calls[-1].cancel()
            case b"pause" if not self.paused:
                self.paused = True
                self.transport.buffered = 2 * HIGH_WATER
                protocol.pause_writing()
            case b"resume" if self.paused:
                self.paused = False
                self.transport.buffered = 0
                protocol.resume_writing()
            case b"turn":
                await self.loop.settle()
            case b"wait":
                self.loop.advance(WAIT)
                self.disturbed = True
                await self.loop.settle()
            case b"close":
                self.disturbed = True
                self.connection.close()
            case b"eof":
                self.disturbed = True
                if not protocol.eof_received():
                    self.transport.close()
            case b"lost":
                self.disturbed = True
                self.transport.lose(OSError("no route to host"))
            case _:
                pass

    def check_replies(self, seen: _Seen) -> None:
        """See that what was written answers what was received, and nothing else."""
        replies: Counter[int] = Counter()
        made = 0
        for kind, message_id in self.messages():
            if kind in {RESULT, EXCEPTION, TYPED_FAILURE}:
                replies[message_id] += 1
            elif kind in {REQUEST, REQUEST_WITH_OPTIONS}:
                check(message_id == made, f"request {made} has the number {message_id}")
                made += 1
        allowed = seen.requests + seen.maybe_requests
        twice = replies - allowed
        check(not twice, f"more replies than requests: {twice}")
        closing = self.transport.is_closing()
        if seen.bad:
            check(closing, "the connection is open after bytes that are no message")
        if not closing and not seen.maybe_requests:
            left = (seen.requests - replies).total()
            serving = self.connection.serving
            check(left == serving, f"{left} requests without a reply, {serving} are being served")
            check(self.transport.reading or serving, "reading stays paused, and nothing is served")
        if not self.disturbed and seen.only_requests:
            check(not closing, "the connection was closed, and all messages were requests")

    def messages(self) -> Iterator[tuple[int, int]]:
        """Yield type and id of all messages that were written, and see that each of them is one."""
        codec = codec_of_connection(self.codec)
        written, position = bytes(self.transport.written), 0
        while position < len(written):
            size = int.from_bytes(written[position : position + 4], "big")
            position += 4 + size
            check(position <= len(written), "half a frame was written")
            check(size <= MAX_FRAME, f"a frame of {size} bytes was written")
            if (
                position == len(written)
                and written[position - size :] == self.connection.last_words
            ):
                return  # in the codec of the peer, which is another one
            try:
                message, _ = codec.decode_message(written[position - size : position])
            except DecodeError as exc:
                msg = f"an unreadable frame was written: {exc}"
                raise Finding(msg) from exc
            check(_is_message(message), f"{reprlib.repr(message):.100} was written")
            yield message[0], message[1]

    async def end(self) -> None:
        """Let the connection end, and see what is left of it."""
        self.transport.lose(None)
        await self.loop.settle()
        for call in self.calls:
            check(call.done(), "a call has no outcome")
            if not call.cancelled():
                # Also that its text can be made, whatever the peer has sent.
                str(call.exception())
        check(self.connection.pending == 0, "calls are kept after the end")
        check(self.connection.serving == 0, "calls are being served after the end")
        check(self.connection.ended, "those who wait for the end were not told")
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        check(not tasks, f"tasks are left: {tasks}")
        check(not self.loop.timers, f"timers are left: {self.loop.timers}")


class _Seen:
    """What a peer has sent, seen by somebody who has no state but the place in the stream."""

    def __init__(self, codec_name: str, stream: bytes) -> None:
        self.requests: Counter[int] = Counter()  # have one reply
        self.maybe_requests: Counter[int] = Counter()  # have one at the most
        self.bad = False
        self.only_requests = True  # that nobody may take amiss
        codec = codec_of_connection(codec_name)
        position = 0
        while position + 4 <= len(stream) and not self.bad:
            size = int.from_bytes(stream[position : position + 4], "big")
            payload = stream[position + 4 : position + 4 + size]
            position += 4 + size
            if size > MAX_FRAME:
                self.bad = True
            elif len(payload) == size:
                self._take(codec, payload)
        self.only_requests &= not self.bad

    def _take(self, codec: Any, payload: bytes) -> None:
        try:
            message, _ = codec.decode_message(payload)
        except DecodeError:
            self.bad = True
            return
        if not _is_message(message):
            self.bad = True
            return
        kind, message_id, content = message
        plain = type(kind) is int and kind == REQUEST
        hello = isinstance(content, list | tuple) and HELLO in content[:1]
        if plain and not hello:
            self.requests[message_id] += 1
            self.only_requests &= "hang_up" not in str(content)[:100]
        else:
            self.only_requests = False
            self.maybe_requests[message_id] += 1


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, list | tuple)
        and len(message) == 3  # noqa: PLR2004 - type, id, content
        and type(message[1]) is int
        and isinstance(message[0], int | float)
        and message[0] in TYPES
    )
