"""One end of a connection, as its users see it; :mod:`aiomas.channel` is its public place."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiomas._current import CallOptions
from aiomas._futures import Waiting
from aiomas._intake import Intake, Request
from aiomas._outgoing import Outgoing
from aiomas._session import Session, State
from aiomas.codecs import Codec
from aiomas.exceptions import ConnectionLost
from aiomas.tls import PeerIdentity


class Connected(Protocol):
    """What a channel needs of the connection's protocol."""

    session: Session[asyncio.Future[Any]]
    intake: Intake
    outgoing: Outgoing
    peer_url: str | None

    def close(self) -> None:
        """Send what is there, then close the transport."""

    def cut(self, error: ConnectionLost) -> None:
        """End the connection at once, with *error* for all who wait for something."""


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
        protocol: Connected,
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
        self.outgoing = protocol.outgoing
        """The requests that were made at this end."""
        self._loop = loop
        self._send = self.outgoing.sender(self._send_with_care)
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

    @functools.cached_property
    def identity(self) -> PeerIdentity | None:
        """Who is at the other end, as its certificate says, which was verified.

        ``None`` for connections without TLS.
        """
        ssl_object = self.transport.get_extra_info("ssl_object")
        return None if ssl_object is None else PeerIdentity.of(ssl_object)

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.transport.get_extra_info("ssl_object") is not None

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
        return self._send(content, options)

    def _send_with_care(self, content: Any, options: CallOptions | None) -> asyncio.Future[Any]:
        if options is not None and options.retries:
            msg = "retries= needs the proxy of a container: a bare connection does not dial again"
            raise ValueError(msg)
        future: asyncio.Future[Any] = self._loop.create_future()
        self.outgoing.send_for(future, content, options)
        return future

    def send_for(
        self, future: asyncio.Future[Any], content: Any, options: CallOptions | None = None
    ) -> None:
        """Like :meth:`send`, for a future that exists already."""
        self.outgoing.send_for(future, content, options)

    async def recv(self) -> Request:
        """Wait for the next request and return it.

        Raises:
            ConnectionLost: the connection has ended, and all requests before that were returned.
            RuntimeError: another task waits for a request on this channel, or a handler gets
                them all.
        """
        return await self._intake.get(repr(self))

    def serve(
        self, handler: Callable[[Request], Any], cancel: Callable[[int], Any] | None = None
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

    def cut(self, error: ConnectionLost) -> None:
        """End the connection at once, as if it was lost: calls and handlers end with *error*."""
        self._protocol.cut(error)

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
        self.outgoing.fail_own(error)

    def fail_all_calls(self, error: ConnectionLost) -> None:
        """Fail all calls without a reply."""
        self.outgoing.fail_all(error)

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
