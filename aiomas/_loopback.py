"""Calls between agents of one container: no socket, but the same meaning.

Arguments and results pass through the codec, so that nothing is shared by accident; a function
never runs in its caller's stack; and errors look as if they came from another container.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable
from functools import partial
from typing import Any

from aiomas._current import (
    CallOptions,
    Now,
    deadline_of,
    serving,
)
from aiomas._dispatch import Dispatcher
from aiomas._futures import NOT_WAITING, copy_error
from aiomas._intake import describe_failure
from aiomas._outgoing import typed_failure
from aiomas._retries import Retries
from aiomas._served import Served
from aiomas._terms import Terms
from aiomas.codecs import Codec
from aiomas.exceptions import (
    ConnectionLost,
    DeadlineExceeded,
    DecodeError,
    Outcome,
    RemoteException,
    SerializationError,
)


class _Open:
    """What tasks that serve calls look at: no reply has to wait in here, and all can be ended."""

    blocked = False
    extended = True


class Loopback:
    """Sends calls to the container in which they are made.

    Args:
        codec: an instance of the container's codec, for this purpose only.
        dispatcher: starts the functions that are called.
        peer: the container's base URL, which errors name as their origin.
        loop: the event loop.
        terms: the container's terms.
    """

    holding = False
    """Whether replies have to wait: they never do in here."""
    identity = None
    """Nobody has to show a certificate in here."""
    extended = True
    """Whether the other end knows the extensions: it is ourselves."""
    outbox = session = _Open()

    def __init__(
        self,
        codec: Codec,
        dispatcher: Dispatcher,
        peer: str,
        loop: asyncio.AbstractEventLoop,
        terms: Terms,
    ) -> None:
        self.codec = codec
        self.peer = peer
        self.peer_url = peer
        self.dispatcher = dispatcher
        self._loop = loop
        self._terms = terms
        self._timed = terms.call_timeout is not None
        self._pending: dict[asyncio.Future[Any], bool] = {}  # whether a handler has made them
        self._next_id = 0
        self._now = Now.of(loop)
        self._context = contextvars.Context()  # for timers, as in Outgoing
        self._open = True
        self._closing: ConnectionLost | None = None  # for calls that serve no request
        self._retries = Retries(self._send_once, loop)

    @property
    def pending(self) -> int:
        """How many calls have no reply yet."""
        return len(self._pending)

    def drained(self) -> Awaitable[None]:
        """Return an awaitable that does not wait."""
        return NOT_WAITING

    def send(self, content: Any, options: CallOptions | None = None) -> asyncio.Future[Any]:
        """Send a request and return the future of its reply; see :meth:`.Channel.send`."""
        if options is not None and options.retries:
            deadline = deadline_of(self._loop, options, self._terms.call_timeout)
            return self._retries.send(content, options, deadline)
        return self._send_once(content, options)

    def _send_once(self, content: Any, options: CallOptions | None) -> asyncio.Future[Any]:
        call = serving.get()
        of_handler = self._now.is_serving(call)
        if self._closing is not None and not (of_handler and self._open):
            raise copy_error(self._closing).of_call(Outcome.NOT_SENT)
        deadline = None
        if options is not None or self._timed or call is not None:
            deadline = deadline_of(self._loop, options, self._terms.call_timeout)
        try:
            data = self.codec.encode(content)
        except SerializationError as exc:
            exc.of_call(Outcome.NOT_SENT)
            raise
        future: asyncio.Future[Any] = self._loop.create_future()
        message_id = self._next_id
        self._next_id += 1
        counters = self._terms.counters
        counters.calls_out += 1
        counters.calls_in += 1
        request = _Request(message_id, future, self, deadline)
        if options is not None:
            request.one_way = options.one_way
            request.again = options.again
        if request.one_way:
            self._loop.call_soon(_finish, future)
        else:
            # What is part of serving a request may end while we shut down.
            self._pending[future] = of_handler
            if deadline is not None:
                timer = self._loop.call_at(deadline, self._expire, future, context=self._context)
                future.add_done_callback(lambda _: timer.cancel())
        # What the caller's context holds would not travel to another container, either.
        self._loop.call_soon(self._deliver, data, request, context=self._context)
        return future

    def fail_own_calls(self, error: ConnectionLost) -> None:
        """Fail all calls, but those that are part of serving a request, from now on."""
        self._closing = error
        self._fail([call for call, of_handler in self._pending.items() if not of_handler], error)

    def close(self, error: ConnectionLost) -> None:
        """Fail all calls without a reply, and all that are made from now on, with *error*."""
        self._closing = error
        self._open = False
        self._fail(list(self._pending), error)
        self._pending.clear()

    def settle(self, future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        """Give a call its result or its error."""
        self._pending.pop(future, None)
        if future.done():
            return  # the caller has given up
        if error is not None:
            self._terms.counters.errors += 1
            future.set_exception(error)
        else:
            future.set_result(result)

    def describe(self, failure: BaseException | str | list[Any]) -> Any:
        """Return what the caller sees of a failure."""
        return describe_failure(failure, tracebacks=self._terms.tracebacks)

    def _fail(self, calls: list[asyncio.Future[Any]], error: ConnectionLost) -> None:
        for call in calls:
            if not call.done():
                call.set_exception(copy_error(error).of_call(Outcome.MAYBE_EXECUTED))

    def _expire(self, future: asyncio.Future[Any]) -> None:
        text = "DeadlineExceeded: there was no reply in time"
        self.settle(future, None, DeadlineExceeded(self.peer, text).of_call(Outcome.MAYBE_EXECUTED))

    def _given_up(self, message_id: int, future: asyncio.Future[Any]) -> None:
        self._pending.pop(future, None)
        if future.cancelled():  # while we shut down, what is being served may end
            self.dispatcher.cancel(message_id)

    def decode(self, data: bytes) -> tuple[Any, DecodeError | None]:
        """Return the value that *data* stands for, or why it stands for none."""
        try:
            return self.codec.decode_message(data)
        except DecodeError as exc:
            return None, exc

    def _deliver(self, data: bytes, request: _Request) -> None:
        future = request.future
        if future.cancelled():
            self._pending.pop(future, None)
            return
        request.content, error = self.decode(data)
        if error is not None:
            request.refuse("bad request", f"{type(error).__name__}: {error}")
            return
        self.dispatcher(request)
        if not (future.done() or request.one_way):
            # It is being served, and does not know yet whether its caller waits till the end.
            future.add_done_callback(partial(self._given_up, request.message_id))


class _Request(Served):
    def __init__(
        self,
        message_id: int,
        future: asyncio.Future[Any],
        source: Loopback,
        deadline: float | None,
    ) -> None:
        self.content: Any = None
        self.message_id = message_id
        self.future = future
        self.source: Loopback = source
        if deadline is not None:
            self.deadline = deadline

    def answer(self, result: Any) -> None:
        if self.one_way:
            return
        codec = self.source.codec
        try:
            data = codec.encode(result)
        except SerializationError as exc:
            self.fail(f"{type(exc).__name__}: {exc}")
            return
        value, error = self.source.decode(data)
        if error is not None:
            error.of_call(Outcome.EXECUTED)
        self.source.settle(self.future, value, error)

    def fail(self, failure: BaseException | str | list[Any]) -> None:
        if not self.one_way:
            error = RemoteException(self.source.peer, self.source.describe(failure))
            self.source.settle(self.future, None, error.of_call(Outcome.EXECUTED))

    def refuse(self, kind: str, text: str, outcome: Outcome = Outcome.NOT_EXECUTED) -> None:
        if not self.one_way:
            self.source.settle(
                self.future, None, typed_failure(self.source.peer, (kind, text, str(outcome)))
            )


def _finish(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)
