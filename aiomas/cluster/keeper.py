"""What happens to the hosts of a cluster that runs: they are lost, come back, are added and leave.

A lost host is given up in this order: whoever listens is told; nobody calls its containers any
more, and they serve nobody (fencing); when its lease has run out for certain, its agents are made
again on others; and it is tried to start it again, empty.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from aiomas.agent import url_of
from aiomas.cluster.archive import Former
from aiomas.cluster.draining import Draining, check_states
from aiomas.cluster.events import ClusterEvent, EventKind, together
from aiomas.cluster.fleet import Fleet
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.info import ContainerInfo
from aiomas.cluster.joining import Joining, Returning
from aiomas.cluster.lease import now
from aiomas.cluster.members import Member
from aiomas.cluster.requests import Begun, Requests
from aiomas.cluster.roster import Roster
from aiomas.cluster.run import Lifecycle
from aiomas.exceptions import ClusterError, ContainerDied
from aiomas.util import create_task

_log = logging.getLogger("aiomas.cluster")

_FIRST_PAUSE = 1.0  # seconds before it is tried to start a lost host again
_LONGEST_PAUSE = 30.0
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
        self._requests = Requests()
        self._changing = asyncio.Lock()  # held while hosts or containers are added or removed
        self._fencing = asyncio.Lock()
        self._joining = Joining(run, roster, self._changing, self._fencing, self._joined)
        self._draining = Draining(roster, self._formers)
        self._begun = self._closed = False

    def begin(self) -> None:
        """Keep the hosts from now on: the start is over.  Those that were lost at it are lost."""
        self._begun = True
        for member in self._fleet.running:
            if member is not self._fleet.home and not member.control.is_open:
                self.lost(member)

    def lost(self, member: Member) -> None:
        """Take note that the supervisor of a host is gone."""
        if member.runs and self._begun and not self._closed:
            # Now, and not only when it is known why: nothing more is to be put there.
            member.becomes("lost")
            self._roster.lose(self._indices(member))
            self._begin(self._lose(member))

    def end(self, why: str) -> None:
        """Do nothing more, and end what is under way; *why* is what the user is told."""
        self._closed = True
        self._requests.end(why)
        for task in self._tasks:
            task.cancel()

    async def close(self, why: str = "the cluster is being stopped") -> None:
        """Do nothing more, and return when all has ended that was under way."""
        self.end(why)
        await self._requests.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def set_time(self, time: float) -> None:
        """Take note of the time of external clocks, in seconds, before it is sent to all hosts."""
        self._joining.set_time(time)

    async def add(self, host: HostSpec) -> None:
        """Add a host; see :meth:`aiomas.cluster.Cluster.add_host`."""

        async def add(_: Begun) -> None:
            self._fleet.candidate(host)  # nothing is allocated for what is there already
            await self._joining.take_in(await self._fleet.allocate([host], host.containers))

        await self._requests.do(f"Adding host {host.label}", add)

    async def remove(self, name: str, timeout: float, *, drain: bool) -> None:
        """Remove a host; see :meth:`aiomas.cluster.Cluster.remove_host`."""

        async def remove(begun: Begun) -> None:
            async with self._changing:
                await self._remove(begun, name, timeout, drain=drain)

        await self._requests.do(f"Removing host {name}", remove)

    async def scale(self, containers: int, timeout: float) -> None:
        """Have so many containers; see :meth:`aiomas.cluster.Cluster.scale`."""

        async def scale(begun: Begun) -> None:
            async with self._changing:
                have = [info for info in self._roster.containers if info.state not in _GONE]
                more = containers - len(have)
                if more < 0:
                    await self._shrink(begun, have[containers:], timeout)
                elif more and not self._fleet.chooses_hosts:
                    begun()
                    await self._grow(more)
            if more > 0 and self._fleet.chooses_hosts:
                await self._joining.take_in(await self._fleet.allocate([], more))

        await self._requests.do(f"Scaling to {containers} containers", scale)

    async def _remove(self, begun: Begun, name: str, timeout: float, *, drain: bool) -> None:
        member = self._fleet.named(name)
        if member is self._fleet.home:
            msg = f"{name} is the driver's own machine; use scale() for its containers"
            raise ValueError(msg)
        if member.info.state == "left":
            msg = f"The host {name!r} has left this cluster already"
            raise ValueError(msg)
        indices = self._indices(member)
        formers: list[Former] = []
        problems: list[str] = []
        if member.runs:
            if drain:
                await self._draining.begin({member: indices})
            begun()
            if drain:
                formers, problems = await self._draining.retire(member, indices, timeout)
            self._roster.drain(indices)
            member.becomes("left")
            await self._end(member, timeout)
        member.becomes("left")
        self._roster.leave(indices)
        await self._fleet.release(member.spec)
        self._say(EventKind.HOST_LEFT, member, f"Host {name} was removed")
        await self._make_again(member, formers)
        check_states(member, problems)

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
        # It need not wait for those who take long to hear of it, but is unfenced after that.
        self._begin(self._rejoin(Returning(member, indices, self._fleet, self._roster)))
        async with self._fencing:
            await self._fleet.fence(member, urls, container.set_generation)
        formers = await self._formers(member, indices)
        if self._fleet.policy.on_host_loss == "respawn":
            await self._until_fenced(member)
            await self._make_again(member, formers)

    async def _rejoin(self, returning: Returning) -> None:
        """Start a lost host again, as often as it takes."""
        pause = _FIRST_PAUSE
        await asyncio.sleep(pause)
        while returning.is_awaited:
            try:
                await self._start_again(returning)
            except (ClusterError, ContainerDied, OSError, ValueError) as exc:
                name = returning.member.name
                _log.debug("Host %s cannot be started again yet: %s", name, exc)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return

    async def _start_again(self, returning: Returning) -> None:
        member = returning.member
        specs = [member.spec]
        if self._fleet.chooses_hosts:
            if returning.is_missed:
                await self._fleet.release(member.spec)
            number = len(returning.left)
            specs = await self._fleet.allocate([], number) if number else []
        await self._joining.take_in(specs, returning)
        if returning.is_missed:  # it is not there itself
            member.becomes("left", f"{member.info.problem}; others have taken its place")

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
            # It ends those of them that have been started when this takes too long.
            bound = self._run.spec.start_timeout + _STOP_MARGIN
            try:
                begun = await member.call("grow", theirs, self._joining.time, timeout=bound)
            except BaseException as exc:
                self._roster.lose(theirs)
                exc.add_note(
                    f"These were containers {theirs} on host {member.name}, of {number} new ones; "
                    f"{len(self._roster.running())} containers of the cluster run"
                )
                raise
            member.info.containers += theirs
            self._roster.began(begun)

    async def _shrink(self, begun: Begun, infos: Sequence[ContainerInfo], timeout: float) -> None:
        by_host: dict[Member, list[int]] = {}
        for info in infos:
            by_host.setdefault(self._fleet.of(info.index), []).append(info.index)
        await self._draining.begin(by_host)
        begun()
        hosts = [self._shrink_host(*theirs, timeout) for theirs in by_host.items()]
        results = await asyncio.gather(*hosts, return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        if errors:
            raise together(errors)

    async def _shrink_host(self, member: Member, indices: Sequence[int], timeout: float) -> None:
        formers, problems = await self._draining.retire(member, indices, timeout)
        bound = 3 * timeout + _STOP_MARGIN
        codes: Mapping[int, int | None] = {}
        try:
            codes = await member.call("shrink", indices, timeout, timeout=bound)
        finally:
            if member.runs:
                self._roster.leave(indices, codes)
        for index in indices:
            await member.drop(index)
        await self._make_again(member, formers)
        chosen = self._fleet.chooses_hosts and member is not self._fleet.home
        if chosen and not self._in_use(member):
            member.becomes("left")
            await member.close(_STOP_MARGIN)
            await self._fleet.release(member.spec)
            message = f"Host {member.name} has no containers any more"
            self._say(EventKind.HOST_LEFT, member, message)
        check_states(member, problems)

    def _in_use(self, member: Member) -> bool:
        """Whether a host has containers that run, or will run again."""
        states = {self._roster.containers[index].state for index in member.info.containers}
        return not states <= _GONE

    def _places(self) -> list[Member]:
        """Return the hosts that can have more containers: home only if it has some already."""
        home = self._fleet.home
        others = [member for member in self._fleet.running if member is not home]
        return [home, *others] if self._indices(home) or not others else others

    def _joined(self, member: Member, number: int) -> None:
        message = f"Host {member.name} has joined with {number} containers"
        self._say(EventKind.HOST_JOINED, member, message)

    # --- details ----------------------------------------------------------------------------------

    @property
    def _fleet(self) -> Fleet:
        fleet = self._run.fleet
        assert fleet is not None  # noqa: S101 - nobody is lost or added before
        return fleet

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
