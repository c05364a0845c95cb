"""The request/reply state machine of one connection, without any I/O.

Bytes go in, events come out, and each thing that is to be sent is returned as a frame.  A message
is ``[type, id, content]``, encoded by a codec; the id is the requester's and is unique per
connection and direction.  What a request means is not known here.
"""

from __future__ import annotations

import enum
import reprlib
from collections.abc import Collection, Iterator
from typing import Any, Generic, TypeVar

from aiomas._wire import MAX_FRAME, FrameReader, frame
from aiomas.codecs import Codec
from aiomas.exceptions import ConnectionLost, DecodeError, ProtocolError, SerializationError

W = TypeVar("W")

REQUEST = 0
RESULT = 1
EXCEPTION = 2
# Not on the wire: the content of the message holds an object that cannot be decoded.
BAD_REQUEST = "bad request"
BAD_REPLY = "bad reply"


class State(enum.Enum):
    """Where a connection is in its life; it only ever moves on."""

    OPEN = "open"
    CLOSING = "closing"  # what was sent still leaves, nothing more is taken
    CLOSED = "closed"


class Session(Generic[W]):
    """One end of a connection.

    A *waiter* is whatever the caller wants back with the reply; it is not touched here.

    Args:
        codec: encodes and decodes the messages.
        max_frame: the largest message, in bytes, that is sent or accepted.
    """

    def __init__(self, codec: Codec, max_frame: int = MAX_FRAME) -> None:
        self.state = State.OPEN
        self._codec = codec
        self._max_frame = max_frame
        self._reader = FrameReader(max_frame)
        self._pending: dict[int, W] = {}
        self._next_id = 0

    @property
    def pending(self) -> Collection[W]:
        """The waiters of all requests that have no reply yet."""
        return self._pending.values()

    def request(self, content: Any, waiter: W) -> bytes:
        """Return the frame of a new request, whose reply will come with *waiter*.

        Raises:
            SerializationError: *content* cannot be encoded, or is too large.
            ConnectionLost: this end was closed.
        """
        if self.state is not State.OPEN:
            msg = f"The connection is {self.state.value}; the request was not sent"
            raise ConnectionLost(msg)
        message_id = self._next_id
        data = self._frame(REQUEST, message_id, content)
        self._next_id = message_id + 1
        self._pending[message_id] = waiter
        return data

    def reply(self, kind: int, message_id: int, content: Any) -> bytes:
        """Return the frame that answers request *message_id*; *kind* is RESULT or EXCEPTION.

        Raises:
            SerializationError: *content* cannot be encoded, or is too large.
        """
        return self._frame(kind, message_id, content)

    def feed(self, data: bytes) -> Iterator[tuple[int | str, Any, Any]]:
        """Take what was received and yield what it means, one event for each message.

        The events are ``(REQUEST, id, content)``, ``(RESULT, waiter, content)``,
        ``(EXCEPTION, waiter, content)``, ``(BAD_REQUEST, id, DecodeError)`` and
        ``(BAD_REPLY, waiter, DecodeError)``.

        Raises:
            ProtocolError: the bytes are no message; the connection is of no use any more.
        """
        for payload in self._reader.feed(data):
            event = self._event(payload)
            if event is not None:
                yield event

    def close(self) -> list[W]:
        """Take no more requests; return the waiters that will get no reply."""
        if self.state is State.OPEN:
            self.state = State.CLOSING
        return self._abandon()

    def lost(self) -> list[W]:
        """The connection has ended; return the waiters that will get no reply."""
        self.state = State.CLOSED
        return self._abandon()

    def _abandon(self) -> list[W]:
        waiters = list(self._pending.values())
        self._pending.clear()
        return waiters

    def _frame(self, kind: int, message_id: int, content: Any) -> bytes:
        try:
            payload = self._codec.encode([kind, message_id, content])
        except SerializationError:
            raise
        except Exception as exc:  # a codec of a user, which may raise anything
            msg = f"{self._codec!r} cannot encode a message: {exc!r}"
            raise SerializationError(msg) from exc
        if len(payload) > self._max_frame:
            msg = f"A message of {len(payload)} bytes is over the limit max_frame={self._max_frame}"
            raise SerializationError(msg)
        return frame(payload)

    def _event(self, payload: bytes) -> tuple[int | str, Any, Any] | None:
        try:
            message, bad_content = self._codec.decode_message(payload)
        except DecodeError as exc:
            msg = f"an unreadable frame of {len(payload)} bytes: {exc}"
            raise ProtocolError(msg) from exc
        try:
            kind, message_id, content = message
        except (TypeError, ValueError):
            kind = message_id = content = None
        if type(message_id) is not int or kind not in (REQUEST, RESULT, EXCEPTION):
            msg = f"a message that is no [type, id, content]: {reprlib.repr(message):.100}"
            raise ProtocolError(msg)

        if kind == REQUEST:
            if bad_content is not None:
                return BAD_REQUEST, message_id, bad_content
            return REQUEST, message_id, content

        waiter = self._pending.pop(message_id, None)
        if waiter is None:
            if 0 <= message_id < self._next_id:
                return None  # whoever made this request has given up or was answered already
            msg = f"a reply to request {message_id}, which was never made"
            raise ProtocolError(msg)
        if bad_content is not None:
            return BAD_REPLY, waiter, bad_content
        return kind, waiter, content
