"""What happens to the hosts of a cluster that runs: they are lost, come back, are added and leave.

A lost host is given up in this order: whoever listens is told; nobody calls its containers any
more, and they serve nobody (fencing); when its lease has run out for certain, its agents are made
again on others; and it is tried to start it again, empty.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

from aiomas.agent import url_of
from aiomas.clocks import ExternalClock
from aiomas.cluster.archive import Former
from aiomas.cluster.events import ClusterEvent, EventKind
from aiomas.cluster.fleet import Fleet
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.info import ContainerInfo
from aiomas.cluster.lease import now
from aiomas.cluster.members import Member
from aiomas.cluster.roster import Roster
from aiomas.cluster.run import Lifecycle
from aiomas.exceptions import ClusterError, ContainerDied
from aiomas.util import create_task

_log = logging.getLogger("aiomas.cluster")

_FIRST_PAUSE = 1.0  # seconds before it is tried to start a lost host again
_LONGEST_PAUSE = 30.0
_PING_TIMEOUT = 10.0  # seconds that new containers have to answer us, at their addresses
_STOP_MARGIN = 5.0  # seconds that a supervisor may be late to what its containers have
_REMAKE_PATIENCE = 10.0  # seconds that the user waits, at most, until agents are made again

Remake = Callable[[Sequence[Former], Callable[[dict[str, Any]], object]], Awaitable[None]]
"""Makes agents again, and tells their new proxies by their former URLs."""


class Keeper:
    """Keeps the hosts of a cluster.

    Args:
        run: the cluster.
        roster: its containers.
        tell: takes events.
        remake: makes agents again on the containers that run.
    """

    def __init__(
        self,
        run: Lifecycle,
        roster: Roster,
        tell: Callable[[ClusterEvent], object],
        remake: Remake,
    ) -> None:
        self._run = run
        self._roster = roster
        self._tell = tell
        self._remake = remake
        self._tasks: set[asyncio.Future[None]] = set()
        self._asked = asyncio.Lock()  # held while something is done that the user wants
        self._changing = asyncio.Lock()  # held while hosts or containers are added or removed
        self._fencing = asyncio.Lock()
        self._closed = False

    def lost(self, member: Member) -> None:
        """Take note that the supervisor of a host is gone."""
        if member.runs and self._run.container is not None and not self._closed:
            # Now, and not only when it is known why: nothing more is to be put there.
            member.becomes("lost")
            self._roster.lose(self._indices(member))
            self._begin(self._lose(member))

    async def close(self) -> None:
        """Do nothing more."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def add(self, host: HostSpec) -> None:
        """Add a host; see :meth:`aiomas.cluster.Cluster.add_host`."""
        async with self._asked:
            self._fleet.candidate(host)  # nothing is allocated for what is there already
            await self._take_in(await self._fleet.allocate([host], host.containers))

    async def remove(self, name: str, timeout: float, *, drain: bool) -> None:
        """Remove a host; see :meth:`aiomas.cluster.Cluster.remove_host`."""
        async with self._asked, self._changing:
            member = self._fleet.named(name)
            if member is self._fleet.home:
                msg = f"{name} is the driver's own machine; use scale() for its containers"
                raise ValueError(msg)
            if member.info.state == "left":
                msg = f"The host {name!r} has left this cluster already"
                raise ValueError(msg)
            indices = self._indices(member)
            formers: list[Former] = []
            if member.runs:
                formers = await self._empty(member, indices, drain=drain)
                member.becomes("left")
                await self._end(member, timeout)
            member.becomes("left")
            self._roster.leave(indices)
            await self._fleet.release(member.spec)
            self._say(EventKind.HOST_LEFT, member, f"Host {name} was removed")
            await self._make_again(member, formers)

    async def scale(self, containers: int, timeout: float) -> None:
        """Have so many containers; see :meth:`aiomas.cluster.Cluster.scale`."""
        async with self._asked:
            async with self._changing:
                have = [info for info in self._roster.containers if info.state not in _GONE]
                more = containers - len(have)
                if more < 0:
                    await self._shrink(have[containers:], timeout)
                elif more and not self._fleet.chooses_hosts:
                    await self._grow(more)
            if more > 0 and self._fleet.chooses_hosts:
                await self._take_in(await self._fleet.allocate([], more))

    # --- a host is lost ---------------------------------------------------------------------------

    async def _lose(self, member: Member) -> None:
        indices = self._indices(member)
        urls = [self._roster.containers[index].url for index in indices]
        why = member.info.problem = await member.reason()
        await member.give_up(why)
        container = self._run.container
        assert container is not None  # noqa: S101 - lost() has looked
        container.cut_off(urls)  # who hears of it and calls them shall not reach them
        error = ClusterError(f"Host {member.name} is lost: {why}")
        self._say(EventKind.HOST_LOST, member, str(error), error)
        async with self._fencing:
            await self._fleet.fence(member, urls, container.set_generation)
        formers = await self._formers(member, indices)
        self._begin(self._rejoin(member))
        if self._fleet.policy.on_host_loss == "respawn":
            await self._until_fenced(member)
            await self._make_again(member, formers)

    async def _rejoin(self, member: Member) -> None:
        """Start a lost host again, as often as it takes."""
        pause = _FIRST_PAUSE
        await asyncio.sleep(pause)
        while self._is_missed(member):
            try:
                await self._start_again(member)
            except (ClusterError, ContainerDied, OSError) as exc:
                _log.debug("Host %s cannot be started again yet: %s", member.name, exc)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return

    async def _start_again(self, member: Member) -> None:
        specs = [member.spec]
        if self._fleet.chooses_hosts:
            await self._fleet.release(member.spec)
            number = len(self._indices(member))
            specs = await self._fleet.allocate([], number) if number else []
        await self._take_in(specs, member)
        if self._is_missed(member):  # it is not there itself
            member.becomes("left", f"{member.info.problem}; others have taken its place")

    def _is_missed(self, member: Member) -> bool:
        """Whether a host is lost, and neither was removed since nor added again by the user."""
        return member.info.state == "lost" and member in self._fleet.members

    async def _until_fenced(self, member: Member) -> None:
        """Return when nothing of a host that is gone runs any more."""
        await asyncio.sleep(max(0.0, self._fleet.fenced_at(member) - now()))

    # --- agents are made again --------------------------------------------------------------------

    async def _formers(self, member: Member, indices: Iterable[int]) -> list[Former]:
        """Return all agents of containers that can be made again."""
        container = self._run.container
        assert container is not None  # noqa: S101 - there were agents
        codec = container.portable_codec()
        found: list[Former] = []
        for index in indices:
            found += await member.formers(index, self._roster.containers[index].url, codec)
        return found

    async def _empty(self, member: Member, indices: Sequence[int], *, drain: bool) -> list[Former]:
        """Get all that is needed to make the agents of some containers again, before these end.

        Raises:
            ClusterError: that failed, and nothing has changed.
        """
        self._roster.drain(indices)
        if not drain:
            return []
        try:
            await member.call("checkpoint")
            await member.call("hand_over", list(indices))
        except BaseException:
            self._roster.keep(indices)
            raise
        if not member.runs:  # what happens to its agents is what the user wants for lost hosts
            msg = f"Host {member.name} was lost when it was about to hand its agents over"
            raise ClusterError(msg)
        return await self._formers(member, indices)

    async def _end(self, member: Member, timeout: float) -> None:
        """End all that a host runs, and return when nothing of it is left."""
        try:
            await member.call("stop", timeout, timeout=3 * timeout + _STOP_MARGIN)
        except ClusterError as exc:
            _log.warning("Host %s has not ended when it was told to: %s", member.name, exc)
            await member.give_up(str(exc))
            await self._until_fenced(member)
        else:
            await member.close(_STOP_MARGIN)

    async def _make_again(self, member: Member, formers: Sequence[Former]) -> None:
        """Make agents of a host again; return when they are, or it goes on without us for long.

        For who waits for a container keeps others, and the cluster, from nothing.
        """
        if formers and not self._closed:
            making = self._begin(self._make_all_again(member, formers))
            await asyncio.wait({making}, timeout=_REMAKE_PATIENCE)

    async def _make_all_again(self, member: Member, formers: Sequence[Former]) -> None:
        count = 0

        def took(made: dict[str, Any]) -> None:
            nonlocal count
            count += len(made)
            self._roster.move(made)
            message = f"{len(made)} of {len(formers)} agents of host {member.name} were made again"
            moved = {url: url_of(proxy) for url, proxy in made.items()}
            kind = EventKind.RESPAWNED
            self._tell(ClusterEvent(kind=kind, message=message, host=member.name, moved=moved))

        await self._remake(formers, took)
        if not count:
            took({})

    # --- more and fewer ---------------------------------------------------------------------------

    async def _grow(self, number: int) -> None:
        first = len(self._roster.containers)
        shares: dict[Member, list[int]] = {}
        sizes = {member: len(self._indices(member)) for member in self._places()}
        for index in range(first, first + number):
            member = min(sizes, key=sizes.__getitem__)
            sizes[member] += 1
            shares.setdefault(member, []).append(index)
        for member, theirs in shares.items():
            self._roster.expect(theirs, member.name)
            try:
                begun = await member.call("grow", theirs, self._time)
            except BaseException:
                self._roster.lose(theirs)
                raise
            member.info.containers += theirs
            self._roster.began(begun)

    async def _shrink(self, infos: Sequence[ContainerInfo], timeout: float) -> None:
        by_host: dict[Member, list[int]] = {}
        for info in infos:
            by_host.setdefault(self._fleet.of(info.index), []).append(info.index)
        indices = [info.index for info in infos]
        # All at once, or agents would be made again where the next ones are ended.
        self._roster.drain(indices)
        try:
            for member, theirs in by_host.items():
                await self._shrink_host(member, theirs, timeout)
        except BaseException:
            self._roster.keep(indices)
            raise

    async def _shrink_host(self, member: Member, indices: Sequence[int], timeout: float) -> None:
        formers = await self._empty(member, indices, drain=True)
        bound = 3 * timeout + _STOP_MARGIN
        codes = await member.call("shrink", indices, timeout, timeout=bound)
        self._roster.leave(indices, codes)
        for index in indices:
            await member.drop(index)
        await self._make_again(member, formers)
        chosen = self._fleet.chooses_hosts and member is not self._fleet.home
        if chosen and not self._roster.on_host(member.name):
            member.becomes("left")
            await member.close(_STOP_MARGIN)
            await self._fleet.release(member.spec)
            message = f"Host {member.name} has no containers any more"
            self._say(EventKind.HOST_LEFT, member, message)

    def _places(self) -> list[Member]:
        """Return the hosts that can have more containers: home only if it has some already."""
        home = self._fleet.home
        others = [member for member in self._fleet.running if member is not home]
        return [home, *others] if self._indices(home) or not others else others

    async def _take_in(self, specs: Sequence[HostSpec], former: Member | None = None) -> None:
        """Take in hosts that the launcher has allocated; those that cannot be are given back.

        Args:
            specs: the hosts.
            former: a lost host whose containers they get; by default they get new ones.
        """
        left = deque(specs)
        try:
            while left:
                await self._join(self._fleet.candidate(left.popleft()), former)
        except BaseException:
            for spec in left:
                await self._fleet.release(spec)
            raise

    async def _join(self, candidate: Member, former: Member | None) -> None:
        """Take in a host."""
        try:
            # This may take long, and others may change something meanwhile.
            await self._fleet.reach(candidate)
            async with self._changing:
                candidate.info.containers = self._places_for(candidate, former)
                self._roster.expect(candidate.info.containers, candidate.name)
                begun = await self._start_containers(candidate)
                self._roster.began(begun)
        except BaseException:
            self._roster.lose(candidate.info.containers)
            await asyncio.shield(self._fleet.dismiss(candidate, "it could not be used"))
            raise
        message = f"Host {candidate.name} has joined with {len(begun)} containers"
        self._say(EventKind.HOST_JOINED, candidate, message)

    def _places_for(self, candidate: Member, former: Member | None) -> list[int]:
        """Return the containers that a host gets."""
        number = candidate.spec.containers
        if former is None:
            self._fleet.candidate(candidate.spec)  # it may have come back meanwhile
            if number is None:
                number = candidate.control.facts.get("cores", 1)
            first = len(self._roster.containers)
            return list(range(first, first + number))
        if not self._is_missed(former):
            msg = f"Host {former.name} was removed or added meanwhile"
            raise ClusterError(msg)
        return self._indices(former)[: None if candidate.spec is former.spec else number]

    async def _start_containers(self, candidate: Member) -> list[dict[str, Any]]:
        container = self._run.container
        assert container is not None  # noqa: S101 - it runs
        begun = await self._fleet.join(candidate, self._run.sign)
        urls = [content["url"] for content in begun]
        if self._time:
            await candidate.call("set_time", self._time)
        async with self._fencing:  # of a host that is lost meanwhile it would not hear
            await self._fleet.unfence(candidate, urls, container.set_generation)
            async with asyncio.timeout(_PING_TIMEOUT):
                await asyncio.gather(*(container.ping(url) for url in urls))
            self._fleet.confirm(candidate)
        return begun

    # --- details ----------------------------------------------------------------------------------

    @property
    def _fleet(self) -> Fleet:
        fleet = self._run.fleet
        assert fleet is not None  # noqa: S101 - nobody is lost or added before
        return fleet

    @property
    def _time(self) -> float:
        """What external clocks are set to, in seconds."""
        clock = None if self._run.container is None else self._run.container.clock
        return clock.time() if isinstance(clock, ExternalClock) else 0.0

    def _indices(self, member: Member) -> list[int]:
        """Return the containers of a host, but for those that have been taken away from it."""
        infos = [self._roster.containers[index] for index in member.info.containers]
        return [info.index for info in infos if info.state != "stopped"]

    def _say(
        self, kind: EventKind, member: Member, message: str, error: ClusterError | None = None
    ) -> None:
        self._tell(ClusterEvent(kind=kind, message=message, host=member.name, error=error))

    def _begin(self, coro: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        task = create_task(coro)  # nobody awaits it, so its errors are reported
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


_GONE = {"failed", "lost", "stopped", "draining"}
