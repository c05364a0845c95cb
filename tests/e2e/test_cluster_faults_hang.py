"""Workers that do not answer: stopped by the system, blocked by their agents, or not obeying."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import psutil
import pytest

from aiomas import Limits
from aiomas.cluster import Cluster, ClusterError, ContainerDied, EventKind, RestartPolicy
from aiomas.cluster.container import ClusterContainer
from aiomas.exceptions import PeerUnresponsive
from tests.e2e.clusters import BOUND, Events, until, workers
from tests.e2e.fault_agents import Faulty, Worker

pytestmark = pytest.mark.timeout(60)
SOON = RestartPolicy(backoff=0.05)


def read_log(cluster: Cluster, index: int = 0) -> str:
    assert cluster.directory is not None
    return (cluster.directory / "logs" / f"{index}.log").read_text()


async def test_a_stopped_one_is_reported_and_recovers():
    async with Cluster(2, loop="asyncio", hang_timeout=0.5) as cluster:
        events = Events(cluster)
        agent = await cluster.spawn(Worker, placement=0)
        process = psutil.Process(cluster.containers[0].pid)
        process.suspend()
        try:
            hung = await events.get(EventKind.HUNG, 0)
            call = agent.add()
            assert "hang_timeout=0.5 s" in hung.message
            assert (hung.index, hung.pid) == (0, process.pid)
            assert cluster.containers[0].state == "hung"
            first, _ = await cluster.status(timeout=0.5)
            assert first["state"] == "hung"
            assert first["rss"] > 0
            # New agents go where there is somebody.
            await until(lambda: cluster.containers[1].state == "running")
            assert await (await cluster.spawn(Worker)).pid() == cluster.containers[1].pid
        finally:
            process.resume()
        await events.get(EventKind.RECOVERED, 0)
        assert cluster.containers[0].state == "running"
        assert await call == 1  # it was late, and not lost
        assert cluster.containers[0].pid == process.pid
        assert "died" not in events.kinds()


async def test_who_is_busy_is_not_taken_for_dead():
    """Not as by the limits that other containers have, here with shorter times."""
    impatient = Limits(heartbeat=0.2, write_timeout=0.5)
    async with Cluster(2, loop="asyncio", limits=impatient) as cluster:
        one, other = await cluster.spawn_many(Faulty, 2)
        with pytest.raises(PeerUnresponsive):
            await other.block_for(3)
        assert await one.call(other, "block_for", 3) == "PeerUnresponsive"
    async with Cluster(2, loop="asyncio") as cluster:
        assert isinstance(cluster.container, ClusterContainer)
        one, other = await cluster.spawn_many(Faulty, 2)
        patient = Limits(heartbeat=None, write_timeout=None)
        assert cluster.container._terms.limits == patient
        assert await cluster.map("limits", [one, other]) == [repr(patient)] * 2
        await other.block_for(1)
        assert await one.call(other, "block_for", 1) is None


async def test_a_stopped_one_is_killed_and_started_again():
    async with Cluster(
        1, loop="asyncio", hang_timeout=1.5, on_hang="restart", restart=SOON
    ) as cluster:
        events = Events(cluster)
        agent = await cluster.spawn(Worker, respawn=True)
        pid = cluster.containers[0].pid
        call = agent.hang()
        await agent.pid()
        os.kill(pid, signal.SIGSTOP)
        died = await events.get(EventKind.DIED)
        with pytest.raises(ConnectionError):
            await call
        await events.get(EventKind.RESTARTED)
        assert events.kinds()[:4] == ["hung", "died", "restarting", "restarted"]
        assert isinstance(died.error, ContainerDied)
        assert died.error.exit_code == -signal.SIGKILL
        assert "did not answer for hang_timeout=1.5 s, and was killed" in str(died.error)
        assert not died.error.out_of_memory
        assert await agent.pid() == cluster.containers[0].pid != pid
        assert workers() == {cluster.containers[0].pid}


async def test_a_blocked_one_says_where_before_it_is_killed():
    async with Cluster(
        1, loop="asyncio", hang_timeout=1.5, on_hang="restart", restart=SOON
    ) as cluster:
        events = Events(cluster)
        agent = await cluster.spawn(Faulty, respawn=True)
        call = agent.block_the_loop()
        died = await events.get(EventKind.DIED)
        with pytest.raises(ConnectionError):
            await call
        assert isinstance(died.error, ContainerDied)
        [line] = [line for line in died.error.log if "block_the_loop" in line]
        assert "fault_agents.py" in line
        assert line in read_log(cluster)
        await events.get(EventKind.RESTARTED)
        assert await agent.add() == 1


async def test_the_stop_is_bounded_whatever_they_do(tmp_path):
    mark = tmp_path / "mark"
    cluster = Cluster(2, loop="asyncio", hang_timeout=None, stop_timeout=0.3)
    async with cluster:
        agent = await cluster.spawn(Faulty, placement=0)
        call = agent.ignore_all_and_block(str(mark))
        await until(mark.exists)
        os.kill(cluster.containers[1].pid, signal.SIGSTOP)
        pids = [info.pid for info in cluster.containers]
        began = time.monotonic()
    # To ask them takes up to 1.3 s, to terminate them 0.3 s.
    assert time.monotonic() - began < BOUND / 2
    assert not any(map(psutil.pid_exists, pids))
    with pytest.raises(ConnectionError):
        await call


async def test_a_cancelled_stop_is_at_once_and_leaves_nothing():
    inside = asyncio.Event()

    async def run():
        async with Cluster(1, loop="asyncio", hang_timeout=None, stop_timeout=60) as cluster:
            os.kill(cluster.containers[0].pid, signal.SIGSTOP)
            asyncio.get_running_loop().call_later(0.5, running.cancel)
            inside.set()

    running = asyncio.create_task(run())
    await inside.wait()
    async with asyncio.timeout(BOUND):
        with pytest.raises(asyncio.CancelledError):
            await running
    assert psutil.Process().children(recursive=True) == []


async def test_calls_to_its_control_stream_end_when_it_is_found_to_hang():
    async with Cluster(
        2, loop="asyncio", hang_timeout=1, stop_timeout=0.3, clock="2020-01-01"
    ) as cluster:
        events = Events(cluster)
        process = psutil.Process(cluster.containers[1].pid)
        process.suspend()
        hung = rf"Container 1 \(pid {process.pid}\) has not answered for hang_timeout=1 s"
        async with asyncio.timeout(BOUND):
            with pytest.raises(ClusterError, match=hung):
                await cluster.spawn(Worker, placement=1)
            await events.get(EventKind.HUNG, 1)
            with pytest.raises(ClusterError, match=hung):
                await cluster.checkpoint()
            with pytest.raises(ClusterError, match=hung):
                await cluster.set_time(60)
        assert await (await cluster.spawn(Worker, placement=0)).time() == 60
        process.resume()
        await events.get(EventKind.RECOVERED, 1)
        await cluster.checkpoint()
        assert await (await cluster.spawn(Worker, placement=1)).pid() == process.pid


async def test_calls_to_its_control_stream_can_be_cancelled():
    async with Cluster(1, loop="asyncio", hang_timeout=None, stop_timeout=0.3) as cluster:
        process = psutil.Process(cluster.containers[0].pid)
        process.suspend()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await cluster.spawn(Worker)
        assert cluster.containers[0].agents == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await cluster.checkpoint()
        process.resume()
        await cluster.checkpoint()
        with pytest.raises(ClusterError):
            await cluster._run.call("no_such_method")
        assert await (await cluster.spawn(Worker)).pid() == process.pid
