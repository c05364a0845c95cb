"""A cluster over the nodes of a real Ray cluster: the same calls, events and end as elsewhere."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

import aiomas
from aiomas.cluster import Cluster
from aiomas.cluster.launchers.ray import RayLauncher
from aiomas.exceptions import ClusterError
from tests.ray.conftest import CPUS, NODES, add_node

BOUND = 40.0  # seconds
ALL = NODES * CPUS
UNITS = 60
HEARTBEAT = 0.5  # seconds


class Unit(aiomas.Agent):
    def __init__(self, container: aiomas.Container, neighbour: Any = None) -> None:
        super().__init__(container)
        self.neighbour = neighbour

    @aiomas.expose
    def where(self) -> int:
        return os.getpid()

    @aiomas.expose
    async def next_is_at(self) -> int:
        return await self.neighbour.where()


def cluster_on(ray_cluster: Any, containers: int | None = ALL, **options: Any) -> Cluster:
    launcher = RayLauncher(ray_cluster.address, strategy=options.pop("strategy", "STRICT_SPREAD"))
    return Cluster(
        containers,
        launcher=launcher,
        start_timeout=BOUND,
        heartbeat=HEARTBEAT,
        lease=3.0,
        **options,
    )


async def seen(events: list[Any], kind: str, **fields: Any) -> Any:
    """Wait for an event."""
    async with asyncio.timeout(BOUND):
        while True:
            for event in events:
                if event.kind == kind and all(getattr(event, n) == v for n, v in fields.items()):
                    return event
            await asyncio.sleep(0.02)


async def test_agents_on_all_nodes_call_each_other(cluster):
    async with cluster_on(cluster) as plant:
        assert [len(host.containers) for host in plant.hosts] == [CPUS] * NODES
        first = await plant.spawn_many(Unit, UNITS)
        second = await plant.spawn_many(Unit, [(unit,) for unit in first])
        here = await plant.map("where", first)
        assert Counter(here) == dict.fromkeys(here, UNITS // ALL)
        assert await plant.map("next_is_at", second) == here
        assert all(info.url.startswith("tcp") for info in plant.containers)
    assert not ray.is_initialized()


async def test_where_there_is_no_room_the_error_is_there_in_time(cluster):
    began = time.monotonic()
    with pytest.raises(ClusterError, match=f"cannot place {ALL + 1} containers .*CPU 2 of 2 free"):
        async with cluster_on(cluster, ALL + 1):
            pass
    assert time.monotonic() - began < BOUND / 2


def worker_of(plant: Cluster, name: str) -> Any:
    """Return the process of the actor that has started the supervisor of a host."""
    fleet = plant._run.fleet
    assert fleet is not None
    return psutil.Process(fleet.named(name).control.facts["pid"]).parent()


def node_of(plant: Cluster, ray_cluster: Any, name: str) -> Any:
    """Return the node on which a host is."""
    launcher: Any = plant._launcher
    found = launcher._places[name].node.id
    return next(node for node in ray_cluster.list_all_nodes() if node.node_id == found)


async def test_what_a_lost_node_had_is_made_again_on_others(cluster):
    events: list[Any] = []
    async with cluster_on(cluster, ALL - CPUS, on_host_loss="respawn") as plant:
        plant.on_event(events.append)
        victim = next(h.name for h in plant.hosts if not node_of(plant, cluster, h.name).head)
        unit = await plant.spawn(Unit, name="unit", respawn=True, placement=victim)
        before = await unit.where()
        node = node_of(plant, cluster, victim)
        try:
            cluster.remove_node(node, allow_graceful=False)
            await seen(events, "host lost", host=victim)
            with pytest.raises((ConnectionError, aiomas.RemoteException)):
                await unit.where()
            await seen(events, "respawned", host=victim)
            assert await plant.find("unit").where() != before
            await seen(events, "host joined")
            places = [node_of(plant, cluster, h.name) for h in plant.hosts if h.state == "running"]
            assert node not in places  # only its name may be had by another one, at this address
            units = await plant.spawn_many(Unit, UNITS)
            assert before not in await plant.map("where", units)
        finally:
            add_node(cluster)


async def test_a_host_whose_actor_was_killed_comes_back(cluster):
    events: list[Any] = []
    async with cluster_on(cluster) as plant:
        plant.on_event(events.append)
        victim = plant.hosts[0].name
        worker_of(plant, victim).kill()
        lost = await seen(events, "host lost", host=victim)
        assert "killed by SIGKILL" in lost.message or "dead" in lost.message
        await seen(events, "host joined")
        units = await plant.spawn_many(Unit, UNITS)
        assert len(set(await plant.map("where", units))) == ALL


async def test_it_grows_and_shrinks_with_what_is_reserved(cluster):
    def free() -> float:
        return ray.available_resources().get("CPU", 0)

    async def until_free(cpus: float) -> None:
        async with asyncio.timeout(BOUND):
            while free() != cpus:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.05)

    async with cluster_on(cluster, 3, strategy="PACK") as plant:
        await until_free(ALL - 3)
        await plant.scale(5)
        await until_free(ALL - 5)
        units = await plant.spawn_many(Unit, UNITS)
        assert len(set(await plant.map("where", units))) == 5
        with pytest.raises(ClusterError, match="cannot place 5 containers"):
            await plant.scale(10)
        await plant.scale(3)
        await until_free(ALL - 3)


DRIVER = """
import asyncio, sys
from aiomas.cluster import Cluster
from aiomas.cluster.launchers.ray import RayLauncher

async def main():
    async with Cluster(launcher=RayLauncher(sys.argv[1])) as cluster:
        print(*(info.pid for info in cluster.containers), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_nothing_outlives_a_killed_driver(cluster, tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    driver: Any = await asyncio.to_thread(
        subprocess.Popen,
        [sys.executable, str(script), cluster.address],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        line = await asyncio.to_thread(driver.stdout.readline)
        containers = [psutil.Process(int(pid)) for pid in line.split()]
        assert len(containers) == ALL
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        driver.stdout.close()
    await asyncio.to_thread(psutil.wait_procs, containers, BOUND)
    assert not [c for c in containers if c.is_running() and c.status() != "zombie"]


def test_the_power_plant_runs_on_it(cluster, tmp_path, monkeypatch, capsys):
    from examples.virtual_power_plant import main

    def on_ray(**options):
        return Cluster(**options, launcher=RayLauncher(cluster.address))

    monkeypatch.setattr(main, "Cluster", on_ray)
    assert main.main(["--agents", "60", "--containers", str(ALL), "--out", str(tmp_path)]) == 0
    assert "mutual TLS" in capsys.readouterr().out
