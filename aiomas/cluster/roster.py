"""What the driver knows of its containers, and of the agents in them that have names."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from aiomas.agent import url_of
from aiomas.cluster.events import ClusterEvent, EventKind
from aiomas.cluster.info import ContainerInfo
from aiomas.exceptions import ContainerDied

_OVER = {"died", "failed", "lost", "stopped"}
"""States of containers of which no process is left."""
_STATES = {
    EventKind.STARTED: "running",
    EventKind.DIED: "died",
    EventKind.RESTARTING: "restarting",
    EventKind.RESTARTED: "running",
    EventKind.FAILED: "failed",
    EventKind.HUNG: "hung",
    EventKind.RECOVERED: "running",
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Named:
    proxy: Any
    index: int
    respawn: bool


class Roster:
    """The containers of a cluster and the names of agents, kept up to date by events."""

    def __init__(self) -> None:
        self.containers: list[ContainerInfo] = []
        """The containers, in the order of their indices."""
        self._is_lost = False
        self._names: dict[str, _Named] = {}
        self._claimed: set[str] = set()  # names of agents that are being made
        self._ended: set[str] = set()  # names that agents had which are gone
        self._gone: dict[str, str] = {}  # of those that may be made again elsewhere
        self._draining: set[int] = set()  # containers that are about to end
        self._dead: dict[int, set[int]] = {}  # processes that have ended, by indices
        self._changed = asyncio.Event()  # a container may run that did not

    def expect(self, indices: Iterable[int], host: str) -> None:
        """Note that containers are being started on a host: new ones, or such that were lost."""
        for index in indices:
            while len(self.containers) <= index:
                self.containers.append(ContainerInfo(len(self.containers)))
            self._draining.discard(index)
            former = self.containers[index]
            self.containers[index] = ContainerInfo(index, host=host, restarts=former.restarts)

    def began(self, begun: Iterable[Mapping[str, Any]]) -> None:
        """Note what the supervisors know of each, now that they have been started."""
        for content in begun:
            info = self.containers[content["index"]]
            info.pid, info.url, info.state = content["pid"], content["url"], "running"
        self._changed.set()

    def lose(self, indices: Iterable[int]) -> None:
        """Note that the host of these containers is lost, or could not be used."""
        for index in indices:
            self._leave(self.containers[index], "lost", None)

    def drain(self, indices: Iterable[int]) -> None:
        """Put no new agents into these containers, which are going to end."""
        for index in indices:
            self._draining.add(index)  # one that is being restarted is not to be used as well
            if self.containers[index].state in {"running", "hung"}:
                self.containers[index].state = "draining"

    def keep(self, indices: Iterable[int]) -> None:
        """Note that these containers are not going to end after all."""
        for index in indices:
            self._draining.discard(index)
            if self.containers[index].state == "draining":
                self.containers[index].state = "running"
        self._changed.set()

    def leave(
        self,
        indices: Iterable[int],
        exit_codes: Mapping[int, int | None] = MappingProxyType({}),
    ) -> None:
        """Note that these containers were ended, and how, by their indices, as far as is known."""
        for index in indices:
            self._leave(self.containers[index], "stopped", exit_codes.get(index))

    def on_host(self, name: str) -> list[ContainerInfo]:
        """Return the containers on a host that run."""
        return [info for info in self.running() if info.host == name]

    def move(self, made: Mapping[str, Any]) -> None:
        """Note that agents were made again elsewhere.

        Args:
            made: their new proxies, by their former URLs.
        """
        places = {info.url: info for info in self.containers}
        for name, url in list(self._gone.items()):
            if url in made:
                proxy = made[url]
                info = places.get(url_of(proxy).rpartition("/")[0] + "/")
                if info is None or info.state in _OVER:  # it was lost again since
                    self._gone[name] = url_of(proxy)
                    continue
                self._names[name] = _Named(proxy, info.index, respawn=True)
                self._ended.discard(name)
                del self._gone[name]

    def end(self, exit_codes: Mapping[int, int | None]) -> None:
        """Note that nothing runs any more.

        Args:
            exit_codes: how the containers ended, by their indices; as far as that is known.
        """
        for info in self.containers:
            if info.state not in _OVER:
                info.state, info.exit_code = "stopped", exit_codes.get(info.index)

    def running(self) -> list[ContainerInfo]:
        """Return those containers that new agents can be put into."""
        # One without a URL has started, but its host may not be one of the cluster yet.
        return [info for info in self.containers if info.state == "running" and info.url]

    async def some_running(self) -> list[ContainerInfo]:
        """Return the same, as soon as there is one."""
        while not (found := self.running()):
            self._changed.clear()
            await self._changed.wait()
        return found

    def summary(self) -> str:
        """Return how many containers are in which state, in words."""
        states = Counter(info.state for info in self.containers)
        return ", ".join(f"{count} {state}" for state, count in states.items())

    def take(self, event: ClusterEvent) -> None:
        """Note what has happened."""
        if event.index is not None:
            self._update(self.containers[event.index], event)
            self._changed.set()
        # The supervisor may still tell what it was about to do.
        self._is_lost = self._is_lost or event.kind is EventKind.LOST
        for info in self.containers if self._is_lost else ():
            if info.state not in _OVER:
                info.state = "died"

    def claim(self, name: str) -> None:
        """Keep *name* for an agent that is being made.

        Raises:
            TypeError: it is no string.
            ValueError: there is an agent with this name.
        """
        if not isinstance(name, str):
            msg = f"name must be a string, got {name!r}"
            raise TypeError(msg)
        if name in self._names or name in self._claimed:
            msg = f"There is an agent with the name {name!r} already"
            raise ValueError(msg)
        self._claimed.add(name)

    def release(self, name: str) -> None:
        """Let others have *name*, unless it was given to an agent."""
        self._claimed.discard(name)

    def give(self, name: str, proxy: Any, index: int, pid: int, *, respawn: bool) -> None:
        """Give *name*, which was claimed, to an agent.

        Args:
            name: the name.
            proxy: the agent.
            index: its container.
            pid: the process in which it was made; it may have died already.
            respawn: whether the agent is made again if it has.
        """
        died = pid in self._dead.get(index, ())
        if self.containers[index].state == "failed" or (died and not respawn):
            self._ended.add(name)
        else:
            self._names[name] = _Named(proxy, index, respawn)
            self._ended.discard(name)

    def find(self, name: str) -> Any:
        """Return the proxy of the agent with this name.

        Raises:
            LookupError: there is none, or it ended with its container.
        """
        try:
            return self._names[name].proxy
        except KeyError:
            ended = " any more: its container ended" if name in self._ended else ""
            msg = (
                f"There is no agent with the name {name!r}{ended}; there are: {sorted(self._names)}"
            )
            raise LookupError(msg) from None

    def _update(self, info: ContainerInfo, event: ClusterEvent) -> None:
        info.state = _STATES.get(event.kind, info.state)
        if info.state == "running" and info.index in self._draining:
            info.state = "draining"
        if event.kind in {EventKind.STARTED, EventKind.RESTARTED}:
            info.pid = event.pid or 0
            self._dead.get(info.index, set()).discard(info.pid)  # the system gives ids again
        if event.kind is EventKind.DIED:
            assert isinstance(event.error, ContainerDied)  # noqa: S101 - it always has one
            info.exit_code = event.error.exit_code
            self._dead.setdefault(info.index, set()).add(event.pid or 0)
            info.agents = info.respawned
            self._forget_names(info.index, respawned=False)
        elif event.kind is EventKind.RESTARTED:
            info.restarts += 1
        elif event.kind is EventKind.FAILED:
            info.agents = info.respawned = 0
            self._forget_names(info.index, respawned=True)

    def _forget_names(self, index: int, *, respawned: bool) -> None:
        for name, named in list(self._names.items()):
            if named.index == index and (respawned or not named.respawn):
                del self._names[name]
                self._ended.add(name)
                if named.respawn:
                    self._gone[name] = url_of(named.proxy)

    def _leave(self, info: ContainerInfo, state: str, exit_code: int | None) -> None:
        info.state, info.exit_code = state, exit_code
        info.agents = info.respawned = 0
        self._forget_names(info.index, respawned=True)
