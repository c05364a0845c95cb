"""Futures and awaitables that more than one party may wait for."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine, Generator, Iterable
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)


class Waiting(Coroutine[Any, Any, None]):
    """Awaits a future that others await as well, so that none of them can cancel it.

    It can be used wherever a coroutine can.  Nothing happens, and nothing is left behind, unless
    somebody does await it.
    """

    def __init__(self, future: asyncio.Future[None] | None) -> None:
        self._future = future
        self._steps: Generator[Any, None, None] | None = None

    def __await__(self) -> Generator[Any, None, None]:
        if self._future is not None:
            yield from asyncio.shield(self._future)

    def send(self, value: Any) -> Any:
        """Go on, as any coroutine does."""
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        """Go on with an exception, as any coroutine does."""
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.throw(*error)

    def close(self) -> None:
        """End, as any coroutine does."""
        if self._steps is not None:
            self._steps.close()


class _NotWaiting(Coroutine[Any, Any, None]):
    """Does not wait, however often and by however many it is awaited."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield

    def send(self, value: Any) -> Any:
        """End, as any coroutine does that has nothing to wait for."""
        del value
        raise StopIteration

    def throw(self, *error: Any) -> Any:
        """Raise *error*, as any coroutine does that has ended."""
        return self.__await__().throw(*error)

    def close(self) -> None:
        """Do nothing."""


NOT_WAITING = _NotWaiting()
"""For those who need not wait: there is one for all of them."""


def fail_all(futures: Iterable[asyncio.Future[Any]], error: BaseException) -> None:
    """Set an exception like *error* to all futures that are not done."""
    for future in list(futures):
        if not future.done():
            future.set_exception(copy_error(error))


def copy_error(error: E) -> E:
    """Return an exception like *error*: one that was raised keeps the tracebacks of all raisers."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own
