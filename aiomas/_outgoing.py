"""The requests that one end of a connection has made, from the call to its result or error.

A caller that gives up is noticed by a sweep over all that is pending, a few times a second: that
costs far less than watching each of the futures.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from aiomas._current import (
    CallOptions,
    deadline_of,
    is_serving,
)
from aiomas._futures import copy_error
from aiomas._outbox import Outbox
from aiomas._session import EXCEPTION, Session, State
from aiomas._shortcuts import Send, Watch, sender
from aiomas._sweeper import Sweeper
from aiomas._terms import Terms
from aiomas.codecs import Codec
from aiomas.exceptions import (
    AiomasError,
    ConnectionLost,
    DeadlineExceeded,
    DecodeError,
    Outcome,
    Overloaded,
    PermissionDenied,
    RemoteException,
    RemoteLookupError,
    ShuttingDown,
)


class NotIdempotent(RemoteException):
    """The other side does not let us repeat a call."""


_OUTCOMES = frozenset(Outcome)
_KINDS: Mapping[str, type[RemoteException]] = {
    "lookup": RemoteLookupError,
    "denied": PermissionDenied,
    "overloaded": Overloaded,
    "deadline": DeadlineExceeded,
    "not idempotent": NotIdempotent,
    "refused": ShuttingDown,
}


class Outgoing:
    """The requests made at one end of a connection.

    Args:
        session: numbers them.
        codec: encodes them.
        outbox: sends them.
        terms: our terms.
        loop: the event loop.
        is_open: tells whether the connection is open.
        peer: tells the address of the other end.
        at_once: notice at once that a caller has given up, so that nothing depends on time.
    """

    def __init__(
        self,
        session: Session[asyncio.Future[Any]],
        codec: Codec,
        outbox: Outbox,
        terms: Terms,
        loop: asyncio.AbstractEventLoop,
        is_open: Callable[[], bool],
        peer: Callable[[], Any],
        *,
        at_once: bool,
    ) -> None:
        self._session = session
        self._codec = codec
        self._outbox = outbox
        self._terms = terms
        self._counters = terms.counters
        self._loop = loop
        self._is_open = is_open
        self._peer = peer
        self._at_once = at_once
        self._watch = Watch()
        self._sweeper = Sweeper.of(loop)
        self._seen_id = -1  # the number of the next request, at the last sweep
        # For timers: a cancelled one stays in the loop for a while, and would hold its caller's.
        self._context = contextvars.Context()
        # In asyncio's debug mode: what was sent, and where, for the errors of calls.
        self._sent: dict[asyncio.Future[Any], str] = {}
        self._debug = self._loop.get_debug()

    def sender(self, otherwise: Send) -> Send:
        """Return a function that sends requests, on the shortest way or as *otherwise* does it."""
        return sender(
            self._session,
            self._codec,
            self._outbox,
            self._counters,
            self._watch,
            self._loop,
            otherwise,
        )

    def send_for(
        self, future: asyncio.Future[Any], content: Any, options: CallOptions | None = None
    ) -> None:
        """Send a request whose reply *future* gets.

        Raises:
            ConnectionLost: the connection is closed.
            SerializationError: *content* cannot be encoded.
        """
        if not self._is_open():
            msg = f"The connection to {self._peer()} is closed; the request was not sent"
            raise ConnectionLost(msg).of_call(Outcome.NOT_SENT)
        deadline = deadline_of(self._loop, options, self._terms.call_timeout)
        wire = None
        if options is not None or deadline is not None:
            wire = self._on_the_wire(options, deadline)
            if options is not None and options.one_way:
                self._send_one_way(future, content, wire, deadline)
                return
            if options is not None and options.again and wire is None:
                text = "the peer does not know what may be repeated"
                self.failed(future, NotIdempotent(self._peer(), text).of_call(Outcome.NOT_SENT))
                return
        self._send(future, content, wire, deadline)

    def _send(
        self,
        future: asyncio.Future[Any],
        content: Any,
        wire: dict[str, Any] | None,
        deadline: float | None,
    ) -> None:
        message_id = self._session.next_id
        data = self._session.request(content, future, wire)
        if not self._submit(future, message_id, data, deadline):
            return
        if is_serving():
            self._watch.of_handlers.add(message_id)
        if not self._at_once:
            self._be_swept()
        if self._debug:
            self._sent[future] = f"The request was {content!r:.200}, sent from:\n{_caller()}"
            future.add_done_callback(self._sent.pop)
        if deadline is not None:
            timer = self._loop.call_at(deadline, self._expire, future, context=self._context)
            future.add_done_callback(lambda _: timer.cancel())
        if self._at_once:
            future.add_done_callback(partial(self._given_up, message_id))

    def ended(self, kind: int, future: asyncio.Future[Any], content: Any) -> None:
        """Take a reply that is no result: raise it where *future* is awaited."""
        origin = self._peer()
        error: AiomasError
        if kind == EXCEPTION:
            error = RemoteException(origin, content)
            # An old peer says the same about a call that it has refused.
            extended = self._session.extended
            error.outcome = Outcome.EXECUTED if extended else Outcome.MAYBE_EXECUTED
        else:
            error = typed_failure(origin, content)
        self.failed(future, error)

    def undecodable(self, future: asyncio.Future[Any], error: DecodeError) -> None:
        """Take a reply that holds an object which cannot be decoded."""
        self.failed(future, error.of_call(Outcome.EXECUTED))

    def failed(self, future: asyncio.Future[Any], error: BaseException) -> None:
        """Raise *error* where *future* is awaited, unless its caller has given up."""
        if future in self._sent:
            error.add_note(self._sent[future])
        if not future.done():
            self._counters.errors += 1
            future.set_exception(error)

    def fail(self, calls: Mapping[int, asyncio.Future[Any]], error: ConnectionLost) -> None:
        """Fail calls of a connection that ends, with errors that say which of them have left."""
        unsent = self._outbox.first_unsent()
        for message_id, future in calls.items():
            outcome = Outcome.NOT_SENT if message_id >= unsent else Outcome.MAYBE_EXECUTED
            self.failed(future, copy_error(error).of_call(outcome))

    def fail_own(self, error: ConnectionLost) -> None:
        """Fail all calls without a reply, but those that are part of serving a request."""
        calls = self._session.waiters()
        self._abandon([calls[number] for number in calls.keys() - self._watch.of_handlers], error)

    def fail_all(self, error: ConnectionLost) -> None:
        """Fail all calls without a reply."""
        self._abandon(self._session.waiters().values(), error)

    def _abandon(self, calls: Iterable[asyncio.Future[Any]], error: ConnectionLost) -> None:
        for call in calls:  # those that still wait for the peer to read will be sent
            self.failed(call, copy_error(error).of_call(Outcome.MAYBE_EXECUTED))

    def stop(self) -> None:
        """Look after nothing any more: the connection has ended."""
        self._watch.idle = False
        self._sweeper.remove(self)

    def _on_the_wire(
        self, options: CallOptions | None, deadline: float | None
    ) -> dict[str, Any] | None:
        """Return what of the options travels with a request; ``None`` for nothing."""
        if not self._session.extended:
            return None
        wire: dict[str, Any] = {}
        if deadline is not None:
            now = self._loop.time()
            wire = {"timeout": deadline - now, "sent": now}
        if options is not None and options.one_way:
            wire["one_way"] = True
        if options is not None and options.again:
            wire["again"] = True
        return wire or None

    def _submit(
        self, future: asyncio.Future[Any], message_id: int, data: bytes, deadline: float | None
    ) -> bool:
        """Send the frame of the last request; or let *future* fail, and return ``False``."""
        if deadline is not None and deadline <= self._loop.time():
            refusal: RemoteException = _out_of_time(self._peer()).of_call(Outcome.NOT_SENT)
        elif self._outbox.holding and not self._outbox.has_room(len(data)):
            refusal = self._no_room()
        else:
            self._outbox.send(data, message_id)
            self._counters.calls_out += 1
            return True
        self._session.take_back(message_id)
        self.failed(future, refusal)
        return False

    def _expire(self, future: asyncio.Future[Any]) -> None:
        # Even what still waits for the peer to read will be sent.
        self.failed(future, _out_of_time(self._peer()).of_call(Outcome.MAYBE_EXECUTED))

    def _send_one_way(
        self,
        future: asyncio.Future[Any],
        content: Any,
        wire: dict[str, Any] | None,
        deadline: float | None,
    ) -> None:
        """Send a request without a reply; *future* is done when the transport has taken it."""
        message_id = self._session.next_id
        if wire is not None:
            data = self._session.one_way(content, wire)
        else:  # the peer will reply, and nobody is interested
            reply: asyncio.Future[Any] = self._loop.create_future()
            reply.add_done_callback(lambda reply: reply.cancelled() or reply.exception())
            data = self._session.request(content, reply)
        if self._submit(future, message_id, data, deadline):
            self._loop.call_soon(self._check_left, future, message_id)

    def _check_left(self, future: asyncio.Future[Any], message_id: int) -> None:
        if future.done():
            return
        if message_id < self._outbox.first_unsent():
            future.set_result(None)
        elif self._session.state is State.CLOSED:
            error = ConnectionLost(f"The connection to {self._peer()} was lost")
            self.failed(future, error.of_call(Outcome.NOT_SENT))
        else:
            self._outbox.on_room(partial(self._check_left, future, message_id))

    def _no_room(self) -> Overloaded:
        text = (
            f"Overloaded: {self._outbox.held_bytes} bytes wait for a peer that does not read them, "
            f"which is the limit write_cap={self._terms.limits.write_cap}"
        )
        self._counters.limits_hit["write_cap"] += 1
        return Overloaded(self._peer(), text).of_call(Outcome.NOT_SENT)

    def _given_up(self, message_id: int, _: asyncio.Future[Any]) -> None:
        """Look whether a future that is done was still waited for by the session."""
        self._watch.of_handlers.discard(message_id)
        self._tell(self._session.forget_one(message_id))

    def sweep(self) -> bool:
        """Look which callers have given up; return whether to do that again."""
        self._tell(self._session.forget(asyncio.Future.done))
        # Those that have been answered are of no interest any more.
        self._watch.of_handlers.intersection_update(self._session.waiting)
        was_used = self._session.next_id != self._seen_id
        self._seen_id = self._session.next_id
        if was_used or self._session.pending:
            self._be_swept()
            return True
        self._watch.idle = False
        return False

    def _be_swept(self) -> None:
        """Let somebody look soon whether callers have given up, so that requests need no care."""
        self._debug = self._loop.get_debug()
        self._watch.idle = not self._debug and self._terms.call_timeout is None
        self._sweeper.add(self)

    def _tell(self, given_up: Iterable[int]) -> None:
        if self._session.extended and self._is_open():
            for message_id in given_up:
                self._outbox.send(self._session.cancel(message_id))


def typed_failure(origin: Any, content: Any) -> RemoteException:
    """Return the exception for what a peer says about a call that it has refused or ended."""
    match content:
        case [str(kind), text, str(outcome)] if outcome in _OUTCOMES:
            return _KINDS.get(kind, RemoteException)(origin, text).of_call(Outcome(outcome))
    return RemoteException(origin, content).of_call(Outcome.MAYBE_EXECUTED)


def _out_of_time(origin: Any) -> DeadlineExceeded:
    return DeadlineExceeded(origin, "DeadlineExceeded: there was no reply in time")


def _caller() -> str:
    """Return the part of the call stack that is the user's."""
    stack = [f for f in traceback.extract_stack() if not f.filename.startswith(_NOT_THE_USERS)]
    return "".join(traceback.format_list(stack[-_CALLERS:]))


_CALLERS = 3  # so many lines of a stack tell where something came from
# Strings, like the file names in a stack.
_NOT_THE_USERS = (os.path.dirname(__file__), os.path.dirname(asyncio.__file__))  # noqa: PTH120
