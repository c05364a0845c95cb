"""What the user wants of a cluster that runs, such as more hosts: one thing after the other.

Each is a task of its own, so that a caller who is cancelled leaves nothing half done: until
something has begun that cannot be undone, it is undone, and after that it goes on without him.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from aiomas.exceptions import ClusterError

_log = logging.getLogger("aiomas.cluster")

Begun = Callable[[], None]
"""Called when something begins that cannot be undone."""
Work = Callable[[Begun], Coroutine[Any, Any, None]]


class Requests:
    """The requests of the user."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._why: str | None = None  # nothing is done any more

    async def do(self, what: str, work: Work) -> None:
        """Do something when all that was wanted before has been done.

        Args:
            what: its name, for messages.
            work: does it.

        Raises:
            ClusterError: the cluster is being stopped; or whatever *work* raises.
        """
        if self._why is not None:
            raise self._over(what)
        goes_on = False

        def begun() -> None:
            nonlocal goes_on
            goes_on = True

        task = asyncio.create_task(self._in_turn(work, begun))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.add_done_callback(lambda task: _report(what, task))  # nobody awaits it
            if not goes_on:
                task.cancel()
                await asyncio.wait({task})
            raise
        if task.cancelled() and self._why is not None:
            raise self._over(what)
        task.result()

    def end(self, why: str) -> None:
        """Do nothing more, and end what is under way."""
        self._why = self._why or why
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Return when all has ended that was under way."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _in_turn(self, work: Work, begun: Begun) -> None:
        async with self._turn:
            await work(begun)

    def _over(self, what: str) -> ClusterError:
        return ClusterError(f"{what} was not done, or not to its end: {self._why}")


def _report(what: str, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("%s, whose caller was cancelled, has failed: %s", what, error)
