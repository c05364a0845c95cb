"""The request/reply state machine of one connection, without any I/O.

Bytes go in, events come out, and each thing that is to be sent is returned as a frame.  A message
is ``[type, id, content]``, encoded by a codec; the id is the requester's and is unique per
connection and direction.  What a request means is not known here.

Once both ends have agreed on it (see ``aiomas._hello``), there are further types of messages:
requests with options, failures that say what kind they are of, and messages that have no reply.
"""

from __future__ import annotations

import enum
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Generic, TypeVar

from aiomas import _hello
from aiomas._hello import LARGEST_FIRST, Hello
from aiomas._limits import Limits
from aiomas._wire import (
    SHORT,
    SHORT_HEADERS,
    FrameReader,
    Spare,
    TlsRecordError,
    frame,
    pack_header,
)
from aiomas.codecs import Codec
from aiomas.exceptions import (
    ConnectionLost,
    DecodeError,
    Outcome,
    ProtocolError,
    SerializationError,
)

W = TypeVar("W")

REQUEST = 0
RESULT = 1
EXCEPTION = 2
# Only where both ends have agreed:
CALL = 3  # content: [options, content of a request]
CANCEL = 4  # of the request with this id
PING = 5  # id: the sender's clock, in ms
PONG = 6  # id: that of the ping; content: the sender's clock, in ms
FAILURE = 7  # content: [kind, text, outcome]
# Not on the wire: the content of the message holds an object that cannot be decoded ...
BAD_REQUEST = "bad request"
BAD_REPLY = "bad reply"
# ... and the first request of a peer that would like to know what it can do with us.
HELLO = "hello"
# ... and a request of a peer that has not shown the proof that we expect.
STRANGER = "stranger"

_DEFAULTS = Limits()
_EXTENDED = range(CALL, FAILURE + 1)


class State(enum.Enum):
    """Where a connection is in its life; it only ever moves on."""

    OPEN = "open"
    CLOSING = "closing"  # what was sent still leaves, nothing more is taken
    CLOSED = "closed"


# As names of this module: it takes long to find a member of an enumeration (in Python 3.11).
_OPEN, _CLOSING, _CLOSED = State.OPEN, State.CLOSING, State.CLOSED

Event = tuple[int | str, Any, Any, int]


class Session(Generic[W]):
    """One end of a connection.

    A *waiter* is whatever the caller wants back with the reply; it is not touched here.

    Args:
        codec: encodes and decodes the messages.
        limits: the limits of the connection.
        accepting: whether this is the end that was dialled, which the other one may greet.
        expects: the proof that the peer has to show before it is served.
        plain: the codec without any serializers; what a stranger sends is read with it.
        spare: where buffers for large frames come from.
    """

    def __init__(
        self,
        codec: Codec,
        limits: Limits = _DEFAULTS,
        *,
        accepting: bool = True,
        expects: str | None = None,
        plain: Codec | None = None,
        spare: Spare | None = None,
    ) -> None:
        self.state = _OPEN
        self.extended = False
        """Whether both ends have agreed on the extensions."""
        self.next_id = 0
        """The id of the next request; all lower ones have been given away."""
        self.last_words: bytes | None = None
        """A frame that tells the peer why it is given up, after a :class:`ProtocolError`."""
        self.expects: str | None = expects
        """The proof that the peer has to show, until it has shown it."""
        self.accepting = accepting
        """Whether this is the end that was dialled."""
        self._codec = codec
        self._encode = codec.encode
        # A serializer is code of the user, which runs for nobody who is a stranger.
        self._reading_codec = plain or codec
        self._max_frame = limits.max_frame
        # A stranger has nothing larger to say than its hello.
        largest = limits.max_frame if plain is None else min(limits.max_frame, LARGEST_FIRST)
        self.reader = FrameReader(largest, spare)
        """Cuts what is received into messages."""
        self.waiting: dict[int, W] = {}
        """The waiters of all requests that have no reply yet, by their ids."""
        self._hello_id: int | None = None  # of our own hello, while it has no answer
        self.settled = expects is None
        """Whether nobody has to introduce himself (any more)."""
        self._heard = False  # whether a message has arrived
        self.next_of_peer: int | None = None
        """The id of the peer's next request, after the first one."""

    @property
    def pending(self) -> Collection[W]:
        """The waiters of all requests that have no reply yet."""
        return self.waiting.values()

    def request(self, content: Any, waiter: W, options: dict[str, Any] | None = None) -> bytes:
        """Return the frame of a new request, whose reply will come with *waiter*.

        Args:
            content: what is sent.
            waiter: comes back with the reply.
            options: travel with the request, if the connection is :attr:`extended`.

        Raises:
            SerializationError: *content* cannot be encoded, or is too large.
            ConnectionLost: this end was closed.
        """
        message_id = self.next_id
        data = self.one_way(content, options)
        self.waiting[message_id] = waiter
        return data

    def one_way(self, content: Any, options: dict[str, Any] | None = None) -> bytes:
        """Return the frame of a new request that nobody waits for; raises as :meth:`request`."""
        if self.state is not _OPEN:
            msg = f"The connection is {self.state.value}; the request was not sent"
            raise ConnectionLost(msg).of_call(Outcome.NOT_SENT)
        message_id = self.next_id
        if options is None:
            data = self.frame(REQUEST, message_id, content)
        else:
            data = self.frame(CALL, message_id, (options, content))
        self.next_id = message_id + 1
        return data

    def take_back(self, message_id: int) -> None:
        """Forget the last request, which was not sent: the next one has its id."""
        self.waiting.pop(message_id, None)
        self.next_id = message_id

    def hello(self, hello: Hello, waiter: W) -> bytes:
        """Return the frame of the hello, which has to be the first request; raises as `request`."""
        self._hello_id = self.next_id
        self.settled = False
        return self.request(_hello.question(hello), waiter)

    def welcome(self, message_id: int, hello: Hello, *, extended: bool) -> bytes:
        """Return the frame that accepts the peer's hello, and with it the peer."""
        self.extended = extended
        self.expects = None
        self.settled = True
        self._reading_codec = self._codec
        self.reader.set_max_frame(self._max_frame)
        return self.frame(RESULT, message_id, hello.content())

    def cancel(self, message_id: int) -> bytes:
        """Return the frame that tells the peer that nobody waits for a reply any more."""
        return self.frame(CANCEL, message_id, None)

    def ping(self, now: float) -> bytes:
        """Return the frame that asks for a sign of life at *now* seconds."""
        return self.frame(PING, round(now * 1000), None)

    def pong(self, ping_id: int, now: float) -> bytes:
        """Return the frame that answers a ping at *now* seconds."""
        return self.frame(PONG, ping_id, round(now * 1000))

    def frame(self, kind: int, message_id: int, content: Any) -> bytes:
        """Return the frame of a message, such as the reply to a request: RESULT or EXCEPTION.

        Raises:
            SerializationError: *content* cannot be encoded, or is too large.
        """
        try:
            payload = self._encode([kind, message_id, content])
        except SerializationError as exc:
            exc.of_call(Outcome.NOT_SENT)
            raise
        except Exception as exc:  # a codec of a user, which may raise anything
            msg = f"{self._codec!r} cannot encode a message: {exc!r}"
            raise SerializationError(msg).of_call(Outcome.NOT_SENT) from exc
        size = len(payload)
        if size > self._max_frame:
            msg = f"A message of {size} bytes is over the limit max_frame={self._max_frame}"
            raise SerializationError(msg).of_call(Outcome.NOT_SENT)
        return (SHORT_HEADERS[size] if size < SHORT else pack_header(size)) + payload

    def failure(self, message_id: int, kind: str, text: str, outcome: Outcome) -> bytes:
        """Return the frame that says why there is no result, as precisely as the peer can take."""
        if self.extended:
            return self.frame(FAILURE, message_id, (kind, text, str(outcome)))
        return self.frame(EXCEPTION, message_id, text)

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take what was received and yield what it means, one event for each message.

        The events are ``(kind, ref, content, size)``, where *size* is that of the message in
        bytes.  Kind and reference are ``REQUEST, id``; ``CALL, id`` (whose content are options and
        content); ``RESULT, waiter``; ``EXCEPTION, waiter``; ``FAILURE, waiter``; ``CANCEL, id``;
        ``PING, id``; ``PONG, id``; ``HELLO, id``; ``STRANGER, id``; and with a
        :class:`~aiomas.exceptions.DecodeError` as content ``BAD_REQUEST, id`` and
        ``BAD_REPLY, waiter``.

        Raises:
            ProtocolError: the bytes are no message; the connection is of no use any more.
        """
        return self.events(self.reader.cut(self.reader.join(data)))

    def fill(self, size: int) -> Iterator[Event]:
        """Do the same for *size* bytes that were received into the `room` of our reader."""
        return self.events(self.reader.fill(size))

    def events(self, payloads: Iterable[bytes] | Iterable[memoryview]) -> Iterator[Event]:
        """Yield what the messages in *payloads* mean; see :meth:`feed`."""
        try:
            for payload in payloads:
                message, bad_content = self._decode(payload)
                self._heard = True
                try:
                    kind, message_id, content = message
                except (TypeError, ValueError):
                    raise _no_message(message) from None
                if type(message_id) is not int or type(kind) is not int:
                    raise _no_message(message)
                event = self._event(kind, message_id, content, len(payload), bad_content)
                if event is not None:
                    yield event
            self.reader.check()
        except TlsRecordError as exc:
            if not exc.alert:  # what is no TLS tells a client more than a connection that just ends
                self.last_words = self.frame(EXCEPTION, 0, "HandshakeError: there is no TLS here")
            raise
        except ProtocolError:
            if self.accepting and self.expects is not None and self.last_words is None:
                text = f"HandshakeError: {_hello.STRANGER}"
                self.last_words = self.frame(EXCEPTION, 0, text)
            raise

    def forget(self, given_up: Callable[[W], bool]) -> list[int]:
        """Forget all requests whose waiter has *given_up*; return their ids."""
        ids = [message_id for message_id, waiter in self.waiting.items() if given_up(waiter)]
        for message_id in ids:
            del self.waiting[message_id]
        return ids

    def forget_one(self, message_id: int) -> list[int]:
        """Forget a request, if it has no reply yet; return its id then."""
        return [] if self.waiting.pop(message_id, None) is None else [message_id]

    def close(self) -> dict[int, W]:
        """Take no more requests; return the waiters that will get no reply, by their ids."""
        if self.state is _OPEN:
            self.state = _CLOSING
        return self._abandon()

    def lost(self) -> dict[int, W]:
        """The connection has ended; return the waiters that will get no reply, by their ids."""
        self.state = _CLOSED
        return self._abandon()

    def waiters(self) -> dict[int, W]:
        """Return a copy of :attr:`waiting`."""
        return dict(self.waiting)

    def _abandon(self) -> dict[int, W]:
        waiters = self.waiters()
        self.waiting.clear()
        return waiters

    def _decode(self, payload: bytes | memoryview) -> tuple[Any, DecodeError | None]:
        """Decode a message; the first one may be in another codec."""
        try:
            return self._reading_codec.decode_message(payload)
        except DecodeError as exc:
            if not self._heard:
                answer = _hello.foreign_answer(bytes(payload), self._codec)
                self.last_words = None if answer is None else frame(answer)
            msg = f"an unreadable frame of {len(payload)} bytes: {exc}"
            raise ProtocolError(msg) from exc

    def _event(
        self, kind: int, message_id: int, content: Any, size: int, bad_content: DecodeError | None
    ) -> Event | None:
        may_be_hello = self.accepting and self.next_of_peer is None
        if kind in {REQUEST, CALL}:
            self._check_number(message_id)
        if kind in {RESULT, EXCEPTION} or (kind == FAILURE and self.extended):
            return self._reply_event(kind, message_id, content, size, bad_content)
        if kind != REQUEST and not (self.extended and kind in _EXTENDED):
            raise _no_message((kind, message_id, content))
        if may_be_hello and kind == REQUEST and (hello := _hello.asked(content)) is not None:
            return HELLO, message_id, hello, size
        if self.expects is not None or bad_content is not None:
            return self._event_in_doubt(kind, message_id, content, size, bad_content)
        return kind, message_id, content, size

    def _event_in_doubt(
        self, kind: int, message_id: int, content: Any, size: int, bad_content: DecodeError | None
    ) -> Event:
        if self.expects is not None and kind in {REQUEST, CALL}:
            return STRANGER, message_id, None, size
        if bad_content is not None:
            return BAD_REQUEST, message_id, bad_content, size
        return kind, message_id, content, size

    def _check_number(self, message_id: int) -> None:
        """Make sure that requests are numbered without gaps, where both ends know how to."""
        expected = self.next_of_peer or 0
        if self.extended and message_id != expected:
            msg = f"request {message_id}, although the next one is {expected}"
            raise ProtocolError(msg)
        self.next_of_peer = message_id + 1

    def _reply_event(
        self, kind: int, message_id: int, content: Any, size: int, bad_content: DecodeError | None
    ) -> Event | None:
        waiter = self.waiting.pop(message_id, None)
        if waiter is None:
            if 0 <= message_id < self.next_id:
                return None  # whoever made this request has given up or was answered already
            msg = f"a reply to request {message_id}, which was never made"
            raise ProtocolError(msg)
        if message_id == self._hello_id:
            self._hello_id = None
            theirs = Hello.read(content) if kind == RESULT else None
            # From the very next message on, which may have come with this one.
            self.extended = theirs is not None and Hello().fits(theirs)
            if theirs is not None and self.expects is not None and theirs.shows(self.expects):
                self.expects = None
            self.settled = self.expects is None
        if bad_content is not None:
            return BAD_REPLY, waiter, bad_content, size
        return kind, waiter, content, size


def _no_message(message: Any) -> ProtocolError:
    return ProtocolError(f"a message that is no [type, id, content]: {reprlib.repr(message):.100}")
