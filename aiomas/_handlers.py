"""The coroutine functions that run because somebody called them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

logger = logging.getLogger(__name__)

_PATHS = 5  # that are named in a log line
_END_TIMEOUT = 10.0  # seconds that a cancelled task gets to clean up


class Handlers:
    """Tasks that serve requests, and their paths; they may outlive their connections."""

    def __init__(self) -> None:
        self.paths: dict[asyncio.Task[None], str] = {}
        """What each task serves; whoever starts one puts it in here, and removes it at its end."""
        self._leaving: set[asyncio.Task[Any]] = set()
        self._ends: dict[asyncio.Task[None], asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[asyncio.Task[None]]:
        return iter(self.paths)

    def cancel(self) -> None:
        """Cancel all but those that wait for the end of :meth:`drain`."""
        for task in self.paths.keys() - self._leaving:
            task.cancel()

    @contextlib.contextmanager
    def not_waiting_for(self, task: asyncio.Task[Any] | None) -> Iterator[None]:
        """Within the block :meth:`drain` does not wait for *task*, which waits for that itself."""
        if task is None:
            yield
            return
        self._leaving.add(task)  # also if it is not ours yet: it may have begun eagerly
        self._ended(task)
        try:
            yield
        finally:
            self._leaving.discard(task)

    async def drain(self, timeout: float, prefix: str = "") -> None:
        """Wait until all calls have been served, and cancel those that take too long.

        Args:
            timeout: seconds that they have.
            prefix: what the paths of these calls begin with.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        # Again and again, as handlers that are being drained may call others in here.
        while late := self._below(prefix):
            left = until - loop.time()
            if left <= 0:
                break
            await asyncio.wait(self._ends_of(late), timeout=left)
        for task in late:
            task.cancel()
        if late:
            paths = sorted({self.paths[task] for task in late})
            logger.warning(
                "Cancelled %s calls, which have not ended within timeout=%s s: %s%s",
                len(late),
                timeout,
                ", ".join(paths[:_PATHS]),
                ", ..." if len(paths) > _PATHS else "",
            )
            await asyncio.wait(self._ends_of(late), timeout=_END_TIMEOUT)

    def _below(self, prefix: str) -> set[asyncio.Task[None]]:
        tasks = {task for task, path in self.paths.items() if path.startswith(prefix)}
        return tasks - self._leaving

    def _ends_of(self, tasks: set[asyncio.Task[None]]) -> list[asyncio.Future[None]]:
        for task in tasks - self._ends.keys():
            self._ends[task] = task.get_loop().create_future()
            task.add_done_callback(self._ended)
        return [self._ends[task] for task in tasks]

    def _ended(self, task: asyncio.Task[Any]) -> None:
        end = self._ends.pop(task, None)
        if end is not None and not end.done():
            end.set_result(None)
