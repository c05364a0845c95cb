"""The end of a container process whose host was taken for lost.

The rest of the cluster goes on in a new generation, and may have made our agents again elsewhere.
So whoever notices that ends soon, whatever its event loop is busy with: a thread looks after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

FENCED = 70
"""The exit code of a process that ended because its host was taken for lost."""

OUTDATED_GRACE = 5.0
"""Seconds in which we may still be told of a generation that somebody else knows already."""

END_TIMEOUT = 1.0
"""Seconds that shutting down may take then."""

_log = logging.getLogger("aiomas.cluster")


def first_generation(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what a container is told about generations before it serves anybody.

    Args:
        fields: those of its start, of which these are read if they are there: ``generation`` (0 by
            default), which it uses; ``accept`` and ``known``, by default the same; and ``lost``.

    Returns:
        The parameters of :meth:`.ClusterContainer.set_generation`.
    """
    use = fields.get("generation", 0)
    return {
        "accept": fields.get("accept", use),
        "known": fields.get("known", use),
        "use": use,
        "lost": fields.get("lost", ()),
    }


class Fence:
    """Ends this process if it belongs to a part of the cluster that was given up.

    Args:
        shut_down: ends what the process does, in the event loop.
    """

    def __init__(self, shut_down: Callable[[], Awaitable[object]]) -> None:
        self._shut_down = shut_down
        self._seen = 0  # the newest generation that others know
        self._told = threading.Event()  # of that one
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None

    def outdated(self, generation: int) -> None:
        """Take from the container that a peer is of a newer *generation* than it knows of."""
        self._seen = max(self._seen, generation)
        if self._thread is not None and not self._told.is_set():
            return
        self._told = threading.Event()
        self._thread = threading.Thread(
            target=self._wait,
            args=(self._told, asyncio.get_running_loop()),
            name="fence",
            daemon=True,
        )
        self._thread.start()

    def told(self, known: int) -> None:
        """Take from the supervisor which generation is the newest one: we may belong to it."""
        if known >= self._seen:
            self.disarm()

    def disarm(self) -> None:
        """Do not end the process, or not any more, for what was seen so far."""
        self._told.set()

    def _wait(self, told: threading.Event, loop: asyncio.AbstractEventLoop) -> None:
        if told.wait(OUTDATED_GRACE):
            return
        # Logging may hang as well, where nobody reads what we write.
        bound = threading.Timer(END_TIMEOUT, os._exit, (FENCED,))
        bound.daemon = True
        bound.start()
        _log.warning(
            "This container's host was taken for lost: the cluster goes on without it, as "
            "generation %s. Its agents may have been made again elsewhere; it ends now, with exit "
            "code %s",
            self._seen,
            FENCED,
        )
        with contextlib.suppress(RuntimeError):  # the loop has just been closed: so it ends anyway
            loop.call_soon_threadsafe(self._begin_end)

    def _begin_end(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        try:
            await self._shut_down()
            sys.stdout.flush()
        finally:
            os._exit(FENCED)
