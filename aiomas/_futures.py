"""Futures and awaitables that more than one party may wait for."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)


class Waiting:
    """Awaits a future that others await as well, so that none of them can cancel it.

    Nothing happens, and nothing is left behind, unless somebody does await it.
    """

    def __init__(self, future: asyncio.Future[None]) -> None:
        self._future = future

    def __await__(self) -> Generator[Any, None, None]:
        yield from asyncio.shield(self._future)


class _Nothing:
    def __await__(self) -> Generator[Any, None, None]:
        yield from ()


NOTHING = _Nothing()
"""Is awaited where there is nothing to wait for."""


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
