"""How hosts are taken in while a cluster runs: new ones, and those that had been lost.

A host is a member when its containers answer, everybody has heard of them, and they have the time
of the others.  What cannot be taken in is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from aiomas.clocks import ExternalClock
from aiomas.cluster.events import error_of_content
from aiomas.cluster.fleet import Fleet
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.members import Member
from aiomas.cluster.roster import Roster
from aiomas.cluster.run import Lifecycle
from aiomas.exceptions import ClusterError

_PING_TIMEOUT = 10.0  # seconds that new containers have to answer us, at their addresses


class Returning:
    """The containers of a lost host, until they run again, there or on others.

    Args:
        member: the host.
        indices: the containers.
        fleet: all hosts.
        roster: all containers.
    """

    def __init__(
        self, member: Member, indices: Sequence[int], fleet: Fleet, roster: Roster
    ) -> None:
        self.member = member
        self._indices = list(indices)
        self._fleet = fleet
        self._roster = roster
        self._joined = False  # a host that has some of them

    @property
    def left(self) -> list[int]:
        """Those that do not run yet, and were not taken away."""
        return [i for i in self._indices if self._roster.containers[i].state == "lost"]

    @property
    def is_awaited(self) -> bool:
        """Whether something is to return; not if the user has removed or added the host since."""
        if self._joined:  # it may have been the host itself, with a part of them
            return bool(self.left)
        return self.is_missed

    @property
    def is_missed(self) -> bool:
        """Whether the host itself has not come back, and was neither removed nor added again."""
        return self.member.info.state == "lost" and self.member in self._fleet.members

    def took(self, candidate: Member) -> None:
        """Note that a host has joined which has some of the containers."""
        self._joined = True
        theirs = set(candidate.info.containers)  # what happens to them is not our concern any more
        self._indices = [index for index in self._indices if index not in theirs]


class Joining:
    """Takes in hosts.

    Args:
        run: the cluster.
        roster: its containers.
        changing: held while hosts or containers are added or removed.
        fencing: held while the generation changes.
        joined: told of each that has joined, and how many containers it has.
    """

    def __init__(
        self,
        run: Lifecycle,
        roster: Roster,
        changing: asyncio.Lock,
        fencing: asyncio.Lock,
        joined: Callable[[Member, int], object],
    ) -> None:
        self._run = run
        self._roster = roster
        self._changing = changing
        self._fencing = fencing
        self._joined = joined
        self._latest = 0.0

    @property
    def time(self) -> float:
        """What external clocks are set to, or are about to be, in seconds."""
        clock = None if self._run.container is None else self._run.container.clock
        own = clock.time() if isinstance(clock, ExternalClock) else 0.0
        return max(own, self._latest)

    def set_time(self, time: float) -> None:
        """Take note of the time, in seconds, before it is sent to all members."""
        self._latest = time

    async def take_in(self, specs: Sequence[HostSpec], returning: Returning | None = None) -> None:
        """Take in hosts that the launcher has allocated; those that cannot be are given back.

        Args:
            specs: the hosts.
            returning: the containers that they get; by default they get new ones.

        Raises:
            ClusterError: one cannot be used, and the others were not tried.
            ContainerDied: one of its containers ended before it answered.
            OSError: it cannot be used.
            ValueError: it is a member.
        """
        left = deque(specs)
        try:
            while left:
                candidate = self._fleet.candidate(left[0])
                left.popleft()  # from now on it is given back with the candidate
                await self._join(candidate, returning)
        except BaseException:
            for spec in left:
                await self._fleet.release(spec)
            raise

    async def _join(self, candidate: Member, returning: Returning | None) -> None:
        try:
            # This may take long, and others may change something meanwhile.
            async with self._bounded(candidate, "its supervisor was not ready"):
                await self._fleet.reach(candidate)
            async with self._changing:
                candidate.info.containers = self._places_for(candidate, returning)
                self._roster.expect(candidate.info.containers, candidate.name)
                self._roster.began(await self._start_containers(candidate))
        except BaseException:
            self._roster.lose(candidate.info.containers)
            await asyncio.shield(self._fleet.dismiss(candidate, "it could not be used"))
            raise
        if returning is not None:
            returning.took(candidate)
        self._joined(candidate, len(candidate.info.containers))

    def _places_for(self, candidate: Member, returning: Returning | None) -> list[int]:
        """Return the containers that a host gets."""
        number = candidate.spec.containers
        if returning is None:
            self._fleet.candidate(candidate.spec)  # it may have come back meanwhile
            if number is None:
                number = candidate.control.facts.get("cores", 1)
            first = len(self._roster.containers)
            return list(range(first, first + number))
        if not returning.is_awaited:
            msg = f"Host {returning.member.name} was removed or added meanwhile"
            raise ClusterError(msg)
        return returning.left[: None if candidate.spec is returning.member.spec else number]

    async def _start_containers(self, candidate: Member) -> list[dict[str, Any]]:
        container = self._run.container
        assert container is not None  # noqa: S101 - it runs
        async with self._bounded(candidate, "its containers were not ready"):
            begun = await self._fleet.join(candidate, self._run.sign)
        urls = [content["url"] for content in begun]
        async with self._fencing:  # of a host that is lost meanwhile it would not hear
            await self._fleet.unfence(candidate, urls, container.set_generation)
            async with asyncio.timeout(_PING_TIMEOUT):
                await asyncio.gather(*(container.ping(url) for url in urls))
            await self._set_clocks(candidate)
            self._fleet.confirm(candidate)
        return begun

    async def _set_clocks(self, candidate: Member) -> None:
        """Let a host have the time of the others.

        From when this returns on it has to be a member, who is told of the next one.
        """
        sent = 0.0
        while sent != self.time:
            sent = self.time
            for problem in await candidate.call("set_time", sent, timeout=_PING_TIMEOUT) or ():
                raise error_of_content(problem)

    @contextlib.asynccontextmanager
    async def _bounded(self, candidate: Member, what: str) -> AsyncIterator[None]:
        bound = asyncio.timeout(self._run.spec.start_timeout)
        try:
            async with bound:
                yield
        except TimeoutError as exc:
            if not bound.expired():
                raise
            limit = self._run.spec.start_timeout
            msg = f"host {candidate.name}: {what} within start_timeout={limit} s"
            raise TimeoutError(msg) from exc

    @property
    def _fleet(self) -> Fleet:
        fleet = self._run.fleet
        assert fleet is not None  # noqa: S101 - nobody is added before
        return fleet
