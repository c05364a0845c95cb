"""What a cluster does when things go wrong: killed and stuck processes, a killed driver, Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from pathlib import Path

import psutil
import pytest

from aiomas.cluster import Cluster, ContainerDied, SpawnError

AGENTS = """
import asyncio, os, signal, sys, time
import aiomas


class Worker(aiomas.Agent):
    @aiomas.expose
    def pid(self):
        return os.getpid()

    @aiomas.expose
    async def hang(self):
        await asyncio.get_running_loop().create_future()

    # Each of these makes the file *mark* when it has come to where it stays.
    @aiomas.expose
    def busy(self, mark):
        open(mark, "x").close()
        while True:
            pass

    @aiomas.expose
    def deaf(self, mark):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open(mark, "x").close()
        while True:
            time.sleep(1)

    @aiomas.expose
    async def slow_to_end(self, mark):
        try:
            open(mark, "x").close()
            await asyncio.get_running_loop().create_future()
        finally:
            time.sleep(60)

    @aiomas.expose
    def exit(self, code):
        os._exit(code)


class Dying(aiomas.Agent):
    def __init__(self, container, file=None):
        super().__init__(container)
        os._exit(3)


class Stuck(aiomas.Agent):
    def __init__(self, container):
        super().__init__(container)
        time.sleep(60)
"""


@pytest.fixture(autouse=True)
def agents(tmp_path, monkeypatch):
    (tmp_path / "fault_agents.py").write_text(AGENTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{root}")


def directories() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).iterdir()}


def kill(cluster: Cluster, index: int) -> None:
    psutil.Process(cluster.containers[index].pid).kill()


async def until(condition, timeout=10):
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - of what happens elsewhere there is no event
            await asyncio.sleep(0.005)


class TestContainers:
    async def test_a_killed_one_fails_the_calls_to_it_alone_and_at_once(self):
        async with Cluster(2) as cluster:
            dying, living = await cluster.spawn_many("fault_agents:Worker", 2)
            calls = [dying.hang() for _ in range(10)]
            assert await dying.pid() == cluster.containers[0].pid
            kill(cluster, 0)
            async with asyncio.timeout(5):
                for call in calls:
                    with pytest.raises(ConnectionError):
                        await call
                with pytest.raises(ConnectionError):
                    await dying.pid()
                await until(lambda: cluster.containers[0].state == "died")
            assert cluster.containers[0].exit_code == -signal.SIGKILL
            assert await living.pid() == cluster.containers[1].pid
            # New agents go where there is somebody.
            agents = await cluster.spawn_many("fault_agents:Worker", 3)
            assert {await agent.pid() for agent in agents} == {cluster.containers[1].pid}
            with pytest.raises(ValueError, match="no running container"):
                await cluster.spawn("fault_agents:Worker", placement=0)
        assert [info.state for info in cluster.containers] == ["died", "stopped"]

    async def test_one_that_exits_during_a_call(self):
        async with Cluster(1) as cluster:
            agent = await cluster.spawn("fault_agents:Worker")
            async with asyncio.timeout(5):
                with pytest.raises(ConnectionError):
                    await agent.exit(7)
                await until(lambda: cluster.containers[0].state == "died")
            assert cluster.containers[0].exit_code == 7

    async def test_one_that_dies_while_agents_are_made_is_named(self):
        async with Cluster(2) as cluster:
            async with asyncio.timeout(5):
                with pytest.raises(ContainerDied, match="exit code 3") as caught:
                    await cluster.spawn("fault_agents:Dying", placement=1)
            assert caught.value.index == 1
            assert caught.value.exit_code == 3
            assert f"Container 1 (pid {cluster.containers[1].pid})" in str(caught.value)
            assert isinstance(caught.value, ConnectionError)
            assert await (await cluster.spawn("fault_agents:Worker")).pid()

    async def test_one_that_is_killed_while_agents_are_made_is_named(self):
        async with Cluster(1) as cluster:
            spawning = asyncio.create_task(cluster.spawn("fault_agents:Stuck"))
            process = psutil.Process(cluster.containers[0].pid)
            await until(lambda: process.status() == psutil.STATUS_SLEEPING)
            process.kill()
            async with asyncio.timeout(5):
                with pytest.raises(ContainerDied, match="killed by SIGKILL") as caught:
                    await spawning
            assert caught.value.exit_code == -signal.SIGKILL

    async def test_ctrl_c_in_a_terminal_means_nothing_to_them(self):
        async with Cluster(2) as cluster:
            agents = await cluster.spawn_many("fault_agents:Worker", 2)
            for info in cluster.containers:
                assert os.getsid(info.pid) != os.getsid(0)
                os.kill(info.pid, signal.SIGINT)
            pids = [info.pid for info in cluster.containers]
            for _ in range(3):
                assert [await agent.pid() for agent in agents] == pids
        assert [info.exit_code for info in cluster.containers] == [0, 0]

    async def test_when_none_is_left_that_is_said(self):
        async with Cluster(1) as cluster:
            kill(cluster, 0)
            await until(lambda: cluster.containers[0].state == "died")
            async with asyncio.timeout(5):
                with pytest.raises(SpawnError, match="No container"):
                    await cluster.spawn("fault_agents:Worker")
                assert [status["state"] for status in await cluster.status()] == ["died"]

    async def test_one_that_died_does_not_keep_the_time_from_the_others(self):
        async with Cluster(2, clock="2020-01-01") as cluster:
            kill(cluster, 0)
            await until(lambda: cluster.containers[0].state == "died")
            async with asyncio.timeout(5):
                with pytest.raises(ContainerDied, match="Container 0"):
                    await cluster.set_time(5)
            await cluster._control(cluster.containers[1], "agents")
            assert cluster.container.clock.time() == 5

    async def test_all_dead_is_no_obstacle_to_the_end(self):
        before = directories()
        async with Cluster(2) as cluster:
            for index in range(2):
                kill(cluster, index)
        assert [info.exit_code for info in cluster.containers] == [-signal.SIGKILL] * 2
        assert directories() == before

    @pytest.mark.parametrize(
        ("how", "exit_code"),
        [("busy", -signal.SIGTERM), ("deaf", -signal.SIGKILL), ("slow_to_end", -signal.SIGTERM)],
    )
    async def test_one_that_is_stuck_is_ended_within_a_bound(self, how, exit_code, tmp_path):
        loop = asyncio.get_running_loop()
        async with Cluster(1, stop_timeout=0.2) as cluster:
            agent = await cluster.spawn("fault_agents:Worker")
            call = getattr(agent, how)(str(tmp_path / "mark"))
            await until((tmp_path / "mark").exists)
            began = loop.time()
        assert loop.time() - began < 5
        with pytest.raises(ConnectionError):
            await call
        assert cluster.containers[0].exit_code == exit_code

    async def test_one_that_is_stopped_is_ended_within_a_bound(self):
        async with Cluster(1, stop_timeout=0.2) as cluster:
            psutil.Process(cluster.containers[0].pid).suspend()
        assert cluster.containers[0].exit_code == -signal.SIGKILL

    async def test_a_cancelled_stop_leaves_nothing(self):
        before = directories()
        inside = asyncio.Event()

        async def run():
            async with Cluster(2) as cluster:
                processes.extend(psutil.Process(info.pid) for info in cluster.containers)
                processes[0].suspend()
                inside.set()

        processes: list[psutil.Process] = []
        running = asyncio.create_task(run())
        await inside.wait()
        await asyncio.sleep(0.05)  # it is asking the processes to stop, for up to 10 s
        running.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await running
        assert not any(process.is_running() for process in processes)
        assert directories() == before

    async def test_a_start_during_which_one_dies_takes_all_down(self, monkeypatch):
        cluster = Cluster(3)
        starting = asyncio.create_task(cluster.__aenter__())
        await until(lambda: len(cluster._workers) == 3)
        kill(cluster, 1)
        async with asyncio.timeout(10):
            with pytest.raises(ContainerDied, match=r"Container 1 .*SIGKILL"):
                await starting
        assert [info.pid for info in cluster.containers if psutil.pid_exists(info.pid)] == []
