"""Supervisors on the nodes of a real Ray cluster: how they get there, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import psutil
import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from aiomas import rpc
from aiomas.cluster import streams
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.launchers.ray import RayLauncher
from aiomas.exceptions import ClusterError
from tests.ray.conftest import CPUS, NODES

BOUND = 30.0  # seconds
SHORT = 1.5  # seconds
ALL = NODES * CPUS


class Driver:
    router = rpc.Service()

    @rpc.expose
    def renew(self):
        """Let the supervisor go on."""


async def until(condition):
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.05)


def worker(link) -> Any:
    """Return the process of the actor that has started a supervisor."""
    return psutil.Process(link.facts["pid"]).parent()


def raylet(link) -> Any:
    """Return the process that stands for its node."""
    return worker(link).parent()


def free_cpus():
    return ray.available_resources().get("CPU", 0)


@pytest.fixture
async def launch(cluster):
    """Start a launcher, and supervisors by it; all are ended with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(containers=ALL, hosts=(), **options):
            launcher = RayLauncher(options.pop("address", cluster.address), **options)
            stack.push_async_callback(launcher.close)
            found = await launcher.allocate(hosts, containers, BOUND)
            links = await asyncio.gather(*(launcher.launch(host, BOUND) for host in found))
            for link in links:
                stack.callback(link.sock.close)
            return launcher, found, links

        yield start
    assert not ray.is_initialized()


@pytest.fixture
def connected(cluster):
    """Ray, as the user's program has connected to it."""
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
async def dial():
    """Be the driver of a supervisor, and see that it answers."""
    clients = []

    async def dial(link):
        clients.append(await streams.dial(link.sock, Driver(), timeout=BOUND))
        assert "value" in await clients[-1].remote.loads()
        return clients[-1]

    yield dial
    for client in clients:
        client.close()
    await asyncio.gather(*(client.channel.wait_closed() for client in clients))


async def test_a_supervisor_on_each_node_answers_and_ends_with_its_stream(launch, dial):
    launcher, hosts, links = await launch()
    assert [host.containers for host in hosts] == [CPUS] * NODES
    assert len({host.label for host in hosts}) == NODES
    parents = {raylet(link).pid for link in links}
    assert len(parents) == NODES  # each worker belongs to another raylet
    for host, link in zip(hosts, links, strict=True):
        assert link.facts["address"] == host.address == ray.util.get_node_ip_address()
        assert {"hostname", "python", "aiomas", "cores", "clock"} <= link.facts.keys()
    assert free_cpus() == 0
    clients = [await dial(link) for link in links]
    assert "value" in await clients[0].remote.stop(1.0)
    for client in clients:
        client.close()
    async with asyncio.timeout(BOUND):
        assert [await link.ended for link in links] == [0] * NODES
    await launcher.release(hosts[0])
    await until(lambda: free_cpus() == CPUS)


async def test_too_many_containers_are_refused_at_once(cluster, launch):
    launcher = RayLauncher(cluster.address)
    began = time.monotonic()
    try:
        with pytest.raises(ClusterError, match=f"cannot place {ALL + 1} containers") as caught:
            await launcher.allocate([], ALL + 1, BOUND)
    finally:
        await launcher.close()
    assert time.monotonic() - began < BOUND / 2
    assert str(caught.value).count(f"CPU {CPUS} of {CPUS} free") == NODES


async def test_what_is_in_use_is_waited_for_and_then_told(connected, launch):
    taken = placement_group([{"CPU": 1}])
    assert taken.wait(BOUND)
    launcher = RayLauncher()
    with pytest.raises(ClusterError, match="did not become free") as caught:
        await launcher.allocate([], ALL, SHORT)
    assert "CPU 1 of 2 free: room for 1 now, 2 at most" in str(caught.value)
    waiting = asyncio.create_task(launcher.allocate([], ALL, BOUND))
    await asyncio.sleep(SHORT)
    assert not waiting.done()
    remove_placement_group(taken)
    assert len(await waiting) == NODES
    await launcher.close()
    assert ray.is_initialized()  # it is not ours
    await until(lambda: free_cpus() == ALL)
    ray.shutdown()


async def test_who_does_not_wait_any_more_leaves_no_reservation(connected):
    taken = placement_group([{"CPU": 1}])
    assert taken.wait(BOUND)
    launcher = RayLauncher()
    waiting = asyncio.create_task(launcher.allocate([], ALL, BOUND))
    await asyncio.sleep(SHORT)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await launcher.close()
    remove_placement_group(taken)
    await until(lambda: free_cpus() == ALL)


async def test_a_killed_actor_takes_its_supervisor_with_it(launch, dial):
    _, _, links = await launch(containers=1, strategy="PACK")
    [link] = links
    client = await dial(link)
    supervisor = psutil.Process(link.facts["pid"])
    worker(link).kill()
    async with asyncio.timeout(BOUND):
        assert await link.ended == -signal.SIGKILL
    assert "died" in link.said() or "dead" in link.said()
    async with asyncio.timeout(BOUND):
        await client.channel.wait_closed()
    await until(lambda: not supervisor.is_running() or supervisor.status() == "zombie")


async def test_a_link_can_be_killed(launch, dial):
    _, _, links = await launch(containers=CPUS + 1, strategy="PACK")
    assert len(links) == 2
    links[0].kill()
    async with asyncio.timeout(BOUND):
        assert await links[0].ended == -signal.SIGKILL
    await dial(links[1])  # is no part of it


async def test_how_a_supervisor_ended_is_told(launch):
    _, _, [link] = await launch(containers=1)
    os.kill(link.facts["pid"], signal.SIGTERM)
    async with asyncio.timeout(BOUND):
        assert await link.ended == -signal.SIGTERM


async def test_hosts_that_are_named_are_where_they_are_to_be(connected):
    ids = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    named = [HostSpec(ids[2], 2, name="two"), HostSpec(ids[0], name="one")]
    launcher = RayLauncher()
    try:
        hosts = await launcher.allocate(named, 1, BOUND)
        assert [(host.label, host.containers) for host in hosts] == [("two", 2), ("one", 1)]
        free = Counter(
            ray._private.state.available_resources_per_node()[n].get("CPU", 0) for n in ids
        )
        assert free == {0: 1, 1: 1, 2: 1}
        link = await launcher.launch(hosts[0], BOUND)
        assert ids[2] in " ".join(raylet(link).cmdline())
        link.sock.close()
    finally:
        await launcher.close()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "module_of_the_user.py").write_text("ANSWER = 42\n")
    return tmp_path


def import_as(link):
    """Import a module as a supervisor does."""
    environment = psutil.Process(link.facts["pid"]).environ()
    return subprocess.run(
        [sys.executable, "-P", "-c", "import module_of_the_user as m; print(m.ANSWER)"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    ).stdout


async def test_modules_come_along(launch, folder):
    _, _, [link] = await launch(containers=1, runtime_env={"working_dir": str(folder)})
    assert await asyncio.to_thread(import_as, link) == "42\n"


async def test_modules_of_a_connection_of_the_users_come_along(cluster, folder):
    ray.init(
        address=cluster.address,
        runtime_env={"py_modules": [str(folder / "module_of_the_user.py")]},
        log_to_driver=False,
        logging_level="ERROR",
    )
    launcher = RayLauncher()
    try:
        [host] = await launcher.allocate([], 1, BOUND)
        link = await launcher.launch(host, BOUND)
        assert await asyncio.to_thread(import_as, link) == "42\n"
        link.sock.close()
    finally:
        await launcher.close()
        ray.shutdown()


async def test_local_folders_need_a_connection_of_our_own(connected, folder):
    launcher = RayLauncher(runtime_env={"working_dir": str(folder)})
    try:
        [host] = await launcher.allocate([], 1, BOUND)
        with pytest.raises(ClusterError, match=r"passed to `ray.init`.*leave ray.init\(\) to"):
            await launcher.launch(host, BOUND)
    finally:
        await launcher.close()


async def test_an_environment_that_cannot_be_made_is_told(launch):
    with pytest.raises(ClusterError, match="cannot start a supervisor on node-"):
        await launch(containers=1, runtime_env={"conda": "no-such-environment"})


async def test_an_interpreter_that_is_not_there_is_told(launch):
    with pytest.raises(ClusterError, match="No such file or directory: '/no/such/python'"):
        await launch(containers=1, python="/no/such/python")


async def test_a_program_that_is_no_python_is_told(launch):
    with pytest.raises(ClusterError, match="No supervisor could be started on node-"):
        await launch(containers=1, python="/bin/false")


async def test_variables_and_threads_are_those_of_a_container(launch):
    _, [host], [link] = await launch(containers=CPUS, strategy="PACK")
    assert host.containers == CPUS
    assert psutil.Process(link.facts["pid"]).environ()["OMP_NUM_THREADS"] == "1"


async def test_a_cluster_of_our_own_ends_with_us(settings_of_ray, dial):
    launcher = RayLauncher("local", init={"num_cpus": 1, "object_store_memory": 80 * 2**20})
    began = set(psutil.Process().children(recursive=True))
    try:
        [host] = await launcher.allocate([], None, BOUND)
        assert host.containers == 1
        link = await launcher.launch(host, BOUND)
        await dial(link)
    finally:
        await launcher.close()
    assert not ray.is_initialized()
    await until(lambda: set(psutil.Process().children(recursive=True)) <= began)
