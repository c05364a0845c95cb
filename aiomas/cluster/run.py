"""Starting and stopping a cluster: the steps, in their order."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import operator
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiomas.clocks import ExternalClock
from aiomas.cluster.container import ClusterContainer
from aiomas.cluster.control import HEARTBEAT, ControlThread, Host
from aiomas.cluster.events import ClusterEvent
from aiomas.cluster.fleet import Fleet, MakeHost, Run
from aiomas.cluster.launchers.base import Launcher
from aiomas.cluster.loading import load
from aiomas.cluster.members import Member
from aiomas.cluster.part import Part
from aiomas.cluster.policy import HostPolicy
from aiomas.cluster.rundir import remove_tree, sweep
from aiomas.cluster.spec import ClusterSpec
from aiomas.exceptions import ClusterError

if TYPE_CHECKING:
    from aiomas.cluster.certificates import Credentials, RunAuthority

_PAUSE = 0.02  # seconds between two looks whether the run has gone
_REMOVAL_TIMEOUT = 2.0  # seconds in which a fork server that lives has removed all
_STATUS_TIMEOUT = 3.0  # seconds that a supervisor has to answer whoever looks at the run
_MARGIN = 5.0  # seconds that a supervisor may be late to what its containers have


class Lifecycle:
    """A cluster from its start to its end, as its driver sees it.

    Args:
        spec: what it is to be.
        pki: the directory of a certificate authority; ``None`` for one of this run alone.
        on_event: called with each event, in the event loop of the caller.
        on_log: called with the index of a container and lines of its log, in the thread of the
            control plane; ``None`` for not.
        policy: of its hosts; ``None`` if it is on this machine alone.
    """

    def __init__(
        self,
        spec: ClusterSpec,
        pki: str | os.PathLike[str] | None,
        on_event: Callable[[ClusterEvent], object],
        on_log: Callable[[int, Sequence[str]], object] | None,
        policy: HostPolicy | None = None,
    ) -> None:
        self.name = spec.name or ""
        """The name of the run; known when it was started."""
        self.directory: Path | None = None
        """Where its sockets and logs are."""
        self.container: ClusterContainer | None = None
        """The driver's own container."""
        self.fleet: Fleet | None = None
        """Its hosts."""
        self.spec = spec
        """What it is; with several hosts, the number of containers is known when it has begun."""
        self._pki = pki
        self._on_event = on_event
        self._on_log = on_log
        self._policy = policy
        self._thread: ControlThread | None = None
        self._token = secrets.token_hex(32)
        self._authority: RunAuthority | None = None

    async def start(
        self,
        launcher: Launcher,
        on_lost: Callable[[], object],
        on_host_lost: Callable[[Member], object] | None = None,
        containers: int | None = None,
        placed: Callable[[Sequence[Member]], object] | None = None,
    ) -> list[dict[str, Any]]:
        """Start all containers, and return what the supervisors know of each.

        Args:
            launcher: starts supervisors.
            on_lost: called in our event loop when the supervisor of this machine is gone.
            on_host_lost: called there when that of another host is.
            containers: how many there are to be in all, if somebody has said that and there are
                several hosts.
            placed: called when it is known which containers will be on which host.

        Raises:
            OSError: something cannot be made or bound.
            ContainerDied: a container ended before it answered.
            ClusterError: something else failed.
        """
        policy = self._policy or HostPolicy()
        self._thread = ControlThread()
        lost = functools.partial(self._tell_of_loss, on_lost, on_host_lost)
        self.fleet = fleet = Fleet(self._thread, policy, self._host_maker(), lost)
        if self._policy is None:
            part = await self._launch_here(fleet, launcher)
        else:
            part = await self._launch_everywhere(fleet, launcher, containers)
        if placed is not None:
            placed(fleet.members)
        facts = _facts(self.spec)
        if self.several:
            facts["hosts"] = [{"name": member.name} for member in fleet.shown]
        prepared = await fleet.home.call("prepare", self.spec.fields(), facts, part)
        self.name, self.directory = prepared["name"], Path(prepared["directory"])
        contexts, credentials = await self._certificates(prepared["request"])
        run = Run(self.spec, policy, self.name, facts, self._token, self._on_log is not None)
        others = await fleet.prepare(run, self.sign)
        begun = asyncio.create_task(fleet.begin([credentials, *others]))
        try:
            self.container = await self._make_container(contexts)
            return list(await begun)
        except FileNotFoundError:  # the directory has gone, with the supervisor, which is why
            await begun
            raise
        finally:
            if not begun.cancel() and not begun.cancelled():
                begun.exception()  # if we fail for another reason, nobody asks for it

    @property
    def several(self) -> bool:
        """Whether it may have hosts beside this machine."""
        return self._policy is not None

    async def call(
        self, method: str, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """Call a method of this machine's supervisor; see :class:`~aiomas.cluster.control.Host`."""
        return await self._running().home.call(method, *args, timeout=timeout, **kwargs)

    async def call_all(
        self, method: str, *args: Any, timeout: float | None = None
    ) -> list[tuple[Member, Any]]:
        """Call a method of all supervisors; those of hosts that are lost meanwhile are left out.

        Returns:
            What it has returned on each host.
        """
        fleet = self._running()
        members = fleet.running
        results = await asyncio.gather(
            *(member.call(method, *args, timeout=timeout) for member in members),
            return_exceptions=True,
        )
        found = []
        for member, result in zip(members, results, strict=True):
            if not isinstance(result, BaseException):
                found.append((member, result))
            elif member is fleet.home or member.control.is_open:
                raise result
        return found

    async def send(self, method: str, index: int, *args: Any) -> Any:
        """Call a method of the supervisor that has the container with that *index*."""
        member = self._running().of(index)
        if method == "spawn":
            return await member.spawn(index, *args)
        return await member.call(method, index, *args)

    async def lost(self) -> ClusterError:
        """Return what to raise because the supervisor is gone."""
        fleet = self._running()
        assert self._thread is not None  # noqa: S101 - somebody has heard of it
        return await self._thread.run(fleet.home.control.lost())

    async def abandon(self) -> None:
        """End what there is on other hosts, and return when nothing is left of the run here."""
        if self._thread is not None and self.fleet is not None:
            await self.fleet.abandon("the cluster is gone")
            await self._thread.run(self._nothing_is_left())

    async def stop(self, timeout: float) -> dict[int, int | None]:
        """End everything; at once, if this is cancelled.

        Args:
            timeout: seconds that containers have to end, before they are terminated and, after
                the same time again, killed.

        Returns:
            How each container's last process ended, as far as the supervisors could still tell.
        """
        patience = 0.0
        exit_codes: dict[int, int | None] = {}
        try:
            if self._thread is not None and self.fleet is not None and self.directory is not None:
                exit_codes = await self.fleet.stop(timeout, 3 * timeout + _MARGIN)
            patience = min(timeout, _MARGIN)
        finally:
            closing = asyncio.ensure_future(self._close(patience))
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError:  # the containers have ended; this takes a moment
                await asyncio.wait({closing})
                raise
        return exit_codes

    async def watched(self) -> dict[str, Any]:
        """Return what is known of the run; in the loop of the control thread."""
        fleet = self._running()
        found = await asyncio.gather(*map(_containers_of, fleet.members))
        containers = [status for statuses in found for status in statuses]
        containers.sort(key=operator.itemgetter("index"))
        hosts = [dataclasses.asdict(member.info) for member in fleet.shown]
        return {"facts": {"hosts": hosts}, "containers": containers}

    async def log_read(self, index: int, position: Any) -> tuple[Any, bytes]:
        """Return a part of the log of a container; in the loop of the control thread."""
        member = self._running().of(index)
        found: tuple[Any, bytes] = await member.control.call(
            "log_read", index, position, timeout=_STATUS_TIMEOUT
        )
        return found

    async def sign(self, request: bytes | None, host: str, address: str) -> Any:
        """Return what a host needs for TLS, besides its key; ``None`` without TLS.

        Raises:
            ClusterError: it cannot have a certificate.
        """
        if request is None or self._authority is None:
            return None
        from aiomas.cluster import certificates  # noqa: PLC0415 - only TLS pays for it

        authority, names = self._authority, certificates.names_of(address)
        # It has to wait while others use the authority.  If nobody waits for it any more, all that
        # it leaves is an entry in the index of the authority.
        certificate = await asyncio.to_thread(authority.sign, request, host, names)
        return certificate, authority.trusted, authority.crl

    def _host_maker(self) -> MakeHost:
        loop = asyncio.get_running_loop()
        heartbeat = HEARTBEAT if self._policy is None else self._policy.heartbeat

        def take_event(event: ClusterEvent) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._on_event, event)

        def make_host(*, home: bool) -> Host:
            on_log = self._on_log or _nothing
            return Host(take_event, on_log, self, HEARTBEAT if home else heartbeat)

        return make_host

    def _tell_of_loss(
        self,
        on_lost: Callable[[], object],
        on_host_lost: Callable[[Member], object] | None,
        member: Member,
    ) -> None:
        if self.fleet is None or member is self.fleet.home:
            on_lost()
        elif on_host_lost is not None:
            on_host_lost(member)

    def _running(self) -> Fleet:
        if self._thread is None or self.fleet is None or not self.fleet.members:
            msg = "The cluster does not run; use it in an 'async with' block"
            raise ClusterError(msg)
        return self.fleet

    async def _launch_here(self, fleet: Fleet, launcher: Launcher) -> dict[str, Any]:
        """Start the only supervisor there will be; return its part in the run."""
        indices = list(range(self.spec.containers))
        await fleet.begin_here(launcher, indices, self.spec.start_timeout)
        return Part(indices=tuple(indices)).fields()

    async def _launch_everywhere(
        self, fleet: Fleet, launcher: Launcher, containers: int | None
    ) -> dict[str, Any]:
        """Start a supervisor on each host; return the part of this machine."""
        count = await fleet.gather(launcher, self.spec, containers)
        self.spec = dataclasses.replace(self.spec, containers=count)
        return fleet.home_part().fields()

    async def _close(self, patience: float) -> None:
        try:
            if self.container is not None:
                await self.container.shutdown(as_coro=True, timeout=patience)
        finally:
            thread = self._thread
            if thread is not None:
                try:
                    if self.fleet is not None:
                        await self.fleet.close(patience)
                        await thread.run(self._nothing_is_left())
                finally:
                    self._thread = None
                    await thread.stop()

    async def _nothing_is_left(self) -> None:
        """Return when the directory of the run has gone, which is the last thing that goes.

        If the supervisor was killed, the fork server removes it when all containers have ended; if
        that was killed as well, we do it.
        """
        if self.directory is None:
            # It ended before it could tell which one it had; then no container has used it.
            with contextlib.suppress(ClusterError, OSError):
                sweep()
            return
        until = time.monotonic() + _REMOVAL_TIMEOUT
        while self.directory.exists() and time.monotonic() < until:  # noqa: ASYNC110 - see above
            await asyncio.sleep(_PAUSE)
        remove_tree(self.directory)

    async def _certificates(self, request: bytes | None) -> tuple[Any, Any]:
        """Return our own contexts for TLS, and what the supervisor needs; nothing without TLS."""
        if request is None:
            return None, None
        from aiomas.cluster import certificates  # noqa: PLC0415 - only TLS pays for it

        assert self.directory is not None  # noqa: S101 - known before
        assert self.fleet is not None  # noqa: S101 - as above
        address = self.fleet.home.info.address
        ours = await asyncio.to_thread(self._found_authority, address)
        theirs = await self.sign(request, self.fleet.home.name, address)
        return certificates.contexts_for_driver(ours, self.directory), theirs

    def _found_authority(self, address: str) -> Credentials:
        """Make or load the authority of the run; return our own credentials."""
        from aiomas.cluster import certificates  # noqa: PLC0415 - as above

        days = self.spec.certificate_days
        if self._pki is None:
            authority = certificates.RunAuthority.temporary(self.name, days=days)
        else:
            authority = certificates.RunAuthority.of_directory(self._pki, days=days)
        self._authority = authority
        return certificates.driver_credentials(authority, certificates.names_of(address))

    async def _make_container(self, contexts: Any) -> ClusterContainer:
        spec = self.spec
        assert self.directory is not None  # noqa: S101 - known before
        assert self.fleet is not None  # noqa: S101 - as above
        home = self.fleet.home
        codec, serializers = load(spec.codec), [load(name) for name in spec.extra_serializers]
        address: Any = (home.bind, 0)
        advertise = None if home.bind == home.info.address else home.info.address
        sock = None
        if spec.transport == "unix":
            address = str(self.directory / "driver.sock")
            sock = _bound(address)
            advertise = None
        return await ClusterContainer.create(
            address,
            sock=sock,
            advertise=advertise,
            codec=codec,
            extra_serializers=serializers,
            clock=None if spec.clock is None else ExternalClock(spec.clock),
            ssl=contexts,
            token=self._token,
            limits=spec.limits,
            as_coro=True,
        )


def _bound(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    return sock


async def _containers_of(member: Member) -> list[dict[str, Any]]:
    """Return what is known of the containers on a host."""
    if member.runs:
        with contextlib.suppress(ClusterError):  # it is about to be lost
            return list(await member.control.call("status", timeout=_STATUS_TIMEOUT))
    if member.info.state == "left":
        return []
    return [
        {"index": index, "host": member.name, "pid": 0, "state": "lost"}
        for index in member.info.containers
    ]


def _facts(spec: ClusterSpec) -> dict[str, Any]:
    return {
        "driver_pid": os.getpid(),
        "transport": spec.transport,
        "containers": spec.containers,
        # It is told in JSON, which can have text only.
        "command": [str(word).encode(errors="replace").decode() for word in sys.argv],
    }


def _nothing(*_: object) -> None:
    """Do nothing with what nobody wants."""
