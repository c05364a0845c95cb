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

_MOST_ASKED = 64  # questions under way: whoever gets no answer for so long asks less often


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
        """Ask for it again and again; return when it has run out.

        The next time is not put off by answers that take long, so that the driver hears of us, over
        a slow link as well.

        Args:
            ask: returns when the driver has agreed, raises if it does not or cannot be reached.

        Raises:
            Exception: what *ask* has raised.
        """
        asking: set[asyncio.Task[None]] = set()
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(task: asyncio.Task[None]) -> None:
            asking.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None and not refused.done():  # else it is one of many
                refused.set_exception(error)
                refused.exception()  # nobody may wait for it any more

        try:
            while self.left > 0 and not refused.done():
                if len(asking) < _MOST_ASKED:
                    task = asyncio.create_task(self._ask(ask, now()))
                    asking.add(task)
                    task.add_done_callback(answered)
                # Not all that is left at once: the loop's clock may stand still meanwhile.
                await asyncio.wait({refused}, timeout=min(self.left, self._heartbeat))
            if refused.done():
                refused.result()
        finally:
            for task in asking:
                task.cancel()
            refused.cancel()

    async def _ask(self, ask: Callable[[], Awaitable[object]], asked: float) -> None:
        await ask()
        self._until = max(self._until, asked + self.seconds)
