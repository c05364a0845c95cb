"""All containers of one host, as their supervisor asks something of them at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

from aiomas.cluster.awaiting import all_of
from aiomas.cluster.child import Child
from aiomas.cluster.events import error_content
from aiomas.cluster.loads import Loads, used
from aiomas.cluster.surroundings import Surroundings
from aiomas.exceptions import ClusterError, ContainerDied

_HURRY = 1.0  # seconds to end of those that were started with one that could not be
_GENERATION_TIMEOUT = 5.0  # seconds that a container has to hear that a host is lost


class Children:
    """The containers, by their indices."""

    def __init__(self) -> None:
        self._children: dict[int, Child] = {}
        self._loads = Loads()

    def __contains__(self, index: int) -> bool:
        return index in self._children

    def __getitem__(self, index: int) -> Child:
        if index not in self._children:  # it was ended while somebody was about to ask it
            msg = f"Container {index} does not run any more: it was ended"
            raise ContainerDied(msg, index, None)
        return self._children[index]

    async def start(self, indices: Iterable[int], around: Surroundings) -> list[dict[str, Any]]:
        """Start containers, and return when each of them answers.

        If one of them does not, all of these are ended.

        Args:
            indices: theirs; those of containers that were ended can be had again.
            around: what all of them share.

        Returns:
            ``index``, ``pid`` and ``url`` of each.
        """
        new = {index: Child(index, around) for index in indices}
        self._children |= new
        try:
            await all_of(child.start() for child in new.values())
        except BaseException:
            await self.end(new, _HURRY)
            raise
        return [{"index": c.index, "pid": c.pid, "url": c.url} for c in new.values()]

    async def end(self, indices: Iterable[int], timeout: float) -> dict[int, int | None]:
        """End containers for good, and forget them; see :meth:`aiomas.cluster.life.Life.stop`.

        Returns:
            How the last process of each ended, by their indices.
        """
        children = [self._children[index] for index in indices if index in self._children]
        try:
            return await _stop(children, timeout)
        finally:
            for child in children:
                self._children.pop(child.index, None)

    async def retire(self, indices: Iterable[int], timeout: float) -> list[str]:
        """End containers, all at once, with the last states of their agents saved.

        Nothing is forgotten before :meth:`end`.

        Returns:
            What has kept states from being saved, for each container where something has.
        """
        problems = await asyncio.gather(*(self[index].retire(timeout) for index in indices))
        return [problem for problem in problems if problem is not None]

    async def stop_all(self, timeout: float) -> dict[int, int | None]:
        """End all of them; returns as :meth:`end`."""
        return await _stop(self._all, timeout)

    async def set_time(self, time: float) -> list[dict[str, Any]]:
        """Set the clocks of all of them, and return the errors of those that have not got it."""
        return _contents(await self._each(child.set_time(time) for child in self._all))

    async def set_generation(self, *terms: Any) -> list[dict[str, Any]]:
        """Tell all of them that a host is lost; return the errors of those who miss it for now.

        They hear it as soon as they listen again.

        Args:
            terms: see :meth:`aiomas.cluster.container.ClusterContainer.set_generation`.
        """
        timeout = _GENERATION_TIMEOUT
        return _contents(
            await self._each(child.set_generation(*terms, timeout=timeout) for child in self._all)
        )

    async def checkpoint(self, indices: Iterable[int] | None = None) -> None:
        """Save the states of all agents that can give them and will be made again.

        Args:
            indices: those of the containers; by default, all.  Of these, those that do not run,
                or do not answer, are left out.

        Raises:
            ContainerDied: a container has ended; the states of others are saved.
            ClusterError: states could not be had; those of others are saved.
        """
        children = self._all
        if indices is not None:
            children = [self[index] for index in indices if self[index].state == "running"]
        results = await self._each(child.checkpoint() for child in children)
        for child, result in zip(children, results, strict=True):
            answered = child.state == "running" and not isinstance(result, ContainerDied)
            if isinstance(result, BaseException) and (indices is None or answered):
                raise result

    async def status(self, host: str, timeout: float) -> list[dict[str, Any]]:
        """Return what is known of each.

        Args:
            host: the name of this host.
            timeout: seconds that a container has to answer.
        """
        return await asyncio.gather(*(_status(child, host, timeout) for child in self._all))

    def loads(self) -> dict[int, float]:
        """Return for each the share of a core that it has used lately."""
        return {index: self._loads.of(child) for index, child in self._children.items()}

    @property
    def _all(self) -> list[Child]:
        return list(self._children.values())

    async def _each(self, coros: Iterable[Awaitable[Any]]) -> list[Any]:
        return await asyncio.gather(*coros, return_exceptions=True)


async def _stop(children: Sequence[Child], timeout: float) -> dict[int, int | None]:
    await asyncio.gather(*(child.stop(timeout) for child in children))
    return {child.index: child.exit_code for child in children}


def _contents(results: Iterable[Any]) -> list[dict[str, Any]]:
    return [error_content(r) for r in results if isinstance(r, ContainerDied | ClusterError)]


async def _status(child: Child, host: str, timeout: float) -> dict[str, Any]:
    status: dict[str, Any] = {
        "index": child.index,
        "host": host,
        "pid": child.pid,
        "url": child.url,
        "state": child.state,
        "agents": 0,
        "restarts": child.restarts,
        "exit_code": child.exit_code,
    }
    if child.state in {"running", "hung"}:
        status["uptime"] = child.uptime
        status |= used(child.running_pid)
        try:
            status |= await child.call("status", timeout=timeout)
        except (ClusterError, ContainerDied):
            status["state"] = "hung" if child.state == "running" else child.state
    return status
