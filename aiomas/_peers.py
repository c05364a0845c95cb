"""The connections that a container dials: one for each address, made when it is needed.

A :class:`Peer` stands for an address for as long as anybody uses it, while connections to it come
and go.  How a connection is made is not known here.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from aiomas._address import Address
from aiomas._futures import copy_error, fail_all
from aiomas.channel import serving
from aiomas.exceptions import ContainerClosedError
from aiomas.rpc import RpcClient

Dial = Callable[[Address], Awaitable[RpcClient]]


class Pool:
    """All peers of a container.

    Args:
        dial: makes one attempt to connect to an address; it bounds the time of the attempt.
        loop: the event loop.
    """

    def __init__(self, dial: Dial, loop: asyncio.AbstractEventLoop) -> None:
        self.closing: Exception | None = None
        """What new calls fail with that are no part of serving a request."""
        self.closed = False
        self._dial = dial
        self._loop = loop
        # A peer that nobody uses and that is not connected vanishes.
        self._peers: weakref.WeakValueDictionary[Address, Peer] = weakref.WeakValueDictionary()
        self._active: set[Peer] = set()

    def peer(self, address: Address) -> Peer:
        """Return the peer for *address*; it is the same one for as long as anybody uses it."""
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = Peer(address, self, self._dial, self._loop)
        return peer

    @property
    def clients(self) -> list[RpcClient]:
        """The connections that are open now."""
        return [peer.connection for peer in self._active if peer.connection is not None]

    def keep(self, peer: Peer, *, active: bool) -> None:
        """Hold on to *peer* for as long as it is connected or connecting."""
        (self._active.add if active else self._active.discard)(peer)

    def begin_closing(self, error: Exception) -> None:
        """Fail all calls that wait for a connection, and new ones that serve no request."""
        self.closing = error
        for peer in self._active:
            peer.fail_waiting_calls(error)

    async def close(self) -> None:
        """End all attempts to connect and make no new ones; connections are left as they are."""
        self.closed = True
        attempts = [attempt for peer in self._active if (attempt := peer.cancel()) is not None]
        await asyncio.gather(*attempts, return_exceptions=True)


class Peer:
    """Another container, as seen from ours.

    Args:
        address: where it listens.
        pool: the pool of our container.
        dial: makes one attempt to connect.
        loop: the event loop.
    """

    def __init__(
        self, address: Address, pool: Pool, dial: Dial, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.connection: RpcClient | None = None
        """The connection, if there is one now."""
        self.peer = address.url
        self._address = address
        self._pool = pool
        self._dial = dial
        self._loop = loop
        self._attempt: asyncio.Task[RpcClient] | None = None
        self._interested = 0
        # Calls made while there is no connection, in their order.
        self._waiting: deque[tuple[asyncio.Future[Any], Any]] = deque()

    def send(self, content: Any) -> asyncio.Future[Any]:
        """Send a request and return the future of its reply; connect first if need be."""
        closing = self._pool.closing
        if closing is not None and not serving.get():
            raise copy_error(closing)
        connection = self.connection
        if connection is not None and connection.channel.is_open:
            return connection.channel.send(content)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._start_attempt()
        self._waiting.append((future, content))
        return future

    async def connect(self) -> RpcClient:
        """Return the open connection, or make one.

        Several callers share one attempt, and its error.  The attempt is given up when all of
        them have been cancelled.
        """
        if self.connection is not None and self.connection.channel.is_open:
            return self.connection
        attempt = self._start_attempt()
        self._interested += 1
        try:
            return await asyncio.shield(attempt)
        finally:
            self._interested -= 1
            if not (self._interested or self._waiting):
                attempt.cancel()

    def cancel(self) -> asyncio.Task[RpcClient] | None:
        """Cancel the attempt that is under way and return it."""
        if self._attempt is not None:
            self._attempt.cancel()
        return self._attempt

    def fail_waiting_calls(self, error: BaseException) -> None:
        """Fail all calls that wait for a connection."""
        waiting = [future for future, _ in self._waiting]
        self._waiting.clear()
        fail_all(waiting, error)

    def _start_attempt(self) -> asyncio.Task[RpcClient]:
        if self._pool.closed:
            msg = f"The container was shut down; it does not connect to {self.peer}"
            raise ContainerClosedError(msg)
        if self._attempt is None:
            self._pool.keep(self, active=True)
            self._attempt = self._loop.create_task(self._dial_once())
            self._attempt.add_done_callback(self._attempt_ended)
        return self._attempt

    async def _dial_once(self) -> RpcClient:
        connection = await self._dial(self._address)
        # In one step with what follows, so that no later call overtakes those that wait.
        self.connection = connection
        connection.channel.on_closed(lambda: self._disconnected(connection))
        while self._waiting:
            future, content = self._waiting.popleft()
            if not future.done():
                try:
                    connection.channel.send_for(future, content)
                except Exception as exc:  # noqa: BLE001 - whatever it is, the caller gets it
                    future.set_exception(exc)
        return connection

    def _attempt_ended(self, attempt: asyncio.Task[RpcClient]) -> None:
        self._attempt = None
        if attempt.cancelled():
            error: BaseException | None = ContainerClosedError(f"No more connecting to {self.peer}")
        else:
            error = attempt.exception()
        if error is not None:
            self.fail_waiting_calls(error)
        self._pool.keep(self, active=self.connection is not None)

    def _disconnected(self, connection: RpcClient) -> None:
        if self.connection is connection:
            self.connection = None
            self._pool.keep(self, active=self._attempt is not None)
