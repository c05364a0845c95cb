"""Many clusters, many containers, few descriptors: what is shared, and what is given back."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path

import psutil
import pytest

from aiomas.agent import url_of
from aiomas.cluster import Cluster, PartialResult
from aiomas.cluster.rundir import running
from tests.e2e.driver_process import AGENTS, base, drive, kill  # noqa: F401 - fixtures

pytestmark = pytest.mark.timeout(120)

NAMED = """
async def main():
    async with Cluster(1, name="same", loop="asyncio") as cluster:
        say(cluster.name)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_name_is_taken_for_as_long_as_its_run_lives(drive, base, monkeypatch):  # noqa: F811
    first = drive(NAMED)
    first.expect("same")
    supervisor = first.tree(1).supervisor.pid
    second = drive(NAMED)
    code, output, errors = second.end()
    assert (code, output) == (1, "")
    last = errors.splitlines()[-1]
    assert f"ClusterError: a cluster 'same' is running already (pid {supervisor}, since " in last
    # That has changed nothing for the first.
    monkeypatch.setenv("AIOMAS_RUN_DIR", str(base / f"aiomas-{os.geteuid()}"))
    assert [run.facts["driver_pid"] for run in running()] == [first.pid]
    # As soon as it has gone, however it went, the name is free.
    kill(psutil.Process(first.pid))
    first.process.wait()
    for process in first.processes():
        process.wait(5)
    third = drive(NAMED)
    third.expect("same")
    assert [run.facts["driver_pid"] for run in running()] == [third.pid]
    third.process.terminate()


@pytest.fixture
def agents(tmp_path, monkeypatch):
    (tmp_path / "many_agents.py").write_text(AGENTS)
    monkeypatch.syspath_prepend(str(tmp_path))


async def test_two_clusters_of_one_driver_do_not_meet(agents):
    async with (
        Cluster(1, loop="asyncio") as one,
        Cluster(1, loop="asyncio") as other,
    ):
        assert one.name != other.name
        assert {run.name for run in running()} == {one.name, other.name}
        agent = await one.spawn("many_agents:Worker")
        # Who is of another run is refused.
        with pytest.raises(ConnectionError):
            await other.container.connect(url_of(agent))
        with pytest.raises(PartialResult, match="refuses this connection"):
            await other.map("pid", [agent])
        assert await agent.pid() == one.containers[0].pid
    assert running() == []


def held() -> tuple[int, int, int]:
    """Return how many descriptors, threads and child processes there are."""
    gc.collect()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    return descriptors, threading.active_count(), len(psutil.Process().children(recursive=True))


async def test_fifty_clusters_in_a_row_give_everything_back():
    async def one():
        async with Cluster(1, loop="asyncio") as cluster:
            assert len(cluster.containers) == 1
        assert cluster.directory is not None
        assert not cluster.directory.exists()

    await one()  # modules are imported, threads of the executor started
    before, memory = held(), 0
    for number in range(50):
        await one()
        if number == 9:
            memory = psutil.Process().memory_info().rss
    assert held() == before
    assert psutil.Process().memory_info().rss < memory + 8 * 2**20


async def test_64_containers_on_few_cores(agents):
    async with Cluster(64, loop="asyncio") as cluster:
        agents = await cluster.spawn_many("many_agents:Worker", 64)
        pids = await asyncio.gather(*(agent.pid() for agent in agents))
        assert sorted(pids) == sorted(info.pid for info in cluster.containers)
        assert len(set(pids)) == 64
        assert [status["agents"] for status in await cluster.status()] == [1] * 64
    assert [info.exit_code for info in cluster.containers] == [0] * 64
    assert not any(map(psutil.pid_exists, pids))


FEW = """
import resource

async def main():
    refused = started = 0
    before = set(os.listdir("/proc/self/fd"))
    room = len(before) - 1  # without the one that looks
    while not started:
        resource.setrlimit(resource.RLIMIT_NOFILE, (room, 4096))
        try:
            async with Cluster(int(sys.argv[1]), loop="asyncio") as cluster:
                started += 1
        except (OSError, ClusterError) as exc:
            assert "Too many open files" in str(exc), str(exc)
            refused += 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        after = set(os.listdir("/proc/self/fd"))
        assert after == before, after - before
        assert os.listdir(os.environ["TMPDIR"]) == []
        room += int(sys.argv[2])
    say(refused > 3)

asyncio.run(asyncio.sleep(0))
asyncio.run(main())
"""


@pytest.mark.parametrize(("containers", "step"), [(1, 1), (16, 8)])
def test_too_few_descriptors_are_said_and_nothing_is_left(drive, containers, step):  # noqa: F811
    # With each step, it fails at another place: in the driver, in the supervisor, the fork server.
    driver = drive(FEW, str(containers), str(step))
    code, output, errors = driver.end(90)
    assert (code, output) == (0, "True\n"), errors
    assert errors == ""
    assert driver.left() == []
