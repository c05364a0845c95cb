"""A program that drives a cluster over the hosts of a lab until it is killed.

It gets the path of a configuration of ssh, and the names of hosts; it prints ``ready`` when all of
its agents call each other.
"""

from __future__ import annotations

import asyncio
import sys

from aiomas.cluster import Cluster, HostSpec, SSHLauncher
from tests.e2e.hosts.agents import Worker
from tests.e2e.hosts.clusters import HEARTBEAT, LEASE
from tests.e2e.hosts.lab import ROOT


async def main(config: str, *names: str) -> None:
    hosts = [HostSpec(name, python=sys.executable, cwd=str(ROOT)) for name in names]
    # An ssh that cannot tell the other end that it ends gives up after three of these seconds.
    launcher = SSHLauncher(options=["-F", config, "-o", "ServerAliveInterval=1"])
    async with Cluster(
        6, hosts=hosts, launcher=launcher, heartbeat=HEARTBEAT, lease=LEASE
    ) as cluster:
        agents = await cluster.spawn_many(Worker, 6)
        for agent in agents:
            await agent.talk([other for other in agents if other is not agent])
        print("ready", flush=True)  # noqa: T201 - for the test
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
