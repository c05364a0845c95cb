"""How a host knows that its driver still wants it, and the driver that a host still lives.

A supervisor asks its driver for its lease again and again.  What it gets holds from the moment when
it has *asked*, so however long the answer was on its way, the driver, which has noted when it was
asked, knows a time by which the lease has run out for certain.  (The idea is that of Gray and
Cheriton, "Leases: an efficient fault-tolerant mechanism for distributed file cache consistency",
1989; nobody's clock has to be right, but both have to go at the same speed.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

MISSED = 3
"""How many heartbeats a host may miss before it is taken for lost."""
_TICKS = 4  # looks at the clock in one heartbeat


def now() -> float:
    """Return the time in seconds since some moment; it goes on while the machine is suspended."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Lease:
    """The permission to run containers, for so long.

    Args:
        seconds: how long it holds.
        heartbeat: seconds between two times that it is asked for.
    """

    def __init__(self, seconds: float, heartbeat: float) -> None:
        self.seconds = seconds
        self._heartbeat = heartbeat
        self._until = now() + seconds

    @property
    def left(self) -> float:
        """Seconds until it runs out; negative if it has."""
        return self._until - now()

    async def keep(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Ask for it again and again; return when it has run out, or was refused.

        Args:
            ask: returns when the driver has agreed, raises if it does not or cannot be reached.

        Raises:
            Exception: what *ask* has raised.
        """
        while self.left > 0:
            asked = now()
            asking = asyncio.ensure_future(ask())
            try:
                while not asking.done() and self.left > 0:
                    # Not all that is left at once: the loop's clock may stand still meanwhile.
                    await asyncio.wait({asking}, timeout=min(self.left, self._heartbeat))
                if not asking.done():
                    return
                await asking
            finally:
                asking.cancel()
            self._until = asked + self.seconds
            await asyncio.sleep(max(0.0, asked + self._heartbeat - now()))


class Silence:
    """How long a host has not been heard of, as far as that can be told.

    Args:
        heartbeat: seconds; see :class:`Lease`.
    """

    def __init__(self, heartbeat: float) -> None:
        self.heard = now()
        """When it was heard of for the last time."""
        self._heartbeat = heartbeat
        self._excused = 0.0  # seconds that we have slept through ourselves

    @property
    def limit(self) -> float:
        """Seconds after which it is taken for lost."""
        return MISSED * self._heartbeat

    def interrupt(self) -> None:
        """Note that the host was heard of."""
        self.heard = now()
        self._excused = 0.0

    async def too_long(self) -> float:
        """Return when it has lasted for too long; its length in seconds.

        Time in which we did not run ourselves does not count.
        """
        tick = self._heartbeat / _TICKS
        while True:
            before = now()
            await asyncio.sleep(tick)
            self._excused += max(0.0, now() - before - 2 * tick)
            silent = now() - self.heard
            if silent - self._excused > self.limit:
                return silent
