"""The call that the current task serves, and what the calls that it makes have to do with it.

A handler that calls others hands on what is left of its time, and its calls live on while its
container shuts down.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import weakref
from typing import Any, ClassVar, Protocol

from aiomas.tls import PeerIdentity

__all__ = ["Call", "current_call"]


@dataclasses.dataclass(frozen=True, slots=True)
class CallOptions:
    """What a caller asks for beyond the call itself."""

    timeout: float | None = None
    """Seconds that the call has; ``None`` for what is left of the caller's own time."""
    one_way: bool = False
    """Whether there is to be no reply."""
    retries: int = 0
    """How often a call of an idempotent function is repeated if the connection fails."""
    again: bool = False
    """Whether this is such a repetition."""
    deadline: float | None = None
    """When the call has to be done, in terms of the event loop's ``time()``; beats *timeout*."""


class Source(Protocol):
    """Where a request has come from."""

    @property
    def peer(self) -> Any:
        """The address of the other end, as its transport names it."""

    @property
    def peer_url(self) -> str | None:
        """The base URL of the container at the other end, as far as known."""

    @property
    def identity(self) -> PeerIdentity | None:
        """Who is at the other end, as its certificate says."""


class Call:
    """A call that is being served; :func:`current_call` returns the one of the current task."""

    path = ""
    """The path of the function, from the root router."""
    deadline: float | None = None
    """When the caller's time is up, in terms of the event loop's ``time()``, or ``None``."""
    one_way = False
    """Whether the caller wants no reply."""
    active = False
    """Whether it is still being served."""
    _source: Source

    def __init__(
        self, path: str, source: Source, deadline: float | None = None, *, one_way: bool = False
    ) -> None:
        self.path = path
        self.deadline = deadline
        self.one_way = one_way
        self.active = True
        self._source = source

    def __repr__(self) -> str:
        return f"<Call of {self.path!r} by {self.peer_url or self.peer}>"

    @property
    def peer(self) -> Any:
        """The address of the caller's end of the connection, as its transport names it."""
        return self._source.peer

    @property
    def peer_url(self) -> str | None:
        """The base URL of the caller's container, as it says itself; ``None`` if it does not."""
        return self._source.peer_url

    @property
    def identity(self) -> PeerIdentity | None:
        """Who is calling, as the caller's certificate says, which was verified.

        ``None`` for calls that do not come over TLS, such as those within a container.
        """
        return self._source.identity

    def call(self) -> Call:
        """Return itself, as what serves a call does."""
        return self

    def time_left(self) -> float | None:
        """Return how many seconds are left of the caller's time, or ``None`` for no limit."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - asyncio.get_running_loop().time())


class Server(Protocol):
    """What serves a call with an ordinary function, which nothing else can interrupt."""

    def call(self) -> Call:
        """Return the call."""


class Serving(Server, Protocol):
    """What stands for a call that is being served by a task."""

    active: bool
    """Whether it is still being served."""
    deadline: float | None
    """When the caller's time is up, in terms of the event loop's ``time()``, or ``None``."""


serving: contextvars.ContextVar[Serving | None] = contextvars.ContextVar(
    "aiomas_serving", default=None
)
"""What stands for the call that the current task serves."""


class Now:
    """What an event loop is doing at this moment.

    An ordinary function serves its call from its beginning to its end without anything in between,
    so that it is enough to note here who has called it: a context variable, and a :class:`Call`
    that nobody asks for, would take a third of the time that it takes to serve a short call.  So
    whatever the function runs belongs to its call, even in a context of its own.
    """

    __slots__ = ("__weakref__", "server")

    _of_loops: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Now]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self) -> None:
        self.server: Server | None = None
        """What serves a call with an ordinary function now."""

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Now:
        """Return that of *loop*."""
        now = cls._of_loops.get(loop)
        if now is None:
            now = cls._of_loops[loop] = cls()
        return now

    def is_serving(self, call: Serving | None) -> bool:
        """Whether a request is being served, with *call* in the context."""
        return self.server is not None or (call is not None and call.active)


def _serving_now() -> Server | None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return Now.of(loop).server


def served() -> object:
    """Return something that stands for the call that is being served here, or ``None``."""
    server = _serving_now()
    return serving.get() if server is None else server.call()


def current_call() -> Call:
    """Return the call that the current task serves: who is calling, and how long it may take.

    Raises:
        LookupError: no call is being served here.
    """
    server = _serving_now()
    if server is None:  # not "or": a dispatcher has a length
        server = serving.get()
    call = None if server is None else server.call()
    if call is None or not call.active:
        msg = "current_call() is for functions that serve a call of an aiomas peer"
        raise LookupError(msg)
    return call


def is_serving(context: contextvars.Context | None = None) -> bool:
    """Whether the current task (or the one with this context) serves a request."""
    if context is None and _serving_now() is not None:
        return True
    call = serving.get() if context is None else context.get(serving)
    return call is not None and call.active


def deadline_of(
    loop: asyncio.AbstractEventLoop, options: CallOptions | None, default: float | None
) -> float | None:
    """Return when a call that is made now has to be done, or ``None`` if there is no such time.

    It is the earliest of what the caller asks for, what is left to it, and the default.

    Args:
        loop: the event loop.
        options: what the caller asks for.
        default: seconds that a call has if the caller does not say so.
    """
    if options is not None and options.deadline is not None:
        return options.deadline
    call = serving.get()  # an ordinary function with a deadline has one as well
    inherited = None if call is None or not call.active else call.deadline
    timeout = default if options is None or options.timeout is None else options.timeout
    if timeout is None:
        return inherited
    deadline = loop.time() + timeout
    return deadline if inherited is None else min(deadline, inherited)
