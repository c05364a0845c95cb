"""Request/reply channels: send a value, await the reply.

This is the shell that joins a session (``aiomas._session``), which knows the protocol, to a
transport of asyncio.  What the values mean is not known here.

Requests that arrive are either taken one by one with :meth:`Channel.recv`, or passed to a handler
(:meth:`Channel.serve`), in the order in which they were sent.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

from aiomas import _endpoint
from aiomas._endpoint import Server, SocketAddress
from aiomas._futures import (
    Waiting,
    copy_error,
    is_call_of_handler,
    is_serving,
    mark_call_of_handler,
)
from aiomas._session import BAD_REPLY, BAD_REQUEST, EXCEPTION, REQUEST, RESULT, Session, State
from aiomas._wire import MAX_FRAME, frame
from aiomas.codecs import JSON, Codec, Serializer, make_codec
from aiomas.exceptions import (
    ConnectionLost,
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

DEFAULT_CODEC: type[Codec] = JSON
"""The codec of a channel for which none was chosen."""

CLOSE_TIMEOUT = 10.0
"""Seconds that a closing connection may take to send what it still holds."""

_BATCH = 32  # frames that leave in one write at the most

ExtraSerializers = Iterable[Callable[[], Serializer]] | None


async def open_connection(
    addr: SocketAddress | None,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    codec: type[Codec] | None = None,
    extra_serializers: ExtraSerializers = (),
    timeout: float | None = 0,
    max_frame: int = MAX_FRAME,
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
        max_frame: the largest message, in bytes, that is sent or accepted.
        kwds: go to :meth:`asyncio.loop.create_connection` or ``create_unix_connection``; so
            ``ssl=`` takes a context.

    Raises:
        OSError: no connection could be made; it is what the last attempt failed with
            (``ConnectionRefusedError``, ``FileNotFoundError``, ``ssl.SSLError``, ...).
        ConnectTimeout: the last attempt did not end in time.
        AddressError: *addr* is no address.
    """
    loop = loop or current_loop()

    def factory() -> ChannelProtocol:
        instance = make_codec(codec or DEFAULT_CODEC, extra_serializers)
        return ChannelProtocol(instance, loop=loop, max_frame=max_frame)

    protocol = await _endpoint.dial(factory, addr, loop, timeout=timeout, **kwds)
    assert isinstance(protocol, ChannelProtocol)  # noqa: S101 - for the type checker
    return protocol.channel


async def start_server(
    addr: SocketAddress | None,
    client_connected_cb: Callable[[Channel], Any],
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    codec: type[Codec] | None = None,
    extra_serializers: ExtraSerializers = (),
    max_frame: int = MAX_FRAME,
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
        max_frame: the largest message, in bytes, that is sent or accepted.
        kwds: go to :meth:`asyncio.loop.create_server` or ``create_unix_server``.

    Raises:
        OSError: the address is in use, or cannot be bound.
        AddressError: *addr* is no address.
    """
    loop = loop or current_loop()

    def factory() -> ChannelProtocol:
        instance = make_codec(codec or DEFAULT_CODEC, extra_serializers)
        return ChannelProtocol(instance, client_connected_cb, loop=loop, max_frame=max_frame)

    return await _endpoint.listen(factory, addr, loop, **kwds)


class ChannelProtocol(asyncio.Protocol):
    """Connects a transport with a :class:`Channel`.

    Args:
        codec: an instance of a codec, used for this connection only.
        client_connected_cb: called with the channel when the connection was made.
        loop: the event loop.
        max_frame: the largest message that is sent or accepted, in bytes.
    """

    def __init__(
        self,
        codec: Codec,
        client_connected_cb: Callable[[Channel], Any] | None = None,
        *,
        loop: asyncio.AbstractEventLoop,
        max_frame: int = MAX_FRAME,
    ) -> None:
        self.channel: Channel
        codec.max_size = max_frame
        self.session: Session[asyncio.Future[Any]] = Session(codec, max_frame)
        self.paused = False
        self._codec = codec
        self._client_connected_cb = client_connected_cb
        self._loop = loop
        self._transport: asyncio.Transport
        self._write_through = False
        self._out: list[bytes] = []
        self._drain_waiter: asyncio.Future[None] | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        self._error: ProtocolError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make the channel and announce it."""
        self._transport = cast("asyncio.Transport", transport)
        # A local queue promises an order over several connections, which batches would change.
        self._write_through = isinstance(transport, LocalQueueTransport)
        self.channel = Channel(self, self._codec, transport, self._loop)
        if self._client_connected_cb is not None:
            result = self._client_connected_cb(self.channel)
            if inspect.iscoroutine(result):
                create_task(result, loop=self._loop)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits for something on this connection."""
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        peer = self.channel.peer
        if self.session.state is State.CLOSING:
            error = ConnectionLost(f"The connection to {peer} was closed by this end")
        else:
            error = self._error or ConnectionLost(
                f"The connection to {peer} was lost" + (f": {exc}" if exc else "")
            )
            error.__cause__ = error.__cause__ or exc
        self._out.clear()
        self.resume_writing()
        by_peer = self.session.state is State.OPEN
        self.channel.connection_lost(error, self.session.lost(), by_peer=by_peer)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the transport; what is no message closes this connection only."""
        channel = self.channel
        try:
            for kind, ref, content in self.session.feed(data):
                if kind == REQUEST:
                    if self.session.state is State.OPEN:  # a handler may have closed it just now
                        channel.request_received(Request(content, ref, self))
                elif kind == RESULT:
                    if not ref.done():  # else its caller has given up
                        ref.set_result(content)
                elif kind == BAD_REQUEST:
                    self.reply(EXCEPTION, ref, f"{type(content).__name__}: {content}")
                elif kind == BAD_REPLY:
                    channel.call_failed(ref, content)
                else:
                    channel.call_failed(ref, RemoteException(channel.peer, content))
        except ProtocolError as exc:
            self._error = ProtocolError(f"The peer {channel.peer} sent {exc}")
            self._error.__cause__ = exc.__cause__
            logger.warning("Closing the connection to %s, which sent %s", channel.peer, exc)
            self._transport.abort()

    def eof_received(self) -> bool:
        """Let the transport close itself: nobody is there to read any more."""
        return False

    def write(self, content: Any) -> Awaitable[None]:
        """Serialize *content* and send it; await the result to wait until it is on its way."""
        self.send_frame(frame(self._codec.encode(content)))
        return self.drained()

    def reply(self, kind: int, message_id: int, content: Any) -> None:
        """Answer a request; what cannot be sent is replaced by an error."""
        if self._transport.is_closing():
            return  # nobody is left who waits for it
        try:
            data = self.session.reply(kind, message_id, content)
        except SerializationError as exc:
            # Where in here it was raised is of no interest to the peer.
            data = self.session.reply(EXCEPTION, message_id, f"{type(exc).__name__}: {exc}")
        self.send_frame(data)

    def send_frame(self, data: bytes) -> None:
        """Send *data* with others of this turn of the loop, or once the transport takes more."""
        self._out.append(data)
        if self._write_through or len(self._out) >= _BATCH:
            self._flush()
        elif len(self._out) == 1:
            self._loop.call_soon(self._flush)

    def drained(self) -> Awaitable[None]:
        """Return an awaitable that waits while the transport is over its high-water mark."""
        if self.paused and self._drain_waiter is None:
            self._drain_waiter = self._loop.create_future()
        return Waiting(self._drain_waiter)

    def pause_writing(self) -> None:
        """Hold frames back: the transport is over its high-water mark."""
        self.paused = True

    def resume_writing(self) -> None:
        """Send what was held back."""
        self.paused = False
        if self._drain_waiter is not None:
            self._drain_waiter.set_result(None)
            self._drain_waiter = None
        self._flush()

    def close(self) -> None:
        """Send what is there, then close the transport; give up after ``CLOSE_TIMEOUT``."""
        if self.session.state is not State.OPEN:
            return
        abandoned = self.session.close()
        if self._out and not self.paused:
            self._flush()
        if self._out:
            self._transport.writelines(self._out)
            self._out.clear()
        self._transport.close()
        self._abort_timer = self._loop.call_later(CLOSE_TIMEOUT, self._transport.abort)
        error = ConnectionLost(f"The connection to {self.channel.peer} was closed by this end")
        self.channel.fail_calls(abandoned, error)

    def _flush(self) -> None:
        if self._out and not self.paused:
            out = self._out
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            if not self._transport.is_closing():
                self._transport.write(data)


class Request:
    """A request that arrived, as :meth:`Channel.recv` returns it.

    Args:
        content: the value that was sent.
        message_id: the number that the peer gave this request.
        protocol: writes the reply.
    """

    __slots__ = ("_protocol", "content", "message_id")

    def __init__(self, content: Any, message_id: int, protocol: ChannelProtocol) -> None:
        self.content = content
        """The value that was sent."""
        self.message_id = message_id
        """The number that the peer gave this request."""
        self._protocol = protocol

    def __repr__(self) -> str:
        return f"<Request {self.message_id} {self.content!r:.100}>"

    def reply(self, result: Any) -> Awaitable[None]:
        """Send *result* back; await what this returns to wait while the peer does not read.

        A result that cannot be encoded becomes a :class:`~aiomas.RemoteException` over there.  If
        the connection is gone, nothing happens: nobody is left who waits for it.
        """
        self._protocol.reply(RESULT, self.message_id, result)
        return self._protocol.drained()

    def fail(self, exception: BaseException | str | list[Any]) -> Awaitable[None]:
        """Raise a :class:`~aiomas.RemoteException` at the peer, with the traceback of *exception*.

        A string or a list is sent as it is.  Await what this returns to wait while the peer does
        not read.
        """
        self._protocol.reply(EXCEPTION, self.message_id, _failure_content(exception))
        return self._protocol.drained()


RequestHandler = Callable[[Any], None]


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
        self._loop = loop
        self._handler: RequestHandler | None = None
        self._inbox: deque[Request] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._error: ConnectionLost | None = None
        self._lost_by_peer = False
        self._closed: asyncio.Future[None] = loop.create_future()
        # In asyncio's debug mode: what was sent, and where, for the errors of calls.
        self._sent: dict[asyncio.Future[Any], str] = {}

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

    def send(self, content: Any) -> asyncio.Future[Any]:
        """Send a request and return the future of its reply.

        The request is on its way when this returns; awaiting the future waits for the reply.
        Cancelling the future does no harm to the connection: a late reply is dropped.

        Raises:
            ConnectionLost: the channel is closed (raised here), or the connection ends before the
                reply arrives (raised by the future); a :class:`ConnectionResetError`.
            SerializationError: *content* cannot be encoded (raised here, nothing was sent), or
                the reply cannot be decoded (raised by the future).
            RemoteException: the other side failed (raised by the future).
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        self.send_for(future, content)
        return future

    def send_for(self, future: asyncio.Future[Any], content: Any) -> None:
        """Like :meth:`send`, for a future that exists already."""
        if self.transport.is_closing():
            msg = f"The connection to {self.peer} is closed; the request was not sent"
            raise ConnectionLost(msg)
        self._protocol.send_frame(self._session.request(content, future))
        if is_serving():
            mark_call_of_handler(future)
        if self._loop.get_debug():
            self._sent[future] = f"The request was {content!r:.200}, sent from:\n{_caller()}"
            future.add_done_callback(self._sent.pop)

    def call_failed(self, future: asyncio.Future[Any], error: BaseException) -> None:
        """Raise *error* where *future* is awaited, unless its caller has given up."""
        if future in self._sent:
            error.add_note(self._sent[future])
        if not future.done():
            future.set_exception(error)

    async def recv(self) -> Request:
        """Wait for the next request and return it.

        Raises:
            ConnectionLost: the connection has ended, and all requests before that were returned.
            RuntimeError: another task waits for a request on this channel, or a handler gets
                them all.
        """
        if self._reader is not None or self._handler is not None:
            msg = f"Somebody else receives the requests of {self!r}"
            raise RuntimeError(msg)
        if not self._inbox:
            if self._error is not None:
                raise copy_error(self._error)
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._inbox.popleft()

    def serve(self, handler: RequestHandler) -> None:
        """Pass all requests to *handler* from now on, and those first that wait already."""
        self._handler = handler
        if self._inbox:
            self._loop.call_soon(self._serve_waiting)

    def _serve_waiting(self) -> None:
        try:
            while self._inbox and self._handler is not None and self.is_open:
                self._handler(self._inbox.popleft())
        finally:
            if self._inbox and self.is_open:  # the handler has raised something
                self._loop.call_soon(self._serve_waiting)

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
        self.fail_calls([f for f in self._session.pending if not is_call_of_handler(f)], error)

    def fail_all_calls(self, error: ConnectionLost) -> None:
        """Fail all calls without a reply."""
        self.fail_calls(self._session.pending, error)

    def fail_calls(self, futures: Iterable[asyncio.Future[Any]], error: ConnectionLost) -> None:
        """Fail some calls with an error like *error*."""
        for future in list(futures):
            self.call_failed(future, copy_error(error))

    def request_received(self, request: Request) -> None:
        """Take a request from the protocol."""
        if self._handler is not None and not self._inbox:
            self._handler(request)
            return
        self._inbox.append(request)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def connection_lost(
        self, error: ConnectionLost, abandoned: Iterable[asyncio.Future[Any]], *, by_peer: bool
    ) -> None:
        """Take the end of the connection from the protocol."""
        self._error = error
        self._lost_by_peer = by_peer
        self.fail_calls(abandoned, error)
        if self._reader is not None and not self._reader.done():
            self._reader.set_exception(error)
        if not self._closed.done():
            self._closed.set_result(None)


def _caller() -> str:
    """Return the part of the call stack that is not in this package."""
    stack = [f for f in traceback.extract_stack() if not f.filename.startswith(_HERE)]
    return "".join(traceback.format_list(stack[-_CALLERS:]))


_CALLERS = 3  # so many lines of a stack tell where something came from
_HERE = os.path.dirname(__file__)  # noqa: PTH120 - a string, like the file names in a stack


def _failure_content(failure: Any) -> Any:
    if isinstance(failure, BaseException):
        return "".join(traceback.format_exception(failure))
    return failure
