"""What a container is told in any case, however long it takes until it listens again.

Who is busy for long is healthy; but if it did not hear which hosts were lost, all others would
refuse it, and it would take itself for lost.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any

from aiomas.cluster.life import Life
from aiomas.exceptions import ClusterError

_log = logging.getLogger("aiomas.cluster")


class Telling:
    """What one container has been told and may not have heard yet."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def tell(self, life: Life, method: str, *args: Any, timeout: float) -> None:
        """Call a method of the worker, once and in the order of these calls.

        Args:
            life: the process.
            method: its name.
            args: its arguments.
            timeout: seconds until this returns; what was told is heard later then.

        Raises:
            ContainerDied: the process has ended.
            ClusterError: the method failed, or was not heard yet.
        """
        # Whoever asks us for that has a deadline, which is none of the container's.
        task = asyncio.create_task(life.call(method, *args), context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._heard)
        await asyncio.wait({task}, timeout=timeout)
        if not task.done():
            msg = (
                f"Container {life.index} (pid {life.pid}) has not answered {method}() within "
                f"{timeout} s; it is done as soon as it answers again"
            )
            raise ClusterError(msg)
        task.result()

    async def close(self) -> None:
        """Tell it nothing more."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _heard(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), ClusterError):
            _log.warning("A container goes on without what it was told: %s", error)
