"""Measures clusters on Ray: ``python -m benchmarks.on_ray`` prints all figures as a table.

The nodes are three of Ray's own on this machine, at one address: so what Ray and the relay of the
control streams cost is seen, and what a network costs is not.  ``make bench-ray`` runs it where Ray
is installed.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiomas.cluster import Cluster, ClusterEvent, EventKind, RayLauncher
from benchmarks import starts
from benchmarks.clusters import IN_FLIGHT, Caller

NODES = 3
EACH = 4
"""Containers, and CPUs of a node."""
LOST_WITHIN = 90.0  # seconds
_MEMORY = 80 * 2**20  # bytes of a node's object store, of which nothing is used


@contextmanager
def nodes() -> Iterator[Any]:
    """Give a Ray cluster that nobody else finds."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        os.environ |= {
            "RAY_AUTH_MODE": "disabled",  # all of it is on the loopback interface
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        from ray.cluster_utils import Cluster as RayCluster  # noqa: PLC0415 - reads the variables

        made = RayCluster()
        try:
            for _ in range(NODES):
                add(made)
            yield made
        finally:
            made.shutdown()


def add(ray: Any) -> Any:
    """Add a node."""
    return ray.add_node(num_cpus=EACH, object_store_memory=_MEMORY, include_dashboard=False)


def cluster(ray: Any, containers: int, **parameters: Any) -> Cluster:
    """Return a cluster with containers on all nodes."""
    launcher = RayLauncher(address=ray.address)
    return Cluster(containers, launcher=launcher, start_timeout=LOST_WITHIN, **parameters)


async def calls(ray: Any, loop: str, seconds: float) -> tuple[float, float]:
    """Return calls per second between two nodes: sequential, and many in flight."""
    async with cluster(ray, NODES, loop=loop) as made:
        one, other, _ = await made.spawn_many(Caller, NODES)
        await one.pipelined(other, seconds / 4)
        return await one.sequential(other, seconds), await one.pipelined(other, seconds)


async def loss(ray: Any) -> float:
    """Return seconds from the end of a node until there was the event."""
    lost: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def take(event: ClusterEvent) -> None:
        if event.kind is EventKind.HOST_LOST and not lost.done():
            lost.set_result(time.perf_counter())

    node = add(ray)
    async with cluster(ray, NODES + 1) as made:
        made.on_event(take)
        begin = time.perf_counter()
        killing = asyncio.to_thread(ray.remove_node, node, allow_graceful=False)
        removing = asyncio.create_task(killing)
        async with asyncio.timeout(LOST_WITHIN):
            found = await lost - begin
        await removing
    return found


def rows(ray: Any, rounds: int, seconds: float) -> Iterator[tuple[str, str]]:
    """Measure one figure after the other."""
    asyncio.run(starts.start(cluster(ray, NODES)))  # Ray starts its workers for the first time
    figures = [asyncio.run(starts.start(cluster(ray, NODES * EACH))) for _ in range(rounds)]
    ready, ended = (statistics.median(column) for column in zip(*figures, strict=True))
    yield f"{NODES} nodes x {EACH} containers on Ray, TLS: ready", f"{ready:.2f} s"
    yield "  all have ended", f"{ended:.2f} s"
    for loop in ("asyncio", "uvloop"):
        one, many = asyncio.run(calls(ray, loop, seconds))
        yield f"calls between nodes, TLS, {loop}, sequential", f"{one:,.0f}/s"
        yield f"  {IN_FLIGHT} in flight", f"{many:,.0f}/s"
    found = statistics.median(asyncio.run(loss(ray)) for _ in range(rounds))
    yield "a node's processes killed, heartbeat=1 s: said to be lost after", f"{found:.2f} s"


def main() -> None:
    """Measure everything and print the table."""
    options = starts.parser("benchmarks.on_ray", __doc__).parse_args()
    with nodes() as ray:
        starts.show("on Ray", rows(ray, options.rounds, options.seconds))


if __name__ == "__main__":
    main()
