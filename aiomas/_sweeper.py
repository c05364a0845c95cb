"""Lets the connections of an event loop look now and then whether callers have given up.

There is one timer for all of them: they may be thousands, each of which is rarely used.
"""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from typing import ClassVar, Protocol

_INTERVAL = 0.25  # seconds after which it is noticed that a caller has given up


class Swept(Protocol):
    """Something that has to be looked at, such as the requests of one connection."""

    def sweep(self) -> bool:
        """Look, and return whether to do that again."""


class Sweeper:
    """Looks at all that has to be looked at in one event loop.

    Args:
        loop: the event loop.
    """

    _of_loops: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Sweeper]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Nothing here may keep the loop alive, or its entry above would do so for ever.
        self._loop = weakref.ref(loop)
        self._swept: weakref.WeakSet[Swept] = weakref.WeakSet()
        self._timer: weakref.ref[asyncio.TimerHandle] | None = None
        self._context = contextvars.Context()  # the timer belongs to nobody's request

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Sweeper:
        """Return that of *loop*."""
        sweeper = cls._of_loops.get(loop)
        if sweeper is None:
            sweeper = cls._of_loops[loop] = cls(loop)
        return sweeper

    def add(self, swept: Swept) -> None:
        """Look at *swept* until it says that it is enough."""
        self._swept.add(swept)
        self._plan()

    def remove(self, swept: Swept) -> None:
        """Do not look at *swept* any more."""
        self._swept.discard(swept)
        timer = None if self._timer is None else self._timer()
        if timer is not None and not self._swept:
            timer.cancel()
            self._timer = None

    def _plan(self) -> None:
        loop = self._loop()
        if self._timer is None and loop is not None:
            timer = loop.call_later(_INTERVAL, self._sweep, context=self._context)
            self._timer = weakref.ref(timer)

    def _sweep(self) -> None:
        self._timer = None
        try:
            for swept in list(self._swept):
                self._swept.discard(swept)  # nor is it looked at again after an error
                if swept.sweep():
                    self._swept.add(swept)
        finally:
            if self._swept:
                self._plan()
