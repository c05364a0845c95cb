"""Measures clusters over hosts: ``python -m benchmarks.hosts`` prints all figures as a table.

The hosts are three namespaces on this machine, which share its cores and have a network of their
own (see ``tests/e2e/hosts``): so what ssh, TLS and the control of hosts cost is seen, and what a
real network costs is not.  It needs root, and the programs that ``scripts/install-host-tools``
installs.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from aiomas.cluster import Cluster, ClusterEvent, EventKind, HostSpec, SSHLauncher
from benchmarks import starts
from benchmarks.clusters import IN_FLIGHT, Caller
from tests.e2e.hosts.lab import ROOT, Lab, LabHost, why_not

EACH = 4
"""Containers on each host."""
LOST_WITHIN = 60.0  # seconds


def cluster(lab: Lab, each: int, **parameters: Any) -> Cluster:
    """Return a cluster with so many containers on each host."""
    hosts = [HostSpec(h.name, each, python=sys.executable, cwd=str(ROOT)) for h in lab.hosts]
    return Cluster(hosts=hosts, launcher=SSHLauncher(options=lab.ssh_options), **parameters)


def reach(lab: Lab) -> float:
    """Return seconds for an ssh that runs nothing on a host."""
    begin = time.perf_counter()
    subprocess.run(["ssh", *lab.ssh_options, lab.hosts[0].name, "true"], check=True)
    return time.perf_counter() - begin


async def calls(lab: Lab, loop: str, seconds: float) -> tuple[float, float]:
    """Return calls per second between two hosts: sequential, and many in flight."""
    async with cluster(lab, 1, loop=loop) as made:
        one, other, _ = await made.spawn_many(Caller, 3)
        await one.pipelined(other, seconds / 4)
        return await one.sequential(other, seconds), await one.pipelined(other, seconds)


async def loss(lab: Lab, break_it: Callable[[LabHost], object]) -> tuple[float, ...]:
    """Return seconds from a fault until a call has failed, and until there was the event.

    And until the host has joined again, if the fault does not last.
    """
    host = lab.hosts[1]
    times: dict[EventKind, float] = {}
    lost, joined = asyncio.Event(), asyncio.Event()

    signals = {EventKind.HOST_LOST: lost, EventKind.HOST_JOINED: joined}

    def take(event: ClusterEvent) -> None:
        times.setdefault(event.kind, time.perf_counter())
        if event.kind in signals:
            signals[event.kind].set()

    async with cluster(lab, 1) as made:
        there = await made.spawn(Caller, placement=host.name)
        made.on_event(take)
        begin = time.perf_counter()
        break_it(host)
        async with asyncio.timeout(LOST_WITHIN):
            try:
                while True:
                    await there.echo(None)
            except ConnectionError:
                failed = time.perf_counter() - begin
            await lost.wait()
            host.heal()
            await joined.wait()
    return failed, *(times[kind] - begin for kind in signals)


def kill_ssh(host: LabHost) -> None:
    """Kill the ssh that is connected to a host."""
    for process in psutil.Process().children(recursive=True):
        if process.name() == "ssh" and host.name in process.cmdline():
            process.kill()


def rows(lab: Lab, rounds: int, seconds: float) -> Iterator[tuple[str, str]]:
    """Measure one figure after the other."""
    count = EACH * len(lab.hosts)
    yield (
        "to compare with: an ssh that runs nothing",
        f"{statistics.median(reach(lab) for _ in range(rounds)):.2f} s",
    )
    kinds: dict[str, Callable[[], Cluster]] = {
        f"{count} containers on this machine, TLS": lambda: Cluster(count, transport="tls"),
        f"{len(lab.hosts)} hosts x {EACH} containers over SSH, TLS": lambda: cluster(lab, EACH),
    }
    for name, make in kinds.items():
        figures = [asyncio.run(starts.start(make())) for _ in range(rounds)]
        ready, ended = (statistics.median(column) for column in zip(*figures, strict=True))
        yield f"{name}: ready", f"{ready:.2f} s"
        yield "  all have ended", f"{ended:.2f} s"
    for loop in ("asyncio", "uvloop"):
        one, many = asyncio.run(calls(lab, loop, seconds))
        yield f"calls between hosts, TLS, {loop}, sequential", f"{one:,.0f}/s"
        yield f"  {IN_FLIGHT} in flight", f"{many:,.0f}/s"
    faults: dict[str, Callable[[LabHost], object]] = {
        "link cut, heartbeat=1 s": LabHost.cut,
        "ssh killed": kill_ssh,
    }
    for name, fault in faults.items():
        found = [asyncio.run(loss(lab, fault)) for _ in range(rounds)]
        failed, lost, joined = (statistics.median(column) for column in zip(*found, strict=True))
        yield f"{name}: calls have failed after", f"{failed:.2f} s"
        yield "  the host was said to be lost after", f"{lost:.2f} s"
        yield "  it has joined again after (healed when lost)", f"{joined:.2f} s"


def main() -> None:
    """Measure everything and print the table."""
    parser = starts.parser("benchmarks.hosts", __doc__)
    options = parser.parse_args()
    if reason := why_not():
        parser.error(f"there can be no hosts here: {reason}")
    with Lab() as lab:
        starts.show("over hosts", rows(lab, options.rounds, options.seconds))


if __name__ == "__main__":
    main()
