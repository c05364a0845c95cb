"""Clusters in tests: waiting for what happens in them, and looking at their processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psutil

from aiomas.cluster import Cluster, ClusterEvent, EventKind

BOUND = 20.0
"""Seconds after which something will not happen any more, on a busy machine, too."""


async def until(condition: Callable[[], object], timeout: float = BOUND) -> None:
    """Wait for something that there is no event of."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)


class Events:
    """All events of a cluster from now on."""

    def __init__(self, cluster: Cluster) -> None:
        self.all: list[ClusterEvent] = []
        self._changed = asyncio.Event()
        cluster.on_event(self._take)

    def kinds(self, index: int | None = None) -> list[str]:
        """Return what has happened, to all containers or to one of them."""
        return [str(event.kind) for event in self.all if index in {None, event.index}]

    async def get(self, kind: EventKind, index: int | None = None, number: int = 1) -> ClusterEvent:
        """Return the *number*-th event of this kind; wait until it has happened."""
        async with asyncio.timeout(BOUND):
            while True:
                found = [e for e in self.all if e.kind is kind and index in {None, e.index}]
                if len(found) >= number:
                    return found[number - 1]
                self._changed.clear()
                await self._changed.wait()

    def _take(self, event: ClusterEvent) -> None:
        self.all.append(event)
        self._changed.set()


def workers() -> set[int]:
    """Return the ids of all processes that the fork servers below this one have made.

    Raises:
        AssertionError: there are others, or one that has ended and that nobody has waited for.
    """
    supervisors = psutil.Process().children()
    servers = [server for process in supervisors for server in process.children()]
    found = [worker for server in servers for worker in server.children()]
    all_of_them = psutil.Process().children(recursive=True)
    assert {*supervisors, *servers, *found} == set(all_of_them)
    assert len(servers) == len(supervisors)
    zombies = [p.pid for p in all_of_them if p.status() == psutil.STATUS_ZOMBIE]
    assert zombies == []
    return {worker.pid for worker in found}
