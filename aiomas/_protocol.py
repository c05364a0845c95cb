"""The shell that joins the parts of one end of a connection to a transport of asyncio.

A session (``aiomas._session``) knows the protocol; an outbox writes; an intake holds requests of
the peer; and there is something that looks after our own requests.  What the values mean is not
known here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

from aiomas import _hello, _sockets
from aiomas._buffers import CHUNK, Buffers
from aiomas._channel import Channel
from aiomas._delay import Delay
from aiomas._heartbeat import Heartbeat
from aiomas._hello import Hello
from aiomas._intake import Intake, Request, describe_failure
from aiomas._limits import Limits
from aiomas._logs import LimitedLog
from aiomas._outbox import Outbox
from aiomas._outgoing import Outgoing
from aiomas._session import (
    BAD_REPLY,
    BAD_REQUEST,
    CALL,
    CANCEL,
    EXCEPTION,
    HELLO,
    PING,
    PONG,
    REQUEST,
    RESULT,
    STRANGER,
    Event,
    Session,
    State,
)
from aiomas._shortcuts import answer_nobody, answerer, receive_nothing, receiver
from aiomas._terms import Terms
from aiomas._wire import LARGE_FRAME, TlsRecordError, frame
from aiomas.codecs import JSON, Codec, MsgPack, MsgPackBlosc
from aiomas.exceptions import (
    ConnectionLost,
    HandshakeError,
    Outcome,
    PeerUnresponsive,
    ProtocolError,
    RemoteException,
    SerializationError,
)
from aiomas.local_queue import LocalQueueTransport
from aiomas.tls import PeerIdentity
from aiomas.util import create_task

logger = logging.getLogger("aiomas.channel")
bad_peers = LimitedLog(logger)

CLOSE_TIMEOUT = 10.0
"""Seconds that a closing connection may take to send what it still holds."""

LINGER_TIMEOUT = 1.0
"""Seconds in which a peer that has taken all may end a connection by itself that we have closed."""


class ChannelProtocol(asyncio.BufferedProtocol):
    """Connects a transport with a :class:`Channel`.

    Args:
        codec: an instance of a codec, used for this connection only.
        client_connected_cb: called with the channel when the connection was made.
        loop: the event loop.
        limits: the limits of the connection.
        terms: all that this end wants of the connection; has *limits* as well.
        accepting: whether this is the end that was dialled.
    """

    def __init__(
        self,
        codec: Codec,
        client_connected_cb: Callable[[Channel], Any] | None = None,
        *,
        loop: asyncio.AbstractEventLoop,
        limits: Limits | None = None,
        terms: Terms | None = None,
        accepting: bool = True,
    ) -> None:
        self.channel: Channel
        self.outgoing: Outgoing
        self.terms = terms or Terms(limits=limits or Limits())
        codec.max_size = self.terms.limits.max_frame
        codec.max_nesting = self.terms.limits.max_nesting
        expects = self.terms.expects
        buffers = Buffers.of(loop)
        self.session: Session[asyncio.Future[Any]] = Session(
            codec,
            self.terms.limits,
            accepting=accepting,
            expects=expects,
            plain=None if expects is None or not accepting else _hello.without_serializers(codec),
            spare=buffers.spare,
        )
        self._small = buffers.small
        self._reader = self.session.reader
        self._takes_views = type(codec) in _TAKE_VIEWS
        self._in_large = False  # whether a large frame is being received
        self.outbox = Outbox(loop, self.terms.limits, self._stalled, self._writable)
        self.intake = Intake(self.terms.limits, loop, self._is_open)
        self.peer_url: str | None = None
        """The base URL of the container at the other end, as it says itself."""
        self._counters = self.terms.counters
        # Characters of an error about something of any size; JSON may need 12 bytes for each.
        self._longest_text = max(0, min(1000, (self.terms.limits.max_frame - 80) // 12))
        self._codec = codec
        self._client_connected_cb = client_connected_cb
        self._loop = loop
        self._transport: asyncio.Transport
        self._delay = Delay()
        self._asking = False  # for a pong
        self.heartbeat: Heartbeat | None = None
        """Finds out that the peer has vanished."""
        self._close_timer: asyncio.TimerHandle | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        self._error: ConnectionLost | None = None

    @property
    def peer(self) -> Any:
        """The address of the other end, as its transport names it."""
        return self.channel.peer

    @property
    def identity(self) -> PeerIdentity | None:
        """Who is at the other end, as its certificate says."""
        return self.channel.identity

    @property
    def extended(self) -> bool:
        """Whether both ends have agreed on the extensions of the protocol."""
        return self.session.extended

    @property
    def paused(self) -> bool:
        """Whether the transport is over its high-water mark."""
        return self.outbox.paused

    @property
    def holding(self) -> bool:
        """Whether replies wait, because the peer does not read."""
        return self.outbox.blocked and self.outbox.holding

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make the channel and announce it."""
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if _sockets.is_tcp(sock):
            _sockets.keep_alive(sock, self.terms.limits)
        # A local queue promises an order over several connections, which batches would change;
        # and nothing there may depend on time.
        local = isinstance(transport, LocalQueueTransport)
        self.outbox.attach(self._transport, self._counters, write_through=local)
        session, codec, loop = self.session, self._codec, self._loop
        self.outgoing = Outgoing(
            session,
            codec,
            self.outbox,
            self.terms,
            loop,
            self._is_open,
            lambda: self.channel.peer,
            at_once=local,
        )
        reply = functools.partial(self.reply, RESULT)
        self.answer = answerer(session, codec, self.outbox, reply)
        if _sockets.is_of_uvloop(transport) and transport.get_extra_info("ssl_object") is None:
            self._transport.set_protocol(_InChunks(self, self._transport))
        counters = self._counters
        self._receive = receiver(self, session, codec, self.intake, self.outbox, counters, loop)
        self.channel = Channel(self, self._codec, transport, self._loop)
        logger.debug("Connected to %s", self.peer)
        if self.session.expects is not None and self.session.accepting and not local:
            timeout = self.terms.limits.handshake_timeout
            self.terms.strangers.came(self._loop, timeout, self._unproven)
        if self._client_connected_cb is not None:
            result = self._client_connected_cb(self.channel)
            if inspect.iscoroutine(result):
                create_task(result, loop=self._loop)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits for something on this connection."""
        for timer in (self._close_timer, self._abort_timer):
            if timer is not None:
                timer.cancel()
        if self.heartbeat is not None:
            self.heartbeat.stop()
        if self.session.expects is not None:
            self.terms.strangers.left(self._unproven)
        if self.session.state is State.CLOSING:
            error = self._error or self._closed_by_us()
        else:
            error = self._error or ConnectionLost(
                f"The connection to {self.peer} was lost" + (f": {exc}" if exc else "")
            )
            error.__cause__ = error.__cause__ or exc
        logger.debug("%s", error)
        by_peer = self.session.state is State.OPEN
        self.outgoing.fail(self.session.lost(), error)
        self.outgoing.stop()
        self.outbox.discard()
        self.intake.close(error)
        self.channel.connection_lost(error, by_peer=by_peer)
        # They know this object, which knows them; nobody should have to wait for the collector.
        self._receive, self.answer = receive_nothing, answer_nobody

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the transport puts what it receives next."""
        del sizehint  # how much there is room for is not its business
        if self._reader.need < LARGE_FRAME or not self._takes_views:
            return self._small
        room = self._reader.room()
        self._in_large = room is not None
        return self._small if room is None else room

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was received; nothing that the peer sends raises anything here."""
        if self._in_large:
            self._in_large = False
            self._counters.bytes_in += nbytes
            if self.heartbeat is not None:
                self.heartbeat.heard()
            self.outbox.heard()
            self.take_all(self.session.fill(nbytes))
        else:
            receive = self._receive
            receive(bytes(self._small[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Take what was received; nothing that the peer sends raises anything here."""
        receive = self._receive
        receive(data)

    def take_all(self, events: Iterator[Event]) -> bool:
        """Do what messages ask for, and return whether there is nothing wrong with them."""
        try:
            for kind, ref, content, size in events:
                self._take(kind, ref, content, size)
        except ProtocolError as exc:
            self._violated(exc)
            return False
        except SerializationError as exc:
            self._unanswerable(exc)
            return False
        return True

    def eof_received(self) -> bool:
        """Let the transport close itself: nobody is there to read any more."""
        return False

    def pause_writing(self) -> None:
        """Hold frames back: the transport is over its high-water mark."""
        self.outbox.pause()
        self.intake.pause()

    def resume_writing(self) -> None:
        """Send what was held back."""
        self.outbox.resume()

    async def greet(self) -> None:
        """Ask the peer for the extensions, and wait for its answer.

        Raises:
            HandshakeError: the peer says that the two ends do not fit together; or it does not
                show the token, which was shown at its address before.
            ConnectionLost: the connection ended before there was an answer.
        """
        hello = self._own_hello(self.terms)
        answer: asyncio.Future[Any] = self._loop.create_future()
        try:
            self.outbox.send(self.session.hello(hello, answer))
            content = await answer
        except RemoteException:  # it knows of no extensions
            self._check_proof()
            return
        except BaseException as exc:
            if type(exc) is ConnectionLost and self._is_plain_tcp():
                exc.args = (f"{exc}; it did not answer, and perhaps expects TLS",)
            if self.session.state is not State.CLOSED:
                self._transport.abort()
            raise
        reason = _hello.refused(content)
        if reason is not None:
            self.close()
            msg = f"{self.peer} refuses this connection: {reason}"
            raise HandshakeError(msg)
        self._check_proof()
        peer = Hello.read(content)
        if peer is not None:
            self._agreed(peer)

    def _check_proof(self) -> None:
        """Look whether the peer has shown the token, which it need not have; but see `proven`."""
        url = self.terms.dialled
        if url is None:
            return
        if self.session.expects is None:
            self.terms.proven.add(url)
        elif url in self.terms.proven:
            self.close()
            msg = (
                f"Whoever listens at {url} has not shown the token, which the container there has "
                f"shown before; it is somebody else"
            )
            raise HandshakeError(msg)

    def write(self, content: Any) -> Awaitable[None]:
        """Serialize *content* and send it; await the result to wait until it is on its way."""
        self.outbox.send(frame(self._codec.encode(content)))
        return self.drained()

    def reply(self, kind: int, message_id: int, content: Any) -> None:
        """Answer a request; what cannot be sent is replaced by an error."""
        session, outbox = self.session, self.outbox
        if session.state is not State.OPEN or (outbox.blocked and not self._is_open()):
            return  # nobody is left who waits for it
        if kind == EXCEPTION:
            self._counters.errors += 1
        try:
            data = session.frame(kind, message_id, content)
        except SerializationError as exc:
            if kind != EXCEPTION:
                self._counters.errors += 1
            # Where in here it was raised is of no interest to the peer, nor is all of its text.
            text = f"{type(exc).__name__}: {exc}"[: self._longest_text]
            text = text.encode(errors="backslashreplace").decode()  # which every codec can encode
            self._send_error(session.frame, EXCEPTION, message_id, text[: self._longest_text])
            return
        if outbox.blocked:
            self._send_reply(data)
        else:
            outbox.send(data)

    def failure(self, message_id: int, kind: str, text: str, outcome: Outcome) -> None:
        """Answer a request that has not run, or not to its end."""
        if self._is_open():
            self._counters.errors += 1
            text = text[: self._longest_text]
            self._send_error(self.session.failure, message_id, kind, text, outcome)

    def _send_error(self, make: Callable[..., bytes], *args: Any) -> None:
        """Send the frame of an error; if that cannot be told either, end the connection."""
        try:
            data = make(*args)
        except SerializationError as exc:
            self._unanswerable(exc)
        else:
            self._send_reply(data)

    def _unanswerable(self, exc: SerializationError) -> None:
        self._violated(ProtocolError(f"what cannot be answered: {exc}"))

    def failure_content(self, failure: BaseException | str | list[Any]) -> Any:
        """Return what is sent for a failure of a handler."""
        return describe_failure(failure, tracebacks=self.terms.tracebacks)

    def drained(self) -> Awaitable[None]:
        """Return an awaitable that waits while the transport is over its high-water mark."""
        return self.outbox.drained()

    def close(self) -> None:
        """Send what is there, then close the transport; give up after ``CLOSE_TIMEOUT``."""
        if self.session.state is not State.OPEN:
            return
        abandoned = self.session.close()
        self.outbox.close()
        self.outgoing.fail(abandoned, self._closed_by_us())
        if self.session.extended and self._transport.can_write_eof():
            # The peer will end the connection when it has read all. If we did so now, what it may
            # have sent meanwhile would make the operating system throw that away.
            self._transport.write_eof()
            self._close_timer = self._loop.call_later(LINGER_TIMEOUT, self._stop_lingering)
        else:
            self._transport.close()
        self._abort_timer = self._loop.call_later(CLOSE_TIMEOUT, self._transport.abort)

    def _stop_lingering(self) -> None:
        if self.outbox.all_taken():
            self._transport.close()
        else:  # it may be slow to read; CLOSE_TIMEOUT is its limit
            self._close_timer = self._loop.call_later(LINGER_TIMEOUT, self._stop_lingering)

    def cut(self, error: ConnectionLost) -> None:
        """End the connection at once, with *error* for all who wait for something."""
        if self._error is None:
            self._error = error
            self._transport.abort()
            self.outbox.discard()

    def _is_plain_tcp(self) -> bool:
        is_tcp = _sockets.is_tcp(self._transport.get_extra_info("socket"))
        return is_tcp and not self.channel.is_tls

    def _is_open(self) -> bool:
        return self.session.state is State.OPEN and not self._transport.is_closing()

    def _closed_by_us(self) -> ConnectionLost:
        return ConnectionLost(f"The connection to {self.peer} was closed by this end")

    def _own_hello(self, terms: Terms) -> Hello:
        hello = terms.hello.speaking(self._codec)
        return dataclasses.replace(hello, clock=self._loop.time())

    def _send_reply(self, data: bytes) -> None:
        if not self._is_open():
            return
        if self.outbox.holding and not self.outbox.has_room(len(data)):
            cap = self.terms.limits.write_cap
            self._counters.limits_hit["write_cap"] += 1
            self._unresponsive(f"replies of more than write_cap={cap} bytes wait for it")
        else:
            self.outbox.send(data)

    def _writable(self) -> None:
        self.intake.resume()

    def _requested(self, request: Request) -> None:
        if not self._is_open():  # a handler may have closed it just now
            return
        self._counters.calls_in += 1
        limit = self.intake.limit_hit(request.size)
        if limit is None:
            self.intake.put(request, paused=self.outbox.holding)
        else:
            self._counters.limits_hit[limit] += 1
            value = getattr(self.terms.limits, limit)
            request.refuse("overloaded", f"Overloaded: the limit {limit}={value} was reached")

    def _take(self, kind: int | str, ref: Any, content: Any, size: int) -> None:
        if kind == REQUEST:
            self._requested(Request(content, ref, self, size))
        elif kind == RESULT:
            if not ref.done():  # else its caller has given up
                ref.set_result(content)
        elif kind == CALL:
            self._called(ref, content, size)
        else:
            self._take_other(kind, ref, content)

    def _take_other(self, kind: int | str, ref: Any, content: Any) -> None:
        if kind == CANCEL:
            if not self.intake.drop(ref):
                self.channel.cancelled(ref)
        elif kind == PING:
            self._pinged(ref)
        elif kind == PONG:
            self._ponged(ref, content)
        elif kind == HELLO:
            self._greeted(ref, content)
        elif kind == STRANGER:
            self._refuse_stranger(ref)
        elif kind == BAD_REQUEST:
            self._counters.calls_in += 1
            text = f"{type(content).__name__}: {content}"
            self.failure(ref, "bad request", text, Outcome.NOT_EXECUTED)
        elif kind == BAD_REPLY:
            self.outgoing.undecodable(ref, content)
        else:
            self.outgoing.ended(cast("int", kind), ref, content)

    def _pinged(self, ping_id: int) -> None:
        # Who does not read what there is for him needs no further sign of life.
        if self._is_open() and not self.outbox.holding:
            self.outbox.send(self.session.pong(ping_id, self._loop.time()))

    def _ask(self) -> None:
        self._asking = True
        self.outbox.send(self.session.ping(self._loop.time()))

    def _ponged(self, ping_id: int, content: Any) -> None:
        self._asking = False
        asked, answered = _hello.seconds(ping_id), _hello.seconds(content)
        if asked is not None and answered is not None:
            self._delay.calibrate(asked / 1000, answered / 1000, self._loop.time())

    def _called(self, message_id: int, content: Any, size: int) -> None:
        """Take a request with options."""
        match content:
            case [dict() as options, content]:
                pass
            case _:
                text = "TypeError: a request with options is [options, content]"
                self.failure(message_id, "bad request", text, Outcome.NOT_EXECUTED)
                return
        deadline = None
        timeout = _hello.seconds(options.get("timeout"))
        sent = _hello.seconds(options.get("sent"))
        if timeout is not None:
            now = self._loop.time()
            late = 0.0 if sent is None else self._delay.of(sent, now)
            deadline = now + timeout - late
            if self._delay.in_doubt and not self._asking:
                self._ask()
        one_way, again = options.get("one_way") is True, options.get("again") is True
        self._requested(
            Request(content, message_id, self, size, deadline, one_way=one_way, again=again)
        )

    def _greeted(self, message_id: int, peer: Hello) -> None:
        """Answer the hello of the peer."""
        terms = self.terms.of_generation(peer.generation)
        own = self._own_hello(terms)
        objection = own.objection(peer, terms.expects)
        if objection is None and terms.expects is not None:
            objection = self.terms.generations.refuses(peer)
        if objection is None:
            if terms.expects is not None:
                self.terms.strangers.left(self._unproven)
            extended = own.fits(peer)
            self.outbox.send(self.session.welcome(message_id, own, extended=extended))
            self._agreed(peer)
        else:
            bad_peers.warning("Refusing the connection of %s: %s", self.peer, objection)
            self._error = HandshakeError(f"{self.peer} was refused: {objection}")
            self.outbox.send(self.session.frame(RESULT, message_id, _hello.refusal(objection)))
            self.close()

    def _refuse_stranger(self, message_id: int) -> None:
        """Serve nothing to a peer that has not shown our token."""
        self._counters.calls_in += 1
        if not self.session.accepting:  # we have dialled it, and may go on calling it
            bad_peers.warning("Refusing a call of %s: %s", self.peer, _hello.STRANGER)
            text = f"PermissionError: {_hello.STRANGER}"
            self.failure(message_id, "denied", text, Outcome.NOT_EXECUTED)
            return
        if not self._is_open():
            return
        self._counters.errors += 1
        bad_peers.warning("Refusing the connection of %s: %s", self.peer, _hello.STRANGER)
        self._error = HandshakeError(f"{self.peer} was refused: {_hello.STRANGER}")
        text = f"HandshakeError: {_hello.STRANGER}"
        self.outbox.send(self.session.frame(EXCEPTION, message_id, text))
        self.close()

    def _unproven(self, reason: str) -> None:
        """Take from the container that the peer has not shown the token, and why it has to go."""
        if self.session.state is not State.OPEN:  # it was told so, and does not go
            self._transport.abort()
            return
        bad_peers.warning("Cutting the connection of %s: %s", self.peer, reason)
        self.cut(HandshakeError(f"The connection of {self.peer} was cut: {reason}"))

    def _agreed(self, peer: Hello) -> None:
        if not self.session.extended:
            return
        self.peer_url = peer.url
        self._delay.of(peer.clock, self._loop.time())
        limits = self.terms.limits
        local = isinstance(self._transport, LocalQueueTransport)
        if limits.heartbeat is not None and not local and self._is_open():
            self.heartbeat = Heartbeat(
                self._loop,
                limits.heartbeat,
                limits.heartbeat_misses,
                ask=self._ask,
                # Then it cannot get our question; and write_timeout watches over it.
                excused=lambda: self.outbox.paused and limits.write_timeout is not None,
                lost=self._silent,
            )

    def _silent(self) -> None:
        limits = self.terms.limits
        self._counters.limits_hit["heartbeat"] += 1
        self._unresponsive(
            f"nothing was heard of it for {limits.heartbeat_misses} times heartbeat="
            f"{limits.heartbeat} s; if one of its functions blocks its event loop for so long, let "
            f"it run in asyncio.to_thread(), or choose a longer heartbeat in Limits"
        )

    def _stalled(self, reason: str) -> None:
        self._counters.limits_hit["write_timeout"] += 1
        self._unresponsive(reason)

    def _unresponsive(self, reason: str) -> None:
        bad_peers.warning("Cutting the connection to %s: %s", self.peer, reason)
        self.cut(PeerUnresponsive(f"The connection to {self.peer} was cut: {reason}"))

    def _violated(self, exc: ProtocolError) -> None:
        kind = HandshakeError if isinstance(exc, TlsRecordError) else ProtocolError
        error = kind(f"The peer {self.peer} sent {exc}")
        error.__cause__ = exc.__cause__
        if "max_frame" in str(exc):
            self._counters.limits_hit["max_frame"] += 1
        bad_peers.warning("Closing the connection to %s, which sent %s", self.peer, exc)
        if self.session.last_words is None:
            self.cut(error)
        else:
            self._error = error
            self.outbox.send(self.session.last_words)
            self.close()


class _InChunks(asyncio.Protocol):
    """Receives for a :class:`ChannelProtocol`, until the first large frame comes.

    A transport of uvloop is faster if it need not ask where to put what it receives: to do so takes
    a function and a callback of libuv more for each chunk, which is a fourteenth of what a call
    takes that comes alone.  (That of asyncio is faster if it may ask, and so is TLS on both.)

    Args:
        protocol: the protocol.
        transport: the transport.
    """

    def __init__(self, protocol: ChannelProtocol, transport: asyncio.Transport) -> None:
        self._protocol = protocol
        self._transport = transport
        self._reader = protocol.session.reader

    def data_received(self, data: bytes) -> None:
        protocol, transport = self._protocol, self._transport
        if len(data) <= CHUNK:
            protocol.data_received(data)
        else:
            for start in range(0, len(data), CHUNK):
                if not transport.is_closing():  # else nobody is there to read any more
                    protocol.data_received(data[start : start + CHUNK])
        if self._reader.need >= LARGE_FRAME:  # which is received in its place
            transport.set_protocol(protocol)
            transport.pause_reading()  # or uvloop would not notice
            transport.resume_reading()

    def eof_received(self) -> bool:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)


_TAKE_VIEWS = frozenset({JSON, MsgPack, MsgPackBlosc})
"""Codecs that decode whatever has bytes; that of a user may want :class:`bytes`."""
