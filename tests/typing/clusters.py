"""Clusters, their events, and the state of agents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_type

import aiomas
from aiomas.cluster import (
    Cluster,
    ClusterError,
    ClusterEvent,
    CommandLauncher,
    ContainerDied,
    ContainerInfo,
    EventKind,
    HostInfo,
    HostSpec,
    PartialResult,
    RayLauncher,
    RestartPolicy,
    SpawnError,
    SSHLauncher,
    checkpoint,
)
from aiomas.cluster.placement import Place


class Plant(aiomas.Agent):
    @aiomas.expose
    async def grow(self, by: int) -> int:
        await checkpoint(self)
        return by


def coolest(places: Sequence[Place]) -> int:
    return min(range(len(places)), key=lambda position: places[position].cpu_load)


async def clusters() -> None:
    cluster = Cluster(
        8,
        transport="tls",
        pki=Path("authority"),
        codec=aiomas.MsgPack,
        extra_serializers=["module:serializer", aiomas.util.arrow_serializer],
        restart=RestartPolicy(mode="permanent", intensity=5, backoff=0),
        clock="2020-01-01",
        preload=["numpy"],
        name="plant",
        seed=5,
        env=[{"A": "1"}] * 8,
        cwd=Path(),
        hang_timeout=None,
        log_dir="logs",
        progress=True,
    )
    async with cluster as same:
        assert_type(same, Cluster)
        assert_type(cluster.name, str)
        assert_type(cluster.directory, Path | None)
        assert_type(cluster.container, aiomas.Container)
        assert_type(cluster.containers, list[ContainerInfo])
        agent = await cluster.spawn(Plant, 1, key="value", name="a", respawn=True, placement=3)
        assert_type(agent, Any)
        assert_type(await cluster.spawn_many("module:Plant", 5, placement=coolest), list[Any])
        await cluster.spawn_many(Plant, [(1,), {"x": 2}], respawn=True, placement=agent)
        await cluster.spawn_many(Plant, "text")  # type: ignore[arg-type]
        await cluster.spawn(Plant, respawn="yes")  # type: ignore[arg-type]
        assert_type(cluster.find("a"), Any)
        assert_type(await cluster.map("grow", [agent], 5, timeout=1, concurrency=10), list[Any])
        assert_type(await cluster.starmap("grow", [(agent, 5)], return_exceptions=True), list[Any])
        assert_type(await cluster.status(timeout=1), list[dict[str, Any]])
        assert_type(await cluster.set_time(5), None)
        assert_type(await cluster.checkpoint(), None)


async def hosts() -> None:
    node = HostSpec("user@node1", 4, python="/opt/bin/python", env={"A": "1"}, address="10.0.0.1")
    cluster = Cluster(
        hosts=[node, "node2"],
        launcher=CommandLauncher(["srun", "-w", "{host}"]),
        sync=["plant", Path("grid.py")],
        address="10.0.0.9",
        lease=10.0,
        heartbeat=0.5,
        on_host_loss="respawn",
        allow_partial=True,
    )
    Cluster(hosts=["node1"], launcher=SSHLauncher(options=["-p", "2222"]), insecure=True)
    Cluster(64, launcher=RayLauncher("auto", cpus_per_container=1))
    assert_type(cluster.hosts, list[HostInfo])
    assert_type(await cluster.add_host(node), None)
    assert_type(await cluster.add_host("node3"), None)
    assert_type(await cluster.remove_host("node3", drain=False), None)
    assert_type(await cluster.scale(containers=12), None)
    await cluster.remove_host("node3", False)  # type: ignore[call-arg]
    Cluster(hosts=[1])  # type: ignore[list-item]
    Cluster(hosts="node1", launcher="ssh")  # type: ignore[arg-type]


async def events(cluster: Cluster) -> None:
    assert_type(cluster.on_event(lambda event: event.kind), Callable[[], None])
    cluster.on_event(lambda: None)  # type: ignore[arg-type,misc]
    assert_type(cluster.events(), AsyncIterator[ClusterEvent])
    async for event in cluster.events():
        assert_type(event.kind, EventKind)
        assert_type(event.index, int | None)
        assert_type(event.host, str | None)
        assert_type(event.moved, Mapping[str, str])
        assert_type(event.error, ContainerDied | ClusterError | None)
        if isinstance(event.error, ContainerDied):
            assert_type(event.error.exit_code, int | None)
            assert_type(event.error.out_of_memory, bool)


async def errors(cluster: Cluster) -> None:
    try:
        await cluster.spawn_many(Plant, 5)
    except SpawnError as exc:
        assert_type(exc.spawned, list[Any])
    try:
        await cluster.map("grow", [])
    except PartialResult as exc:
        assert_type(exc.results, list[Any])


Cluster()
Cluster("8")  # type: ignore[arg-type]
Cluster(8, "tls")  # type: ignore[call-arg]
RestartPolicy("permanent")  # type: ignore[call-arg]
