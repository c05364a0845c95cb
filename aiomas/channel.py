"""Request/reply channels: send a value, await the reply.

This is the shell that joins the parts of one end of a connection to a transport of asyncio: a
session (``aiomas._session``), which knows the protocol; an outbox, which writes; an intake, which
holds requests of the peer; and what looks after our own requests.  What the values mean is not
known here.

Requests that arrive are either taken one by one with :meth:`Channel.recv`, or passed to a handler
(:meth:`Channel.serve`), in the order in which they were sent.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

from aiomas import _endpoint, _hello
from aiomas._current import CallOptions
from aiomas._delay import Delay
from aiomas._endpoint import Server, SocketAddress
from aiomas._futures import Waiting
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
    Session,
    State,
)
from aiomas._terms import Terms
from aiomas._wire import frame
from aiomas.codecs import JSON, Codec, Serializer, make_codec
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
from aiomas.util import create_task, current_loop

__all__ = [
    "DEFAULT_CODEC",
    "EXCEPTION",
    "REQUEST",
    "RESULT",
    "Channel",
    "ChannelProtocol",
    "Request",
    "Server",
    "open_connection",
    "start_server",
]

logger = logging.getLogger(__name__)
bad_peers = LimitedLog(logger)

DEFAULT_CODEC: type[Codec] = JSON
"""The codec of a channel for which none was chosen."""

CLOSE_TIMEOUT = 10.0
"""Seconds that a closing connection may take to send what it still holds."""

ExtraSerializers = Iterable[Callable[[], Serializer]] | None


async def open_connection(
    addr: SocketAddress | None,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    codec: type[Codec] | None = None,
    extra_serializers: ExtraSerializers = (),
    timeout: float | None = 0,
    limits: Limits | None = None,
    extensions: bool = False,
    **kwds: Any,
) -> Channel:
    """Connect to the server at *addr* and return the :class:`Channel`.

    Args:
        addr: ``(host, port)`` for TCP, a path for a Unix domain socket, or a local queue.
        loop: the event loop to use, if not the current one.
        codec: a subclass of :class:`~aiomas.codecs.Codec`; JSON by default.
        extra_serializers: callables that return arguments for
            :meth:`~aiomas.codecs.Codec.add_serializer`; both ends need the same list.
        timeout: 0 for one attempt (of at most 10 s); a number of seconds in which to try again
            and again, also while the peer accepts the connection and stays silent; ``None`` to
            try for ever.
        limits: the limits of the connection; :class:`~aiomas.Limits` has the defaults.
        extensions: whether to ask the peer for the :ref:`extensions` of the protocol.  Only for
            peers that answer each request, as an RPC server or a container does.
        kwds: go to :meth:`asyncio.loop.create_connection` or ``create_unix_connection``; so
            ``ssl=`` takes a context.

    Raises:
        OSError: no connection could be made; it is what the last attempt failed with
            (``ConnectionRefusedError``, ``FileNotFoundError``, ``ssl.SSLError``, ...).
        ConnectTimeout: the last attempt did not end in time.
        HandshakeError: the peer has another codec or other serializers (with *extensions*).
        AddressError: *addr* is no address.
    """
    return await dial(
        addr,
        Terms(limits=limits or Limits()),
        loop=loop,
        codec=codec,
        extra_serializers=extra_serializers,
        timeout=timeout,
        extensions=extensions,
        **kwds,
    )


async def dial(
    addr: SocketAddress | None,
    terms: Terms,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    codec: type[Codec] | None = None,
    extra_serializers: ExtraSerializers = (),
    timeout: float | None = 0,
    extensions: bool = False,
    connected: Callable[[Channel], Any] | None = None,
    **kwds: Any,
) -> Channel:
    """Do what :func:`open_connection` does, on certain *terms*.

    ``connected(channel)`` is called before anything is sent or received.
    """
    loop = loop or current_loop()

    def factory() -> ChannelProtocol:
        instance = make_codec(codec or DEFAULT_CODEC, extra_serializers)
        return ChannelProtocol(instance, connected, loop=loop, terms=terms)

    async def greet(protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, ChannelProtocol)  # noqa: S101 - for the type checker
        if extensions:
            await protocol.greet()

    protocol = await _endpoint.dial(factory, addr, loop, timeout=timeout, prepare=greet, **kwds)
    assert isinstance(protocol, ChannelProtocol)  # noqa: S101 - for the type checker
    return protocol.channel


async def start_server(
    addr: SocketAddress | None,
    client_connected_cb: Callable[[Channel], Any],
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    codec: type[Codec] | None = None,
    extra_serializers: ExtraSerializers = (),
    limits: Limits | None = None,
    tracebacks: bool = True,
    **kwds: Any,
) -> Server:
    """Listen on *addr* and call ``client_connected_cb(channel)`` for each client.

    Args:
        addr: ``(host, port)`` for TCP (port 0 takes a free one, see :attr:`Server.sockets`), a
            path for a Unix domain socket (which only this user can connect to), or a local queue.
        client_connected_cb: a function, or a coroutine function, which is started as a task.
        loop: the event loop to use, if not the current one.
        codec: a subclass of :class:`~aiomas.codecs.Codec`; JSON by default.
        extra_serializers: as in :func:`open_connection`.
        limits: the limits of each connection; :class:`~aiomas.Limits` has the defaults.
        tracebacks: whether clients see the tracebacks of what went wrong here, or only what the
            exceptions themselves say.
        kwds: go to :meth:`asyncio.loop.create_server` or ``create_unix_server``.

    Raises:
        OSError: the address is in use, or cannot be bound.
        AddressError: *addr* is no address.
    """
    terms = Terms(limits=limits or Limits(), tracebacks=tracebacks)
    return await listen(
        addr,
        client_connected_cb,
        lambda: terms,
        loop=loop,
        codec=codec,
        extra_serializers=extra_serializers,
        **kwds,
    )


async def listen(
    addr: SocketAddress | None,
    client_connected_cb: Callable[[Channel], Any],
    terms: Callable[[], Terms],
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    codec: type[Codec] | None = None,
    extra_serializers: ExtraSerializers = (),
    **kwds: Any,
) -> Server:
    """Do what :func:`start_server` does, on certain *terms*, asked for with each client."""
    loop = loop or current_loop()

    def factory() -> ChannelProtocol:
        instance = make_codec(codec or DEFAULT_CODEC, extra_serializers)
        return ChannelProtocol(instance, client_connected_cb, loop=loop, terms=terms())

    return await _endpoint.listen(factory, addr, loop, **kwds)


class ChannelProtocol(asyncio.Protocol):
    """Connects a transport with a :class:`Channel`.

    Args:
        codec: an instance of a codec, used for this connection only.
        client_connected_cb: called with the channel when the connection was made.
        loop: the event loop.
        limits: the limits of the connection.
        terms: all that this end wants of the connection; has *limits* as well.
    """

    def __init__(
        self,
        codec: Codec,
        client_connected_cb: Callable[[Channel], Any] | None = None,
        *,
        loop: asyncio.AbstractEventLoop,
        limits: Limits | None = None,
        terms: Terms | None = None,
    ) -> None:
        self.channel: Channel
        self.outgoing: Outgoing
        self.terms = terms or Terms(limits=limits or Limits())
        codec.max_size = self.terms.limits.max_frame
        codec.max_nesting = self.terms.limits.max_nesting
        self.session: Session[asyncio.Future[Any]] = Session(codec, self.terms.limits)
        self.outbox = Outbox(loop, self.terms.limits, self._unresponsive, self._writable)
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
        self._heartbeat: Heartbeat | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        self._error: ConnectionLost | None = None

    @property
    def peer(self) -> Any:
        """The address of the other end, as its transport names it."""
        return self.channel.peer

    @property
    def extended(self) -> bool:
        """Whether both ends have agreed on the extensions of the protocol."""
        return self.session.extended

    @property
    def paused(self) -> bool:
        """Whether replies wait, because the peer does not read."""
        return self.outbox.paused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make the channel and announce it."""
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
            _endpoint.keep_alive(sock, self.terms.limits)
        # A local queue promises an order over several connections, which batches would change;
        # and nothing there may depend on time.
        local = isinstance(transport, LocalQueueTransport)
        self.outbox.attach(self._transport, self._counters, write_through=local)
        self.outgoing = Outgoing(
            self.session,
            self.outbox,
            self.terms,
            self._loop,
            self._is_open,
            lambda: self.channel.peer,
            at_once=local,
        )
        self.channel = Channel(self, self._codec, transport, self._loop)
        logger.debug("Connected to %s", self.peer)
        if self._client_connected_cb is not None:
            result = self._client_connected_cb(self.channel)
            if inspect.iscoroutine(result):
                create_task(result, loop=self._loop)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits for something on this connection."""
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        if self._heartbeat is not None:
            self._heartbeat.stop()
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

    def data_received(self, data: bytes) -> None:
        """Take bytes from the transport; what is no message closes this connection only."""
        self._counters.bytes_in += len(data)
        if self._heartbeat is not None:
            self._heartbeat.heard()
        try:
            for kind, ref, content, size in self.session.feed(data):
                if kind == REQUEST:
                    self._requested(Request(content, ref, self, size))
                elif kind == RESULT:
                    if not ref.done():  # else its caller has given up
                        ref.set_result(content)
                else:
                    self._received(kind, ref, content, size)
        except ProtocolError as exc:
            self._violated(exc)
        except SerializationError as exc:  # not even the shortest answer fits
            self._violated(ProtocolError(f"what cannot be answered: {exc}"))

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
            HandshakeError: the peer says that the two ends do not fit together.
            ConnectionLost: the connection ended before there was an answer.
        """
        hello = self._own_hello()
        answer: asyncio.Future[Any] = self._loop.create_future()
        try:
            self.outbox.send(self.session.hello(hello, answer))
            content = await answer
        except RemoteException:  # it knows of no extensions
            return
        except BaseException:
            self._transport.abort()
            raise
        reason = _hello.refused(content)
        if reason is not None:
            self.close()
            msg = f"{self.peer} refuses this connection: {reason}"
            raise HandshakeError(msg)
        peer = Hello.read(content)
        if peer is not None:
            self._agreed(peer)

    def write(self, content: Any) -> Awaitable[None]:
        """Serialize *content* and send it; await the result to wait until it is on its way."""
        self.outbox.send(frame(self._codec.encode(content)))
        return self.drained()

    def reply(self, kind: int, message_id: int, content: Any) -> None:
        """Answer a request; what cannot be sent is replaced by an error."""
        if self._transport.is_closing():
            return  # nobody is left who waits for it
        if kind == EXCEPTION:
            self._counters.errors += 1
        try:
            data = self.session.reply(kind, message_id, content)
        except SerializationError as exc:
            # Where in here it was raised is of no interest to the peer, nor is all of its text.
            text = f"{type(exc).__name__}: {exc}"[: self._longest_text]
            data = self.session.reply(EXCEPTION, message_id, text)
        self._send_reply(data)

    def failure(self, message_id: int, kind: str, text: str, outcome: Outcome) -> None:
        """Answer a request that has not run, or not to its end."""
        if not self._transport.is_closing():
            self._counters.errors += 1
            text = text[: self._longest_text]
            self._send_reply(self.session.failure(message_id, kind, text, outcome))

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
        self._transport.close()
        self._abort_timer = self._loop.call_later(CLOSE_TIMEOUT, self._transport.abort)

    def cut(self, error: ConnectionLost) -> None:
        """End the connection at once, with *error* for all who wait for something."""
        if self._error is None:
            self._error = error
            self._transport.abort()

    def _is_open(self) -> bool:
        return self.session.state is State.OPEN and not self._transport.is_closing()

    def _closed_by_us(self) -> ConnectionLost:
        return ConnectionLost(f"The connection to {self.peer} was closed by this end")

    def _own_hello(self) -> Hello:
        hello = self.terms.hello.speaking(self._codec)
        return dataclasses.replace(hello, clock=self._loop.time())

    def _send_reply(self, data: bytes) -> None:
        if self.outbox.paused and not self.outbox.has_room(len(data)):
            cap = self.terms.limits.write_cap
            self._counters.limits_hit["write_cap"] += 1
            self._unresponsive(f"replies of more than write_cap={cap} bytes wait for it")
        else:
            self.outbox.send(data)

    def _writable(self) -> None:
        self.intake.resume()

    def _requested(self, request: Request) -> None:
        if self.session.state is not State.OPEN:  # a handler may have closed it just now
            return
        self._counters.calls_in += 1
        limit = self.intake.limit_hit(request.size, self.outbox.held_bytes)
        if limit is None:
            self.intake.put(request, paused=self.outbox.paused)
        else:
            self._counters.limits_hit[limit] += 1
            value = getattr(self.terms.limits, limit)
            request.refuse("overloaded", f"Overloaded: the limit {limit}={value} was reached")

    def _received(self, kind: int | str, ref: Any, content: Any, size: int) -> None:
        if kind == CALL:
            self._called(ref, content, size)
        elif kind == CANCEL:
            if not self.intake.drop(ref):
                self.channel.cancelled(ref)
        elif kind == PING:
            self.outbox.send(self.session.pong(ref, self._loop.time()))
        elif kind == PONG:
            asked, answered = _hello.seconds(ref), _hello.seconds(content)
            if asked is not None and answered is not None:
                self._delay.calibrate(asked / 1000, answered / 1000, self._loop.time())
        elif kind == HELLO:
            self._greeted(ref, content)
        elif kind == BAD_REQUEST:
            self._counters.calls_in += 1
            text = f"{type(content).__name__}: {content}"
            self.failure(ref, "bad request", text, Outcome.NOT_EXECUTED)
        elif kind == BAD_REPLY:
            self.outgoing.undecodable(ref, content)
        else:
            self.outgoing.ended(cast("int", kind), ref, content)

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
        one_way, again = options.get("one_way") is True, options.get("again") is True
        self._requested(
            Request(content, message_id, self, size, deadline, one_way=one_way, again=again)
        )

    def _greeted(self, message_id: int, peer: Hello) -> None:
        """Answer the hello of the peer."""
        own = self._own_hello()
        objection = own.objection(peer)
        if objection is None:
            extended = own.fits(peer)
            self.outbox.send(self.session.welcome(message_id, own, extended=extended))
            self._agreed(peer)
        else:
            bad_peers.warning("Refusing the connection of %s: %s", self.peer, objection)
            self._error = HandshakeError(f"{self.peer} was refused: {objection}")
            self.outbox.send(self.session.reply(RESULT, message_id, _hello.refusal(objection)))
            self.close()

    def _agreed(self, peer: Hello) -> None:
        if not self.session.extended:
            return
        self.peer_url = peer.url
        self._delay.of(peer.clock, self._loop.time())
        limits = self.terms.limits
        local = isinstance(self._transport, LocalQueueTransport)
        if limits.heartbeat is not None and not local and self._is_open():
            self._heartbeat = Heartbeat(
                self._loop,
                limits.heartbeat,
                limits.heartbeat_misses,
                ask=lambda: self.outbox.send(self.session.ping(self._loop.time())),
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

    def _unresponsive(self, reason: str) -> None:
        bad_peers.warning("Cutting the connection to %s: %s", self.peer, reason)
        self.cut(PeerUnresponsive(f"The connection to {self.peer} was cut: {reason}"))

    def _violated(self, exc: ProtocolError) -> None:
        error = ProtocolError(f"The peer {self.peer} sent {exc}")
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


class Channel:
    """One end of a connection on which both sides can make requests.

    Made by :func:`open_connection` or passed to the callback of :func:`start_server`.

    Args:
        protocol: the connection's protocol.
        codec: the connection's codec.
        transport: the connection's transport.
        loop: the event loop.
    """

    def __init__(
        self,
        protocol: ChannelProtocol,
        codec: Codec,
        transport: asyncio.BaseTransport,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.codec = codec
        """The codec of this connection."""
        self.transport = transport
        """The transport of this connection."""
        self.peer: Any = transport.get_extra_info("peername") or transport.get_extra_info(
            "sockname"
        )
        """The address of the other end, as the transport names it."""
        self._protocol = protocol
        self._session = protocol.session
        self._intake = protocol.intake
        self._outgoing = protocol.outgoing
        self._loop = loop
        self._cancel: Callable[[int], Any] | None = None
        self._error: ConnectionLost | None = None
        self._lost_by_peer = False
        self._closed: asyncio.Future[None] = loop.create_future()

    def __repr__(self) -> str:
        return f"<Channel to {self.peer} {self._session.state.value}>"

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the connection."""
        return self._loop

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._session.state is State.OPEN and not self.transport.is_closing()

    @property
    def extended(self) -> bool:
        """Whether both ends have agreed on the :ref:`extensions` of the protocol."""
        return self._session.extended

    @property
    def peer_url(self) -> str | None:
        """The base URL of the container at the other end, as it says itself; else ``None``."""
        return self._protocol.peer_url

    @property
    def pending(self) -> int:
        """How many requests were made here that have no reply yet."""
        return len(self._session.pending)

    @property
    def serving(self) -> int:
        """How many requests of the peer are being served, or wait for it."""
        return self._intake.requests

    def send(self, content: Any, options: CallOptions | None = None) -> asyncio.Future[Any]:
        """Send a request and return the future of its reply.

        The request is on its way when this returns; awaiting the future waits for the reply.
        Cancelling the future does no harm to the connection: a late reply is dropped.

        Args:
            content: the value to send.
            options: what is asked for beyond the reply; proxies set it.

        Raises:
            ConnectionLost: the channel is closed (raised here), or the connection ends before the
                reply arrives (raised by the future); a :class:`ConnectionResetError`.
            SerializationError: *content* cannot be encoded (raised here, nothing was sent), or
                the reply cannot be decoded (raised by the future).
            RemoteException: the other side failed (raised by the future).
        """
        if options is not None and options.retries:
            msg = "retries= needs the proxy of a container: a bare connection does not dial again"
            raise ValueError(msg)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._outgoing.send_for(future, content, options)
        return future

    def send_for(
        self, future: asyncio.Future[Any], content: Any, options: CallOptions | None = None
    ) -> None:
        """Like :meth:`send`, for a future that exists already."""
        self._outgoing.send_for(future, content, options)

    async def recv(self) -> Request:
        """Wait for the next request and return it.

        Raises:
            ConnectionLost: the connection has ended, and all requests before that were returned.
            RuntimeError: another task waits for a request on this channel, or a handler gets
                them all.
        """
        return await self._intake.get(repr(self))

    def serve(
        self, handler: Callable[[Request], None], cancel: Callable[[int], Any] | None = None
    ) -> None:
        """Pass all requests to *handler* from now on, and those first that wait already.

        Args:
            handler: called with each :class:`Request`.
            cancel: called with the id of a request whose caller has given up.
        """
        self._cancel = cancel
        self._intake.serve(handler)

    def close(self) -> Awaitable[None]:
        """Close the connection now; await what this returns to wait until that is done.

        What was sent before is still delivered, if the peer takes it within 10 s.  Calls that
        have no reply yet fail with :class:`~aiomas.exceptions.ConnectionLost`.
        """
        self._protocol.close()
        return self.wait_closed()

    def wait_closed(self) -> Awaitable[None]:
        """Return an awaitable that waits until the connection has ended, whoever ended it."""
        return Waiting(None if self._closed.done() else self._closed)

    def on_closed(self, callback: Callable[[], Any]) -> None:
        """Call ``callback()`` when the connection has ended, whoever ended it."""
        self._closed.add_done_callback(lambda _: callback())

    def on_lost(self, callback: Callable[[ConnectionLost], Any]) -> None:
        """Call ``callback(error)`` if the connection ends other than by our own :meth:`close`."""

        def closed(_: object) -> None:
            if self._error is not None and self._lost_by_peer:
                callback(self._error)

        self._closed.add_done_callback(closed)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the transport knows; see :meth:`asyncio.BaseTransport.get_extra_info`."""
        return self.transport.get_extra_info(name, default)

    def fail_own_calls(self, error: ConnectionLost) -> None:
        """Fail all calls without a reply, but those that are part of serving a request."""
        self._outgoing.fail_own(error)

    def fail_all_calls(self, error: ConnectionLost) -> None:
        """Fail all calls without a reply."""
        self._outgoing.fail_all(error)

    def cancelled(self, message_id: int) -> None:
        """Take from the protocol that the caller of a request has given up."""
        if self._cancel is not None:
            self._cancel(message_id)

    def connection_lost(self, error: ConnectionLost, *, by_peer: bool) -> None:
        """Take the end of the connection from the protocol."""
        self._error = error
        self._lost_by_peer = by_peer
        if not self._closed.done():
            self._closed.set_result(None)
