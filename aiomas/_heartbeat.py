"""Finds out that a peer has vanished: by silence, and by asking it for a sign of life.

Any byte that arrives counts for the peer.  Time in which our own event loop was blocked does not
count against it.  How a ping travels is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_EARLY = 0.001  # seconds by which a timer may be early; loops round


class Heartbeat:
    """Watches over one peer.

    Args:
        loop: the event loop.
        interval: seconds of silence after which the peer is asked.
        misses: so many times *interval*, and the peer is lost.
        ask: sends a ping.
        excused: whether silence is to be expected now.
        lost: called when the peer was silent for too long.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        interval: float,
        misses: int,
        *,
        ask: Callable[[], None],
        excused: Callable[[], bool],
        lost: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._interval = interval
        self._misses = misses
        self._ask = ask
        self._excused = excused
        self._lost = lost
        self.heard_at = loop.time()
        """When something was heard of the peer."""
        self._due = 0.0
        self._timer: asyncio.TimerHandle
        self._plan()

    def heard(self) -> None:
        """Note that the peer is alive."""
        self.heard_at = self._loop.time()

    def stop(self) -> None:
        """Watch no more."""
        self._timer.cancel()

    def _plan(self) -> None:
        """Look again when another interval of silence would be over."""
        silence = self._loop.time() - self.heard_at
        intervals = int((silence + _EARLY) / self._interval) + 1
        self._due = self.heard_at + intervals * self._interval
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        # While we were late, we heard nothing of anybody.
        now = self._loop.time()
        late = now - self._due
        if late > self._interval / 10:
            self.heard_at = min(now, self.heard_at + late)
        if self._excused():
            self.heard_at = now
        silence = now - self.heard_at + _EARLY
        if silence >= self._misses * self._interval:
            self._lost()
            return
        if silence >= self._interval:
            self._ask()
        self._plan()
