"""The connections that a container dials: one for each address, made when it is needed.

A :class:`Peer` stands for an address for as long as anybody uses it, while connections to it come
and go.  How a connection is made is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

from aiomas._address import Address
from aiomas._current import CallOptions, deadline_of, is_serving
from aiomas._futures import copy_error, fail_all
from aiomas._retries import Retries
from aiomas.exceptions import (
    ConnectionLost,
    ContainerClosedError,
    DeadlineExceeded,
    Outcome,
)
from aiomas.rpc import RpcClient

Dial = Callable[[Address], Awaitable[RpcClient]]


@dataclasses.dataclass(eq=False, slots=True)
class _Waiting:
    """A call that was made while there is no connection."""

    content: Any
    options: CallOptions | None
    context: contextvars.Context  # that of whoever made it
    timer: asyncio.TimerHandle | None = None


class Pool:
    """All peers of a container.

    Args:
        dial: makes one attempt to connect to an address; it bounds the time of the attempt.
        loop: the event loop.
        call_timeout: seconds that a call has if its caller does not say so.
        loss: returns the error of calls to a base URL, if what listens there was given up.
    """

    def __init__(
        self,
        dial: Dial,
        loop: asyncio.AbstractEventLoop,
        call_timeout: float | None = None,
        loss: Callable[[str], ConnectionLost | None] = lambda _: None,
    ) -> None:
        self.call_timeout = call_timeout
        """Seconds that a call has if its caller does not say so."""
        self.closing: ConnectionLost | None = None
        """What new calls fail with that are no part of serving a request."""
        self.closed = False
        self.loss = loss
        """Returns the error of calls to a base URL, if what listens there was given up."""
        self._dial = dial
        self._loop = loop
        # A peer that nobody uses and that is not connected vanishes.
        self._peers: weakref.WeakValueDictionary[Address, Peer] = weakref.WeakValueDictionary()
        self._active: set[Peer] = set()
        self._blocks: set[asyncio.Timeout] = set()

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

    @property
    def waiting(self) -> int:
        """How many calls wait for a connection."""
        return sum(peer.waiting for peer in self._active)

    def keep(self, peer: Peer, *, active: bool) -> None:
        """Hold on to *peer* for as long as it is connected or connecting."""
        (self._active.add if active else self._active.discard)(peer)

    @contextlib.asynccontextmanager
    async def until_closing(self) -> AsyncIterator[None]:
        """End the block when the pool begins to close, unless it is part of serving a request.

        Raises:
            ContainerClosedError: that is so.
        """
        if self.closed or (self.closing is not None and not is_serving()):
            raise self._refusal()
        block = asyncio.timeout(None)
        try:
            async with block:
                if not is_serving():
                    self._blocks.add(block)
                yield
        except TimeoutError:
            if not block.expired():
                raise
            raise self._refusal() from None
        finally:
            self._blocks.discard(block)

    def _refusal(self) -> Exception:
        return copy_error(self.closing or ContainerClosedError("The container was shut down"))

    def begin_closing(self, error: ConnectionLost) -> None:
        """Fail all who wait for a connection, and who want one, other than to serve a request."""
        self.closing = error
        for block in self._blocks:
            block.reschedule(self._loop.time())
        for peer in self._active:
            peer.take_care()
            peer.fail_own_calls(error)

    def give_up(self, urls: Collection[str]) -> None:
        """End all connections and attempts to connect to these base URLs, which are lost now."""
        for peer in list(self._active):
            if peer.peer in urls and (error := self.loss(peer.peer)) is not None:
                peer.give_up(error)

    async def close(self) -> None:
        """End all attempts to connect and make no new ones; connections are left as they are."""
        await asyncio.gather(*self.cancel(), return_exceptions=True)

    def cancel(self) -> list[asyncio.Task[RpcClient]]:
        """Cancel all attempts to connect, make no new ones, and return those."""
        self.closed = True
        return [attempt for peer in self._active if (attempt := peer.cancel()) is not None]


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
        # In the order in which they were made.
        self._waiting: OrderedDict[asyncio.Future[Any], _Waiting] = OrderedDict()
        self._context = contextvars.Context()  # for timers, as in Outgoing
        self._retries = Retries(self._send_once, loop)

    @property
    def waiting(self) -> int:
        """How many calls wait for a connection."""
        return len(self._waiting)

    def send(self, content: Any, options: CallOptions | None = None) -> asyncio.Future[Any]:
        """Send a request and return the future of its reply; connect first if need be."""
        # This is replaced while there is a connection: see _dial_once().
        return self._send(content, options)

    def _send(self, content: Any, options: CallOptions | None) -> asyncio.Future[Any]:
        if options is not None and options.retries:
            deadline = deadline_of(self._loop, options, self._pool.call_timeout)
            return self._retries.send(content, options, deadline)
        return self._send_once(content, options)

    def _send_once(self, content: Any, options: CallOptions | None) -> asyncio.Future[Any]:
        self.check_not_closing()
        connection = self.connection
        if connection is not None and connection.channel.is_open:
            return connection.channel.send(content, options)
        future: asyncio.Future[Any] = self._loop.create_future()
        loss = None if self._pool.closed else self._pool.loss(self.peer)
        if loss is not None:
            future.set_exception(loss.of_call(Outcome.NOT_SENT))
            return future
        self._check_not_closed()
        call = _Waiting(content, options, contextvars.copy_context())
        deadline = deadline_of(self._loop, options, self._pool.call_timeout)
        if deadline is not None:
            call.timer = self._loop.call_at(deadline, self._expire, future, context=self._context)
            # From now on, not from when there is a connection.
            call.options = dataclasses.replace(options or CallOptions(), deadline=deadline)
        self._waiting[future] = call
        future.add_done_callback(self._given_up)
        self._start_attempt()  # which may succeed before it returns, where tasks start eagerly
        return future

    def _expire(self, future: asyncio.Future[Any]) -> None:
        """Fail a call whose time was up before there was a connection."""
        if not future.done():
            text = f"DeadlineExceeded: there was no connection to {self.peer} in time"
            future.set_exception(DeadlineExceeded(self.peer, text).of_call(Outcome.NOT_SENT))

    def check_not_closing(self) -> None:
        """Raise an error if our container makes no more calls, other than to serve requests.

        Raises:
            ContainerClosedError: that is so.
        """
        closing = self._pool.closing
        if closing is not None and not is_serving():
            raise copy_error(closing).of_call(Outcome.NOT_SENT)

    async def connect(self) -> RpcClient:
        """Return the open connection, or make one.

        Several callers share one attempt, and its error.  The attempt is given up when all of
        them have been cancelled.
        """
        caller = asyncio.current_task()
        while True:
            if self.connection is not None and self.connection.channel.is_open:
                return self.connection
            attempt = self._start_attempt()
            self._interested += 1
            try:
                return await asyncio.shield(attempt)
            except asyncio.CancelledError:
                if not attempt.cancelled() or (caller is not None and caller.cancelling()):
                    raise
                # It is not we who were cancelled: all others gave it up just before we came.
            finally:
                self._interested -= 1
                if not (self._interested or self._waiting):
                    attempt.cancel()

    def cancel(self) -> asyncio.Task[RpcClient] | None:
        """Cancel the attempt that is under way and return it."""
        if self._attempt is not None:
            self._attempt.cancel()
        return self._attempt

    def take_care(self) -> None:
        """Send no calls on the shortest way any more, which is for connections that are used."""
        self.__dict__.pop("send", None)

    def fail_own_calls(self, error: ConnectionLost) -> None:
        """Fail all calls that wait for a connection, but those that are part of a request."""
        own = [future for future, call in self._waiting.items() if not is_serving(call.context)]
        fail_all(own, copy_error(error).of_call(Outcome.NOT_SENT))

    def give_up(self, error: ConnectionLost) -> None:
        """End the connection or the attempt to connect, with all calls: this peer is lost."""
        self.cancel()
        if self.connection is not None:
            self.connection.channel.cut(error)

    def _given_up(self, future: asyncio.Future[Any]) -> None:
        """Forget a call that has ended before there was a connection."""
        call = self._waiting.pop(future, None)
        if call is not None and call.timer is not None:
            call.timer.cancel()
        if not (self._interested or self._waiting):
            self.cancel()

    def _check_not_closed(self) -> None:
        refusal = self._refusal()
        if refusal is not None:
            raise refusal.of_call(Outcome.NOT_SENT)

    def _refusal(self) -> ConnectionLost | None:
        """Return why there are no more attempts to connect, or ``None`` if there may be some."""
        if self._pool.closed:
            msg = f"The container was shut down; it does not connect to {self.peer}"
            return ContainerClosedError(msg)
        return self._pool.loss(self.peer)

    def _start_attempt(self) -> asyncio.Task[RpcClient]:
        self._check_not_closed()
        if self._attempt is None or self._attempt.done():
            self._pool.keep(self, active=True)
            # The connection belongs to all, so it is not made as a part of anybody's request.
            context = contextvars.Context()
            self._attempt = self._loop.create_task(self._dial_once(), context=context)
            self._attempt.add_done_callback(self._attempt_ended)
        return self._attempt

    async def _dial_once(self) -> RpcClient:
        connection = await self._dial(self._address)
        # In one step with what follows, so that no later call overtakes those that wait.
        self.connection = connection
        if self._pool.closing is None:  # the shortest way, as long as nothing stands in it
            self.send = connection.channel.outgoing.sender(self._send)  # type: ignore[method-assign]
        connection.channel.on_closed(lambda: self._disconnected(connection))
        while self._waiting:
            future, call = self._waiting.popitem(last=False)
            future.remove_done_callback(self._given_up)
            if call.timer is not None:
                call.timer.cancel()
            if not future.done():
                send = connection.channel.send_for
                try:
                    call.context.run(send, future, call.content, call.options)
                except Exception as exc:  # noqa: BLE001 - whatever it is, the caller gets it
                    future.set_exception(exc)
        return connection

    def _attempt_ended(self, attempt: asyncio.Task[RpcClient]) -> None:
        if attempt is not self._attempt:  # somebody has started the next one
            if not attempt.cancelled():
                attempt.exception()  # or asyncio would report that nobody has seen it
            return
        self._attempt = None
        refusal = self._refusal()
        if attempt.cancelled() and self._waiting and refusal is None:
            self._start_attempt()  # somebody has called since all others gave it up
            return
        if attempt.cancelled():
            error: BaseException | None = refusal
        else:
            error = attempt.exception()
        if error is not None:
            if not isinstance(error, ConnectionLost):
                # Whoever calls expects what a lost connection raises, whatever it was that failed.
                cause, error = error, ConnectionLost(f"No connection to {self.peer}: {error}")
                error.__cause__ = cause
            fail_all(self._waiting, error.of_call(Outcome.NOT_SENT))
        self._pool.keep(self, active=self.connection is not None)

    def _disconnected(self, connection: RpcClient) -> None:
        if self.connection is connection:
            self.connection = None
            self.take_care()
            self._pool.keep(self, active=self._attempt is not None)
