"""All hosts of a run, as the driver sees them: taking them in, dividing the containers, leaving.

The first of them is always the driver's own machine, the home of the run, even if it has no
containers: its supervisor keeps the directory of the run, and answers whoever looks at that.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

from aiomas.cluster.awaiting import all_of
from aiomas.cluster.control import ControlThread, Host
from aiomas.cluster.gathering import about, admit_all, own_address, report, share_out
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.info import LOCALHOST
from aiomas.cluster.launchers.base import Launcher
from aiomas.cluster.launchers.local import LocalLauncher
from aiomas.cluster.members import Member
from aiomas.cluster.part import LOOPBACK, Part
from aiomas.cluster.policy import FENCE, HostPolicy
from aiomas.cluster.spec import ClusterSpec
from aiomas.exceptions import ClusterError

Sign = Callable[[bytes | None, str, str], Awaitable[Any]]
"""Takes a request for a certificate, the name of a host and its address, returns credentials."""

_START_SHARE = 0.8  # of start_timeout: then it is said which host does not answer
_ROUND_TIMEOUT = 10.0  # seconds that a host has to hear that another one is lost


class MakeHost(Protocol):
    """Makes what connects to a supervisor; *home* for that of this machine."""

    def __call__(self, *, home: bool) -> Host: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What hosts are told about the run."""

    spec: ClusterSpec
    policy: HostPolicy
    name: str
    facts: dict[str, Any]
    token: str = dataclasses.field(repr=False)
    echo: bool
    """Whether the driver wants the lines of their logs."""


class Fleet:
    """The hosts of a run.

    Args:
        thread: the control thread.
        policy: of the hosts.
        make: makes what connects to a supervisor.
        on_lost: called, in the caller's event loop, when a host's supervisor is gone.
    """

    def __init__(
        self,
        thread: ControlThread,
        policy: HostPolicy,
        make: MakeHost,
        on_lost: Callable[[Member], object],
    ) -> None:
        self.members: list[Member] = []
        """All hosts there have been, home first."""
        self.generation = 0
        """How many hosts were lost."""
        self._candidates: set[Member] = set()  # those that have been launched
        self._thread = thread
        self.policy = policy
        """Of the hosts."""
        self._make = make
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._launcher: Launcher = LocalLauncher()
        self._run: Run

    @property
    def home(self) -> Member:
        """The driver's own machine."""
        return self.members[0]

    @property
    def running(self) -> list[Member]:
        """The hosts that can be asked for something."""
        return [member for member in self.members if member.runs]

    @property
    def shown(self) -> list[Member]:
        """All hosts but home, if it is there for itself alone."""
        several = len(self.members) > 1
        return [m for m in self.members if m.info.containers or not (m is self.home and several)]

    def named(self, name: str) -> Member:
        """Return the host with that name.

        Raises:
            ValueError: there is none.
        """
        for member in self.members:
            if member.name == name:
                return member
        names = ", ".join(member.name for member in self.members)
        msg = f"There is no host {name!r} in this cluster; there are: {names}"
        raise ValueError(msg)

    def of(self, index: int) -> Member:
        """Return the host of the container with that index."""
        for member in self.members:
            if index in member.info.containers:
                return member
        msg = f"There is no container {index} in this cluster"
        raise ClusterError(msg)

    # --- the start ----------------------------------------------------------------------------

    async def begin_here(self, launcher: Launcher, indices: list[int], timeout: float) -> None:
        """Start the supervisor of this machine, the only one there will be."""
        home = self._add(HostSpec(LOCALHOST), home=True)
        home.info.address, home.info.containers = LOOPBACK, indices
        self._launcher = launcher
        await home.launch(launcher, timeout, self._lost(home))
        home.becomes("running")

    async def gather(self, launcher: Launcher, spec: ClusterSpec, containers: int | None) -> int:
        """Start a supervisor on each host, and divide the containers.

        Args:
            launcher: for hosts that are not this machine.
            spec: of the cluster.
            containers: how many there are to be, if somebody has said that.

        Returns:
            How many there will be.

        Raises:
            ClusterError: hosts cannot be used; the message has a line for each.
        """
        self._launcher = launcher
        loop = asyncio.get_running_loop()
        until = loop.time() + spec.start_timeout * _START_SHARE
        named = self.policy.hosts
        here = [host for host in named if host.is_local]
        elsewhere = [host for host in named if not host.is_local]
        home = self._add(here[0] if here else HostSpec(LOCALHOST, 0), home=True)
        launching = home.launch(LocalLauncher(), spec.start_timeout, self._lost(home))
        started = asyncio.create_task(launching)
        try:
            allocating = launcher.allocate(elsewhere, containers, until - loop.time())
            others = [self._add(host) for host in await self._thread.run(allocating)]
            await self._admit_all(others, spec, until - loop.time())
        finally:
            await started
        home.becomes("running")
        home.info.address = self.policy.address or own_address(others)
        return share_out(self.members, containers)

    async def prepare(self, run: Run, sign: Sign) -> list[Any]:
        """Make the directory of the run on each of the other hosts, and their certificates.

        Returns:
            The credentials of each of them.
        """
        self._run = run
        others = [member for member in self.running if member is not self.home]
        return await all_of(self._prepared(member, sign) for member in others)

    async def begin(self, credentials: Sequence[Any]) -> list[dict[str, Any]]:
        """Start the containers on each of the hosts, and return what is known of each container.

        Args:
            credentials: of each host, home first.
        """
        begun = await all_of(
            self._begin(member, theirs)
            for member, theirs in zip(self.running, credentials, strict=True)
        )
        return [container for containers in begun for container in containers]

    def home_part(self) -> Part:
        """Return what the supervisor of the driver's machine is told about its part."""
        home = self.home
        return Part(
            host=home.name,
            indices=tuple(home.info.containers),
            bind=home.bind,
            address=home.info.address,
            several=True,
        )

    def candidate(self, host: HostSpec) -> Member:
        """Return what may become a member by :meth:`join`; a new host, or one that was lost.

        Raises:
            ValueError: it is a member, or this machine.
        """
        if host.is_local:
            msg = (
                f"{host.host!r} is this machine, which is in every cluster and cannot be added: "
                f"use scale() for more containers"
            )
            raise ValueError(msg)
        former = [member for member in self.members if member.name == host.label]
        if any(member.info.state in {"starting", "running"} for member in former):
            msg = f"The host {host.label!r} is in this cluster already"
            raise ValueError(msg)
        member = Member(host, self._make(home=False), self._thread)
        lives = [other.info.incarnation + 1 for other in former if other.info.state != "missing"]
        member.info.incarnation = max(lives, default=0)
        return member

    async def reach(self, member: Member) -> None:
        """Start the supervisor of a candidate, and look whether containers can run there.

        Raises:
            ClusterError: they cannot.
            OSError: it cannot be reached.
        """
        spec = self._run.spec
        self._candidates.add(member)
        await member.launch(self._launcher, spec.start_timeout, self._lost(member))
        await member.examine(spec, self.policy.bundle, insecure=self.policy.insecure)

    async def join(self, member: Member, sign: Sign) -> list[dict[str, Any]]:
        """Start the containers of a candidate while the cluster runs; see also :meth:`confirm`.

        Args:
            member: the candidate.
            sign: makes its certificate.

        Raises:
            ClusterError: they cannot be started.
            ContainerDied: a container ended before it answered.
        """
        credentials = await self._prepared(member, sign)
        return await self._begin(member, credentials)

    def confirm(self, member: Member) -> None:
        """Let a candidate whose containers answer be a member.

        Raises:
            ClusterError: it is lost already.
        """
        if not member.control.is_open:  # of which nobody will be told any more
            msg = f"Host {member.name} was lost before it had joined"
            raise ClusterError(msg)
        self._candidates.discard(member)
        self.members = [other for other in self.members if other.name != member.name] + [member]
        for other in self.members[:-1]:  # whose place it has taken
            other.info.containers = [
                index for index in other.info.containers if index not in member.info.containers
            ]
        member.becomes("running")

    @property
    def chooses_hosts(self) -> bool:
        """Whether the launcher does that, and not the user."""
        return self._launcher.chooses_hosts

    async def allocate(self, hosts: Sequence[HostSpec], containers: int | None) -> list[HostSpec]:
        """Let the launcher choose hosts for more containers.

        Raises:
            ClusterError: there is no room for them.
        """
        timeout = self._run.spec.start_timeout
        return await self._thread.run(self._launcher.allocate(hosts, containers, timeout))

    async def release(self, host: HostSpec) -> None:
        """Give back what a host had."""
        await self._thread.run(self._launcher.release(host))

    # --- losses -------------------------------------------------------------------------------

    async def fence(self, member: Member, urls: Iterable[str], own: Callable[..., object]) -> None:
        """Let nobody of the others have anything to do with a host that is lost.

        In three rounds, so that nobody is refused who is only about to hear of it.

        Args:
            member: the host.
            urls: the base URLs of its containers.
            own: sets the generation of our own container.
        """
        former, self.generation = self.generation, self.generation + 1
        new, lost = self.generation, list(urls)
        for terms in (
            # What is lost at once: a container that takes its time holds up the next round.
            {"accept": former, "known": new, "use": former, "lost": lost},
            {"accept": former, "known": new, "use": new},
            {"accept": new, "known": new, "use": new},
        ):
            own(**terms)
            await asyncio.gather(
                *(
                    other.call("set_generation", timeout=_ROUND_TIMEOUT, **terms)
                    for other in self.running
                    if other is not member
                ),
                return_exceptions=True,  # who does not hear it is lost as well
            )

    async def unfence(
        self, candidate: Member, urls: Iterable[str], own: Callable[..., object]
    ) -> None:
        """Let a candidate and all others call each other, also where a lost host was before.

        Args:
            candidate: the host.
            urls: the base URLs of its containers.
            own: sets the generation of our own container.

        Raises:
            ClusterError: the candidate has not heard of it.
        """
        terms = dict.fromkeys(("accept", "known", "use"), self.generation)
        found = list(urls)
        own(**terms, found=found)
        result, *_ = await asyncio.gather(
            *(
                member.call("set_generation", timeout=_ROUND_TIMEOUT, **terms, found=found)
                for member in (candidate, *self.running)
            ),
            return_exceptions=True,
        )
        if isinstance(result, BaseException):
            raise result

    def fenced_at(self, member: Member) -> float:
        """Return when nothing of a lost host runs any more, in the terms of ``lease.now()``."""
        return member.control.lease_until + FENCE

    # --- the end ------------------------------------------------------------------------------

    async def stop(self, timeout: float, bound: float) -> dict[int, int | None]:
        """End all containers; return how each one ended, as far as that is known.

        Args:
            timeout: seconds that containers have to end.
            bound: seconds that a host has for it.
        """
        found: dict[int, int | None] = {}

        async def stop(member: Member) -> None:
            found.update(await member.call("stop", timeout, timeout=bound))

        # Home is the last, so that those who look at the run find it for as long as it is there.
        for members in (self.running[1:], self.running[:1]):
            results = await asyncio.gather(*map(stop, members), return_exceptions=True)
            for result in results:
                # It is gone, or will be when its stream is closed.
                if isinstance(result, BaseException) and not isinstance(result, ClusterError):
                    raise result
        return found

    async def abandon(self, why: str) -> None:
        """Have nothing to do with any host but home any more: the cluster is over."""
        for member in [*self.members[1:], *self._candidates]:
            if member.runs:
                member.becomes("lost", why)
            await member.give_up(why)

    async def close(self, patience: float) -> None:
        """Close the streams to all supervisors, also of those that are no members yet."""
        candidates, self._candidates = self._candidates, set()
        everybody = [*self.members, *candidates]
        await asyncio.gather(*(member.close(patience) for member in everybody))
        for member in candidates:
            await self.release(member.spec)
        await self._thread.run(self._launcher.close())

    # --- details ------------------------------------------------------------------------------

    def _add(self, host: HostSpec, *, home: bool = False) -> Member:
        member = Member(host, self._make(home=home), self._thread)
        self.members.append(member)
        return member

    def _lost(self, member: Member) -> Callable[[], None]:
        """Return what is called in the control thread when the stream to a host has ended."""

        def lost() -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._on_lost, member)

        return lost

    async def _admit_all(
        self, members: Sequence[Member], spec: ClusterSpec, timeout: float
    ) -> None:
        async def reach(member: Member) -> None:
            await member.launch(self._launcher, timeout, self._lost(member))
            await member.examine(spec, self.policy.bundle, insecure=self.policy.insecure)

        problems = await admit_all(members, reach)
        for member in problems:
            await self.dismiss(member, "it cannot be used")
        usable = len(members) - len(problems) + (self.home.spec.containers != 0)
        if problems and not (self.policy.allow_partial and usable):
            raise ClusterError(report(members, problems))

    async def dismiss(self, member: Member, why: str) -> None:
        """Do without a host that was launched."""
        await member.give_up(why)
        await self.release(member.spec)
        self._candidates.discard(member)

    async def _prepared(self, member: Member, sign: Sign) -> Any:
        run = self._run
        with about(member):
            await member.check_ports(run.spec, member.info.containers)
            request = await member.prepare(run.spec, run.name, run.facts, run.policy)
            return await sign(request, member.name, member.info.address)

    async def _begin(self, member: Member, credentials: Any) -> list[dict[str, Any]]:
        run = self._run
        with about(member):
            begun = await member.call(
                "begin", run.token, credentials, echo=run.echo, generation=self.generation
            )
        return [{**container, "host": member.name} for container in begun]
