"""Repeating calls that failed: only of functions that are declared idempotent, and only on request.

The side that is called decides whether a repetition is harmless; see ``again`` in the options of a
request.  Peers that know nothing of that get no repetitions.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable
from typing import Any

from aiomas._current import CallOptions
from aiomas._outgoing import NotIdempotent
from aiomas.exceptions import (
    AiomasError,
    ConnectionLost,
    ContainerClosedError,
    HandshakeError,
    Outcome,
    Overloaded,
    ProtocolError,
    ShuttingDown,
)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds

Send = Callable[[Any, CallOptions | None], asyncio.Future[Any]]


class Retries:
    """Makes calls to one peer again and again.

    Args:
        send: makes one attempt.
        loop: the event loop.
    """

    def __init__(self, send: Send, loop: asyncio.AbstractEventLoop) -> None:
        self._send = send
        self._loop = loop
        self._tasks: set[asyncio.Task[Any]] = set()

    def send(
        self, content: Any, options: CallOptions, deadline: float | None
    ) -> asyncio.Future[Any]:
        """Send a request and return the future of its reply.

        Args:
            content: what is sent.
            options: says how often it is repeated.
            deadline: when all of it has to be done, in terms of the event loop's ``time()``.
        """
        options = dataclasses.replace(options, deadline=deadline)
        first = self._send(content, dataclasses.replace(options, retries=0))
        task = self._loop.create_task(self._repeat(first, content, options))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _repeat(
        self, attempt: asyncio.Future[Any] | None, content: Any, options: CallOptions
    ) -> Any:
        again = dataclasses.replace(options, retries=0, again=True)
        pause = _FIRST_PAUSE
        failure: AiomasError | None = None  # the first one that leaves open what has happened
        last: AiomasError | None = None
        left = options.retries
        while True:
            try:
                return await (attempt or self._send(content, again))
            except NotIdempotent as exc:
                raise failure or last or exc from None
            except AiomasError as exc:
                last = exc
                if failure is None and exc.outcome not in _HAS_NOT_RUN:
                    failure = exc
                # With "full jitter", so that many callers do not come back at the same moment.
                duration = random.uniform(0, pause)  # noqa: S311 - nothing is secret about it
                if not left or not _may_pass(exc) or self._is_over(options, duration):
                    if failure is not None and exc.outcome in _HAS_NOT_RUN:
                        exc.outcome = failure.outcome  # an earlier attempt may have run
                    raise
            attempt = None
            left -= 1
            await asyncio.sleep(duration)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _is_over(self, options: CallOptions, pause: float) -> bool:
        return options.deadline is not None and self._loop.time() + pause >= options.deadline


def _may_pass(error: AiomasError) -> bool:
    """Whether the next attempt may do better."""
    return isinstance(error, ConnectionLost | Overloaded | ShuttingDown) and not isinstance(
        error, _FINAL
    )


_FINAL = ContainerClosedError | HandshakeError | ProtocolError
_HAS_NOT_RUN = (Outcome.NOT_SENT, Outcome.NOT_EXECUTED)
