"""The requests that one connection has brought and that are not answered yet.

They are taken one by one, or passed to a handler in the order in which they were sent.  While the
peer does not read its replies they wait, and there is a limit to how many may be here.
"""

from __future__ import annotations

import asyncio
import itertools
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiomas._current import Source
from aiomas._futures import copy_error
from aiomas._limits import Limits
from aiomas._served import Served
from aiomas._session import EXCEPTION
from aiomas._wire import LARGE_FRAME
from aiomas.exceptions import ConnectionLost, Outcome


class Replier(Source, Protocol):
    """What a request is answered with; the channel's protocol."""

    intake: Intake

    @property
    def extended(self) -> bool:
        """Whether both ends have agreed on the extensions; then ids are numbers without gaps."""

    def reply(self, kind: int, message_id: int, content: Any) -> None:
        """Answer a request."""

    @property
    def answer(self) -> Callable[[int, Any], None]:
        """What answers a request with its result."""

    def failure(self, message_id: int, kind: str, text: str, outcome: Outcome) -> None:
        """Answer a request that has not run, or not to its end."""

    def failure_content(self, failure: BaseException | str | list[Any]) -> Any:
        """Return what is sent for a failure of a handler."""

    def drained(self) -> Awaitable[None]:
        """Return an awaitable that waits while the peer does not read."""


class Request(Served):
    """A request that arrived, as :meth:`.Channel.recv` returns it.

    Args:
        content: the value that was sent.
        message_id: the number that the peer gave this request.
        protocol: writes the reply; the channel's protocol.
        size: how much it counts for the limits, in bytes.
        deadline: when the caller's time is up, in terms of the event loop's ``time()``.
        one_way: whether the caller wants no reply.
        again: whether the caller repeats a request that may have run already.
    """

    content: Any
    """The value that was sent."""
    message_id: int
    """The number that the peer gave this request."""
    source: Replier
    """The connection on which it came."""
    deadline: float | None
    """When the caller's time is up, in terms of the event loop's ``time()``, or ``None``."""
    one_way: bool
    """Whether the caller wants no reply."""
    again: bool
    """Whether the caller repeats a request that may have run already."""
    intake: Intake | None = None
    """For whose limits it counts, until :meth:`release`."""

    def __init__(
        self,
        content: Any,
        message_id: int,
        protocol: Replier,
        size: int = 0,
        deadline: float | None = None,
        *,
        one_way: bool = False,
        again: bool = False,
    ) -> None:
        self.content = content
        self.message_id = message_id
        self.source = protocol
        self.size = size
        """How much it counts for the limits, in bytes."""
        if deadline is not None:
            self.deadline = deadline
        if one_way or again:
            self.one_way = one_way
            self.again = again

    def __repr__(self) -> str:
        return f"<Request {self.message_id} {self.content!r:.100}>"

    def reply(self, result: Any) -> Awaitable[None]:
        """Send *result* back; await what this returns to wait while the peer does not read.

        A result that cannot be encoded becomes a :class:`~aiomas.RemoteException` over there.  If
        the connection is gone, nothing happens: nobody is left who waits for it.
        """
        self.answer(result)
        return self.source.drained()

    def fail(self, exception: BaseException | str | list[Any]) -> Awaitable[None]:
        """Raise a :class:`~aiomas.RemoteException` at the peer, with the traceback of *exception*.

        A string or a list is sent as it is.  Await what this returns to wait while the peer does
        not read.
        """
        self.release()
        if not self.one_way:
            self.source.reply(EXCEPTION, self.message_id, self.source.failure_content(exception))
        return self.source.drained()

    def answer(self, result: Any) -> None:
        """Do the same as :meth:`reply`, for those who wait for nothing."""
        intake = self.intake
        if intake is not None:  # as in release(), which would cost a call for each request
            self.intake = None
            intake.requests -= 1
            intake.bytes -= self.size
        if not self.one_way:
            answer = self.source.answer
            answer(self.message_id, result)

    def refuse(self, kind: str, text: str, outcome: Outcome = Outcome.NOT_EXECUTED) -> None:
        """Say that this request has not run, or not to its end.

        Args:
            kind: of which kind the failure is.
            text: what is wrong.
            outcome: whether the request may have run.
        """
        self.release()
        if not self.one_way:
            self.source.failure(self.message_id, kind, text, outcome)

    def release(self) -> None:
        """Count for no limit any more."""
        intake = self.intake
        if intake is not None:
            self.intake = None
            intake.requests -= 1
            intake.bytes -= self.size


ServeNow = Callable[[Replier, int, Any, int], bool]
"""Serves an ordinary request (whose it is, its number, its content and its size), or returns False
and does nothing."""


class Intake:
    """The requests of one connection.

    Args:
        limits: the limits of the connection.
        loop: the event loop.
        is_open: tells whether the connection is open.
    """

    def __init__(
        self, limits: Limits, loop: asyncio.AbstractEventLoop, is_open: Callable[[], bool]
    ) -> None:
        self.requests = 0
        """How many are here."""
        self.bytes = 0
        """How many bytes they had on the wire."""
        self._limits = limits
        self._loop = loop
        self._is_open = is_open
        self._paused = False
        self.usual = limits.max_requests, limits.max_request_bytes - LARGE_FRAME
        """While less requests with less bytes are here, one that is not large breaks no limit."""
        self._begin_turn: Callable[[Replier], ServeNow | None] = _serve_nothing
        self._handler: Callable[[Request], Any] | None = None
        self.waiting: OrderedDict[int, Request] = OrderedDict()
        """Those that have not been passed on yet."""
        self._keys = itertools.count()
        self._reader: asyncio.Future[None] | None = None
        self._error: ConnectionLost | None = None

    def limit_hit(self, size: int) -> str | None:
        """Return the name of the limit that a further request of *size* bytes breaks, if any."""
        limits = self._limits
        if self.requests >= limits.max_requests:
            return "max_requests"
        # How large a single one may be is a matter of max_frame.
        if self.bytes and self.bytes + size > limits.max_request_bytes:
            return "max_request_bytes"
        return None

    def put(self, request: Request, *, paused: bool) -> None:
        """Take a request; it waits if *paused*."""
        self.hold(request)
        if self._handler is not None and not self.waiting and not paused:
            self._handler(request)
            return
        # Elsewhere nothing says that ids are well chosen, and nobody looks for them.
        key = request.message_id if request.source.extended else next(self._keys)
        self.waiting[key] = request
        self._paused = paused
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def hold(self, request: Request) -> None:
        """Let a request count for the limits until it is released."""
        request.intake = self
        self.requests += 1
        self.bytes += request.size

    def drop(self, message_id: int) -> bool:
        """Forget a request that waits, and return whether there was one."""
        request = self.waiting.pop(message_id, None)
        if request is not None:
            request.release()
        return request is not None

    def pause(self) -> None:
        """Hand nothing over: the peer does not read its replies."""
        self._paused = True

    def resume(self) -> None:
        """Go on handing over."""
        self._paused = False
        if self.waiting and self._handler is not None:
            self._loop.call_soon(self._hand_over)

    async def get(self, description: str) -> Request:
        """Wait for the next request and return it; see :meth:`.Channel.recv`."""
        if self._reader is not None or self._handler is not None:
            msg = f"Somebody else receives the requests of {description}"
            raise RuntimeError(msg)
        while not self.waiting:  # the caller may give up before we go on
            if self._error is not None:
                raise copy_error(self._error)
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        request = self.waiting.popitem(last=False)[1]
        request.release()  # from now on it is the business of whoever takes it
        return request

    def serve(self, handler: Callable[[Request], Any]) -> None:
        """Pass all requests to *handler* from now on, and those first that wait already."""
        self._handler = handler
        self._begin_turn = getattr(handler, "begin_turn", _serve_nothing)
        if self.waiting:
            self._loop.call_soon(self._hand_over)

    def begin_turn(self, source: Replier) -> ServeNow | None:
        """Return what serves ordinary requests in fewer steps, if the handler can do so now.

        It can be used for what was received from *source* in one go, until something is put here.
        """
        return None if self.waiting else self._begin_turn(source)

    def close(self, error: ConnectionLost) -> None:
        """Hand over no more; who waits for a request gets *error*."""
        self._error = error
        if self._handler is not None:
            while self.waiting:
                self.waiting.popitem()[1].release()
            # They know each other; nobody should have to wait for the garbage collector.
            self._handler, self._begin_turn = _ignore, _serve_nothing
        if self._reader is not None and not self._reader.done():
            self._reader.set_exception(error)

    def _hand_over(self) -> None:
        try:
            while self.waiting and self._handler is not None and self._goes_on():
                self._handler(self.waiting.popitem(last=False)[1])
        finally:
            if self.waiting and self._goes_on():  # the handler has raised something
                self._loop.call_soon(self._hand_over)

    def _goes_on(self) -> bool:
        return self._is_open() and not self._paused


def _ignore(request: Request) -> None:
    request.release()


def _serve_nothing(source: Replier) -> ServeNow | None:
    del source
    return None


def describe_failure(failure: BaseException | str | list[Any], *, tracebacks: bool) -> Any:
    """Return what is sent for a failure: a traceback, or only what the exception itself says."""
    if not isinstance(failure, BaseException):
        return failure
    if tracebacks:
        return "".join(traceback.format_exception(failure))
    return "".join(traceback.format_exception_only(failure)).strip()
