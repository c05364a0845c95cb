"""A container is killed, and comes back: with the same address, the same agents and their states.

A counter saves its state whenever it has changed, as it could be over at any moment.  Then its
process is killed.  The supervisor of the cluster starts a new one, which listens at the old
address, makes the counter again (``respawn=True``) and hands it the state.  Proxies that others
have for it are still good.

A call that is under way when the process dies fails, and so does one that comes while the counter
is not there yet: nothing is repeated unless it was allowed.  If ``count()`` ran twice, it would
count twice.  ``value()`` does no harm, so it is declared as idempotent, and may be repeated.

Run it with ``python examples/cluster_restart.py``.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import aiomas
from aiomas.cluster import Cluster, ClusterEvent, EventKind, RestartPolicy, checkpoint


class Counter(aiomas.Agent):
    def __init__(self, container: aiomas.Container, step: int) -> None:
        super().__init__(container)
        self.step = step
        self.total = 0

    def get_state(self) -> int:
        return self.total

    def set_state(self, state: int) -> None:
        self.total = state

    @aiomas.expose
    async def count(self) -> int:
        self.total += self.step
        await checkpoint(self)  # what was answered is not lost
        return self.total

    @aiomas.expose(idempotent=True)
    async def value(self) -> int:
        return self.total


def show(event: ClusterEvent) -> None:
    reason = f": {event.error}" if event.error else ""
    print(f"event: container {event.index} {event.kind}{reason}")


async def wait_for(cluster: Cluster, kind: EventKind) -> None:
    async for event in cluster.events():
        if event.kind is kind:
            return


async def main() -> None:
    policy = RestartPolicy(mode="permanent", intensity=5, period=60)
    async with Cluster(containers=1, restart=policy) as cluster:
        cluster.on_event(show)
        counter: Any = await cluster.spawn(Counter, 5, name="counter", respawn=True)
        for _ in range(3):
            print(f"counted: {await counter.count()}")

        print("The container is killed")
        killed = cluster.containers[0].pid
        restarted = asyncio.create_task(wait_for(cluster, EventKind.RESTARTED))
        os.kill(killed, signal.SIGKILL)
        patient = aiomas.with_options(counter, retries=20)
        print(f"the value is still {await patient.value()}")
        await restarted
        assert cluster.containers[0].pid != killed

        print(f"counted: {await cluster.find('counter').count()}")


if __name__ == "__main__":
    asyncio.run(main())
