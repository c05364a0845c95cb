"""A transport inside one process, for tests and for simulations that must be repeatable.

It promises: bytes arrive in the order in which they were written, *over all connections* of an
event loop, whichever queue they belong to; nothing is lost; nothing arrives before the call that
wrote it has returned; and the order in which callbacks run depends on nothing but the program
(not on time, ports, or the operating system).  Both ends belong to the same event loop.

A queue is an address: a server is bound to it, clients connect to it.  The URL of an agent there
is ``local://queue-id/aid``.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from aiomas.exceptions import AddressError
from aiomas.util import current_loop

__all__ = [
    "LocalQueue",
    "LocalQueueServer",
    "LocalQueueTransport",
    "add_queue",
    "clear_queue_cache",
    "create_connection",
    "create_server",
    "get_queue",
]

P = TypeVar("P", bound=asyncio.BaseProtocol)
ProtocolFactory = Callable[[], asyncio.BaseProtocol]

_queues: dict[str, LocalQueue] = {}


class LocalQueue:
    """An address in this process; get one with :func:`get_queue`.

    Args:
        queue_id: its name, without a slash.
    """

    def __init__(self, queue_id: str) -> None:
        if not isinstance(queue_id, str) or not queue_id or "/" in queue_id:
            msg = f"A queue's id is a name without '/', got {queue_id!r}"
            raise AddressError(msg)
        self.queue_id = queue_id
        """Its name."""
        self._server: LocalQueueServer | None = None
        self._accepted = 0

    def __repr__(self) -> str:
        return f"LocalQueue({self.queue_id!r})"

    @property
    def server(self) -> LocalQueueServer | None:
        """The server that is bound to this queue, if there is one."""
        return self._server

    def connect(
        self,
        loop: asyncio.AbstractEventLoop,
        client: asyncio.BaseProtocol,
        server: asyncio.BaseProtocol,
        name: str,
    ) -> tuple[LocalQueueTransport, LocalQueueTransport]:
        """Return the two ends of a new connection; a subclass may have other ones.

        Args:
            loop: the event loop of both ends.
            client: the protocol of the end that dialled.
            server: the protocol of the other end.
            name: what the server sees the client as.
        """
        ours = LocalQueueTransport(loop, client, sockname=name, peername=self)
        theirs = LocalQueueTransport(loop, server, sockname=self, peername=name)
        ours.join(theirs)
        return ours, theirs


def get_queue(queue_id: str) -> LocalQueue:
    """Return the queue with this id; there is one for each id.

    Raises:
        AddressError: *queue_id* is empty or has a slash.
    """
    try:
        return _queues[queue_id]
    except KeyError:
        return _queues.setdefault(queue_id, LocalQueue(queue_id))


def add_queue(lq: LocalQueue) -> None:
    """Let :func:`get_queue`, and with it all URLs, find *lq*, which is of a class of its own.

    Raises:
        OSError: there is another queue with this id, and a server is bound to it.
    """
    other = _queues.get(lq.queue_id)
    if other is not None and other is not lq and other.server is not None:
        raise OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}: {other!r}")
    _queues[lq.queue_id] = lq


def clear_queue_cache() -> None:
    """Forget all queues.  Servers and connections that exist go on; new ones do not find them."""
    _queues.clear()


async def create_connection(
    protocol_factory: Callable[[], P],
    lq: LocalQueue,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    **_kwds: Any,
) -> tuple[LocalQueueTransport, P]:
    """Connect to the server that is bound to *lq*; options for sockets are ignored.

    Returns:
        The transport and the protocol, as :meth:`asyncio.loop.create_connection` does.

    Raises:
        ConnectionRefusedError: no server is bound to *lq*.
        RuntimeError: the server runs in another event loop.
    """
    loop = loop or current_loop()
    server = lq.server
    if server is None:
        msg = f"no server is bound to {lq!r}"
        raise ConnectionRefusedError(errno.ECONNREFUSED, msg)
    if server.get_loop() is not loop:
        msg = f"The server at {lq!r} runs in another event loop; use TCP or a Unix socket"
        raise RuntimeError(msg)
    protocol = protocol_factory()
    lq._accepted += 1  # noqa: SLF001
    client_name = f"{lq.queue_id}#{lq._accepted}"  # noqa: SLF001
    accepted = server.protocol_factory()
    ours, theirs = lq.connect(loop, protocol, accepted, client_name)
    try:
        accepted.connection_made(theirs)
    except Exception as exc:  # noqa: BLE001 - the server's error, which is none of the client's
        loop.call_exception_handler(
            {"message": "Exception in connection_made()", "exception": exc, "protocol": accepted}
        )
    protocol.connection_made(ours)
    return ours, protocol


async def create_server(
    protocol_factory: ProtocolFactory,
    lq: LocalQueue,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    **_kwds: Any,
) -> LocalQueueServer:
    """Bind a server to *lq*; options for sockets are ignored.

    Raises:
        OSError: a server is bound to it already.
    """
    if lq.server is not None:
        raise OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}: {lq!r}")
    server = LocalQueueServer(protocol_factory, lq, loop or current_loop())
    lq._server = server  # noqa: SLF001 - the two classes are one thing
    return server


class LocalQueueServer(asyncio.AbstractServer):
    """A server bound to a queue; made by :func:`create_server`."""

    def __init__(
        self, protocol_factory: ProtocolFactory, lq: LocalQueue, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.protocol_factory = protocol_factory
        self._lq = lq
        self._loop = loop
        self._forever: asyncio.Future[None] | None = None

    @property
    def lq(self) -> LocalQueue:
        """The queue to which the server was bound."""
        return self._lq

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop in which the server runs."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether new connections are accepted."""
        return self._lq.server is self

    async def start_serving(self) -> None:
        """Do nothing: the server accepts connections from the beginning."""

    async def serve_forever(self) -> None:
        """Accept connections until this is cancelled (also by :meth:`close`); close the server."""
        self._forever = self._loop.create_future()
        try:
            await self._forever
        finally:
            self.close()

    def close(self) -> None:
        """Accept no more connections; those that exist go on."""
        if self.is_serving():
            self._lq._server = None  # noqa: SLF001
        if self._forever is not None:
            self._forever.cancel()

    def abort_clients(self) -> None:
        """Do nothing: a connection has its protocol from the beginning, and that can end it."""

    async def wait_closed(self) -> None:
        """Return at once, as there is nothing to wait for after :meth:`close`."""


class LocalQueueTransport(asyncio.Transport):
    """One end of a connection inside a process."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.BaseProtocol,
        *,
        sockname: LocalQueue | str,
        peername: LocalQueue | str,
    ) -> None:
        super().__init__(extra={"sockname": sockname, "peername": peername})
        self._loop = loop
        self._protocol: asyncio.BaseProtocol = protocol
        self._peer: LocalQueueTransport | None = None
        self._closing = False
        self._closed = False
        self._reading = True
        self._held: deque[bytes | None] = deque()  # None is the peer's end

    def join(self, peer: LocalQueueTransport) -> None:
        """Make *peer* the other end."""
        self._peer, peer._peer = peer, self

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol that gets the data."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let *protocol* get the data from now on."""
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data*; it arrives after this call, in the order of all writes in this loop."""
        if not self._closing and data:
            self.carry(bytes(data))

    def carry(self, data: bytes | None) -> None:
        """Take what was written to the other end; ``None`` is the end of it."""
        if self._peer is not None:
            self._loop.call_soon(self._peer.deliver, data)

    def close(self) -> None:
        """Close both ends, after all that was written has arrived."""
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._end)

    def abort(self) -> None:
        """Do the same as :meth:`close`: whatever was written is on its way already."""
        self.close()

    def is_closing(self) -> bool:
        """Whether this end is closing or closed."""
        return self._closing

    def pause_reading(self) -> None:
        """Hold back what arrives."""
        self._reading = False

    def resume_reading(self) -> None:
        """Deliver what was held back, and what arrives from now on."""
        self._reading = True
        self._loop.call_soon(self._release)

    def is_reading(self) -> bool:
        """Whether data is delivered."""
        return self._reading and not self._closing

    def can_write_eof(self) -> bool:
        """Return false: there are no half-closed connections here."""
        return False

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return zeros: there is no buffer."""
        return 0, 0

    def get_write_buffer_size(self) -> int:
        """Return 0: whatever was written is on its way."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: there is no buffer."""

    def deliver(self, data: bytes | None) -> None:
        """Take what arrives from the other end; ``None`` is the end of it."""
        if self._held or not self._reading:
            self._held.append(data)
        else:
            self._receive(data)

    def _release(self) -> None:
        while self._held and self._reading:
            self._receive(self._held.popleft())

    def _receive(self, data: bytes | None) -> None:
        if data is None:
            self._lost()
        elif not self._closing:
            # A protocol may have it without being an asyncio.Protocol, if it can do more.
            receive: Callable[[bytes], None] | None = getattr(self._protocol, "data_received", None)
            if receive is not None:
                receive(data)

    def _end(self) -> None:
        if not self._closed:
            self.carry(None)
            self._lost()

    def _lost(self, exc: Exception | None = None) -> None:
        if not self._closed:
            self._closing = self._closed = True
            self._peer = None
            self._held.clear()
            self._protocol.connection_lost(exc)
