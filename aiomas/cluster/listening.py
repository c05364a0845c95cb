"""Who listens to the events of a cluster: functions and loops of the driver's program."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator, Callable

from aiomas.cluster.events import ClusterEvent

logger = logging.getLogger("aiomas.cluster")

_MOST_EVENTS = 10_000  # that wait for somebody who iterates over them

Callback = Callable[[ClusterEvent], object]


class Listeners:
    """Passes events on, in the event loop of the driver's program."""

    def __init__(self) -> None:
        self._callbacks: list[Callback] = []
        # Whoever has dropped its iterator, even before it began, gets no events any more.
        self._queues: weakref.WeakSet[asyncio.Queue[ClusterEvent | None]] = weakref.WeakSet()
        self._closed = False

    def add(self, callback: Callback) -> Callable[[], None]:
        """Call *callback* with each event from now on; call what is returned to end that."""
        if not callable(callback):
            msg = f"callback must be a function that takes an event, got {callback!r}"
            raise TypeError(msg)
        self._callbacks.append(callback)

        def remove() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return remove

    def iterate(self) -> AsyncIterator[ClusterEvent]:
        """Return an iterator over the events from now on; it ends with the cluster.

        It keeps the newest 10,000 events for whoever does not come for them.
        """
        queue: asyncio.Queue[ClusterEvent | None] = asyncio.Queue(_MOST_EVENTS)
        if self._closed:
            queue.put_nowait(None)
        self._queues.add(queue)
        return _iterate(queue)

    def tell(self, event: ClusterEvent) -> None:
        """Pass *event* on."""
        for queue in self._queues:
            _put(queue, event)
        for callback in list(self._callbacks):
            try:
                callback(event)
            except Exception:  # the others shall hear of it, too
                logger.exception("A callback for events of a cluster failed: %r", callback)

    def close(self) -> None:
        """End all iterators."""
        self._closed = True
        for queue in self._queues:
            _put(queue, None)


def _put(queue: asyncio.Queue[ClusterEvent | None], event: ClusterEvent | None) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(event)


async def _iterate(queue: asyncio.Queue[ClusterEvent | None]) -> AsyncIterator[ClusterEvent]:
    while (event := await queue.get()) is not None:
        yield event
