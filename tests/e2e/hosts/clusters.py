"""Clusters over the hosts of a lab: how they are started, and what is seen of them from outside."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil

from aiomas.cluster import Cluster, ClusterEvent, EventKind, HostSpec, SSHLauncher
from tests.e2e.clusters import until
from tests.e2e.hosts.lab import ROOT, Lab, LabHost

HEARTBEAT = 0.5
"""Seconds; who is silent for three of them is lost: not too few, as the machine may be busy."""
LEASE = 4.0
"""Seconds for which a host goes on without its driver."""
BOUND = 40.0
"""Seconds after which something on several hosts will not happen any more, on a busy machine."""
ENDED_WITHIN = 5.0
"""Seconds in which a host ends what runs there, from when it knows that it has to."""


def spec(host: LabHost, containers: int | None = None, **fields: Any) -> HostSpec:
    """Return what a user says of a host that can be used: where Python and our modules are."""
    usual: dict[str, Any] = {"python": sys.executable, "cwd": str(ROOT)}
    return HostSpec(host.name, containers, **usual | fields)


def over(lab: Lab, containers: int | None = 6, **parameters: Any) -> Cluster:
    """Return a cluster over all hosts of a lab that soon notices a lost one."""
    usual: dict[str, Any] = {
        "hosts": [spec(host) for host in lab.hosts],
        "launcher": SSHLauncher(options=lab.ssh_options, connect_timeout=2.0),
        "heartbeat": HEARTBEAT,
        "lease": LEASE,
    }
    return Cluster(containers, **usual | parameters)


class HostEvents:
    """All events of a cluster from now on, with the times at which they came."""

    def __init__(self, cluster: Cluster) -> None:
        self.all: list[ClusterEvent] = []
        self._times: list[float] = []
        self._changed = asyncio.Event()
        cluster.on_event(self._take)

    def kinds(self, host: str | None = None) -> list[str]:
        """Return what has happened, to all hosts or one of them, but for starts of containers."""
        return [
            str(event.kind)
            for event in self.all
            if host in {None, event.host} and event.kind is not EventKind.STARTED
        ]

    async def get(self, kind: EventKind, host: str | None = None) -> ClusterEvent:
        """Return the first event of this kind; wait until it has happened."""
        async with asyncio.timeout(BOUND):
            while (found := self._find(kind, host)) is None:
                self._changed.clear()
                await self._changed.wait()
        return self.all[found]

    def time(self, kind: EventKind, host: str | None = None) -> float:
        """Return when the first event of this kind came, in the terms of `time.monotonic`."""
        found = self._find(kind, host)
        assert found is not None, f"there was no event {kind}: {self.kinds()}"
        return self._times[found]

    def _find(self, kind: EventKind, host: str | None) -> int | None:
        for number, event in enumerate(self.all):
            if event.kind is kind and host in {None, event.host}:
                return number
        return None

    def _take(self, event: ClusterEvent) -> None:
        self.all.append(event)
        self._times.append(time.monotonic())
        self._changed.set()


async def gone_from(*hosts: LabHost, within: float = ENDED_WITHIN) -> None:
    """Make sure that soon nothing runs on some hosts."""
    try:
        await until(lambda: not any(host.processes() for host in hosts), within)
    except TimeoutError:
        left = {host.name: host.processes() for host in hosts}
        raise AssertionError(f"after {within} s there still is {left}") from None


def supervisor_on(host: LabHost) -> int:
    """Return the number outside of the process of the supervisor on a host."""
    [found] = [inside.pid for inside in host.processes() if "/supervisor" in inside.command]
    return found


def ssh_to(host: LabHost) -> psutil.Process:
    """Return the ssh of this process that is connected to a host."""
    below = psutil.Process().children(recursive=True)
    [found] = [p for p in below if p.name() == "ssh" and host.name in p.cmdline()]
    return found


def containers_on(cluster: Cluster, host: LabHost | str) -> list[int]:
    """Return the indices of the containers on a host."""
    name = host if isinstance(host, str) else host.name
    return [info.index for info in cluster.containers if info.host == name]


async def outcomes(calls: Iterable[Any]) -> tuple[list[Any], float]:
    """Await calls; return what came of each, exceptions included, and the seconds all took."""
    start = time.monotonic()
    found = await asyncio.gather(*calls, return_exceptions=True)
    return found, time.monotonic() - start


async def eventually(attempt: Callable[[], Any], timeout: float = BOUND) -> Any:
    """Return what *attempt* does as soon as it does not fail with a lost connection any more."""
    async with asyncio.timeout(timeout):
        while True:
            try:
                return await attempt()
            except ConnectionError:
                await asyncio.sleep(0.05)
