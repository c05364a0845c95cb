"""Workers that are killed: in a call, while agents are made, while they start; again and again."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil
import pytest

from aiomas.cluster import (
    Cluster,
    ClusterError,
    ContainerDied,
    EventKind,
    RestartPolicy,
    SpawnError,
)
from tests.e2e.clusters import BOUND, Events, until, workers
from tests.e2e.fault_agents import Heavy, Picky, Stateless, Worker

pytestmark = pytest.mark.timeout(60)
SOON = RestartPolicy(backoff=0.05)
NEVER = RestartPolicy(mode="temporary")


def kill(cluster: Cluster, index: int) -> int:
    """Kill a container's process, and return its id."""
    pid = cluster.containers[index].pid
    os.kill(pid, signal.SIGKILL)
    return pid


class TestInACall:
    @pytest.mark.parametrize("transport", ["unix", "tcp"])
    async def test_its_caller_is_told_at_once_and_it_comes_back_at_its_address(self, transport):
        async with Cluster(2, loop="asyncio", transport=transport, restart=SOON) as cluster:
            events = Events(cluster)
            agent = await cluster.spawn(Worker, "a", 1, respawn=True, placement=0)
            lost = await cluster.spawn(Worker, "b", placement=0)
            other = await cluster.spawn(Worker, "c", placement=1)
            url = cluster.containers[0].url
            calls = [agent.hang(), lost.hang()]
            await agent.pid()
            pid = kill(cluster, 0)
            async with asyncio.timeout(BOUND):
                for call in calls:
                    with pytest.raises(ConnectionError):
                        await call
            died = await events.get(EventKind.DIED, 0)
            restarted = await events.get(EventKind.RESTARTED, 0)

            assert events.kinds(0) == ["died", "restarting", "restarted"]
            assert events.kinds(1) == []
            assert isinstance(died.error, ContainerDied)
            assert (died.error.index, died.error.exit_code) == (0, -signal.SIGKILL)
            assert not died.error.out_of_memory
            assert died.pid == pid
            assert str(died.error) == f"Container 0 (pid {pid}) was killed by SIGKILL"
            info = cluster.containers[0]
            assert (info.state, info.pid, info.restarts) == ("running", restarted.pid, 1)
            assert info.url == url
            # The old proxies reach the new process, and those agents that have come back.
            assert await agent.pid() == info.pid != pid
            assert await agent.get() == (("a", 1), 0)
            with pytest.raises(LookupError, match="lost when its container was restarted"):
                await lost.pid()
            assert await other.get() == (("c",), 0)
            assert info.agents == 1
            assert workers() == {info.pid for info in cluster.containers}

    async def test_states_come_back_as_they_were_saved(self):
        async with Cluster(1, loop="asyncio", restart=SOON) as cluster:
            events = Events(cluster)
            agents = await cluster.spawn_many(Worker, 3, respawn=True)
            without = await cluster.spawn(Stateless, respawn=True)
            for agent in agents:
                await agent.add()
            await agents[0].save()
            await agents[0].add()
            kill(cluster, 0)
            await events.get(EventKind.RESTARTED)
            assert [(await agent.get())[1] for agent in agents] == [1, 0, 0]

            for agent in agents:
                await agent.add()
            await cluster.checkpoint()
            await agents[1].add()
            kill(cluster, 0)
            await events.get(EventKind.RESTARTED, number=2)
            assert [(await agent.get())[1] for agent in agents] == [2, 1, 1]
            assert await without.pid() == cluster.containers[0].pid
            assert events.kinds().count("agent lost") == 0

    async def test_states_may_be_larger_than_a_message_all_together(self):
        async with Cluster(1, loop="asyncio", restart=SOON) as cluster:
            events = Events(cluster)
            sizes = [*[2**20] * 70, 100 * 2**20]
            agents = await cluster.spawn_many(Heavy, [(size,) for size in sizes], respawn=True)
            # One that is too large does no harm to the others.
            expected = r"could not be saved: '70'\. (?s:.*)'70' has 104857605 bytes; .* at most"
            with pytest.raises(ClusterError, match=expected):
                await cluster.checkpoint()
            kill(cluster, 0)
            await events.get(EventKind.RESTARTED)
            counts = [(await agent.get())[1] for agent in agents]
            assert counts == [*[2**20] * 70, 0]

    async def test_agents_that_agents_have_made_keep_unique_ids(self):
        async with Cluster(1, loop="asyncio", restart=SOON) as cluster:
            events = Events(cluster)
            maker = await cluster.spawn(Worker, respawn=True)
            seen = set(await maker.ids())
            for number in range(1, 3):
                made = [await maker.make_another() for _ in range(2)]
                new = set(await maker.ids())
                assert len(new) == 3
                assert len(new - seen) == 2
                seen |= new
                kill(cluster, 0)
                await events.get(EventKind.RESTARTED, number=number)
                assert set(await maker.ids()) == {"0"}
                for agent in made:  # and no other one answers in their place
                    with pytest.raises(LookupError):
                        await agent.pid()
                late = await cluster.spawn(Worker, respawn=True)
                aid = (set(await maker.ids()) - {"0"}).pop()
                assert aid not in seen
                seen.add(aid)
                await late.end()

    async def test_an_agent_that_has_stopped_is_not_made_again(self):
        async with Cluster(1, loop="asyncio", restart=SOON) as cluster:
            events = Events(cluster)
            stays, ended = await cluster.spawn_many(Worker, [("x",), ("y",)], respawn=True)
            await ended.save()
            await ended.end()
            kill(cluster, 0)
            await events.get(EventKind.RESTARTED)
            assert await stays.ids() == ("0",)
            assert (await stays.get())[0] == ("x",)
            with pytest.raises(LookupError):
                await ended.pid()


class TestWhileAgentsAreMade:
    async def test_what_was_made_elsewhere_is_told_and_works(self):
        async with Cluster(2, loop="asyncio", restart=SOON) as cluster:
            events = Events(cluster)
            arguments = [("kill" if n == 4 else n,) for n in range(7)]
            with pytest.raises(ContainerDied, match=r"Container 0 .*SIGKILL") as caught:
                await cluster.spawn_many(Picky, arguments)
            assert caught.value.exit_code == -signal.SIGKILL
            spawned = caught.value.spawned
            assert [(await agent.get())[0] for agent in spawned] == [(1,), (3,), (5,)]
            await events.get(EventKind.RESTARTED, 0)
            assert [info.agents for info in cluster.containers] == [0, 3]
            assert await (await cluster.spawn(Worker, placement=0)).ids()

    @pytest.mark.parametrize("respawn", [False, True])
    async def test_only_what_exists_then_is_told(self, respawn):
        # They are made with several messages, of which the first one has done its work.
        arguments = [("kill" if n == 2500 else n,) for n in range(2501)]
        async with Cluster(1, loop="asyncio", restart=SOON) as cluster:
            events = Events(cluster)
            with pytest.raises(ContainerDied) as caught:
                await cluster.spawn_many(Picky, arguments, respawn=respawn)
            await events.get(EventKind.RESTARTED, 0)
            spawned = caught.value.spawned
            assert len(spawned) == cluster.containers[0].agents == (2000 if respawn else 0)
            if respawn:
                assert (await spawned[-1].get())[0] == (1999,)
            [status] = await cluster.status()
            assert status["agents"] == len(spawned)

    async def test_one_that_is_killed_from_outside(self, tmp_path):
        mark = tmp_path / "mark"
        async with Cluster(2, loop="asyncio", restart=NEVER) as cluster:
            arguments = [(0,), (1,), ("wait", str(mark))]
            spawning = asyncio.create_task(cluster.spawn_many(Picky, arguments))
            await until(mark.exists)
            kill(cluster, 0)
            with pytest.raises(ContainerDied, match="Container 0") as caught:
                await spawning
            assert [(await agent.get())[0] for agent in caught.value.spawned] == [(1,)]
            assert [info.agents for info in cluster.containers] == [0, 1]


class TestWhileItStarts:
    async def test_the_start_fails_with_that_and_all_is_gone(self, tmp_path, monkeypatch):
        # The driver imports it as well, and goes on.
        (tmp_path / "slow_to_import.py").write_text(
            "import os, pathlib, time\n"
            "print('this is slow', flush=True)\n"
            "if os.getpid() != int(os.environ['DRIVER']):\n"
            "    pathlib.Path(os.environ['MARKS'], str(os.getpid())).touch()\n"
            "while os.getpid() != int(os.environ['DRIVER']):\n"
            "    time.sleep(0.1)\n"
            "from aiomas.codecs import uuid_serializer\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("DRIVER", str(os.getpid()))
        marks = tmp_path / "marks"
        marks.mkdir()
        monkeypatch.setenv("MARKS", str(marks))
        serializers = ["slow_to_import:uuid_serializer"]
        cluster = Cluster(3, loop="asyncio", extra_serializers=serializers)
        starting = asyncio.create_task(cluster.__aenter__())
        await until(lambda: len(list(marks.iterdir())) == 3)
        pid = min(int(mark.name) for mark in marks.iterdir())
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ContainerDied, match=f"pid {pid}.* was killed by SIGKILL") as caught:
            await starting
        assert caught.value.exit_code == -signal.SIGKILL
        assert caught.value.log == ["this is slow"]
        assert "The last lines of its log:\n  this is slow" in str(caught.value)
        assert psutil.Process().children(recursive=True) == []


class TestAgainAndAgain:
    @pytest.mark.parametrize("transport", ["unix", "tcp"])
    async def test_it_is_given_up_at_its_intensity(self, transport, tmp_path):
        policy = RestartPolicy(intensity=2, period=60, backoff=0.02)
        async with Cluster(2, loop="asyncio", transport=transport, restart=policy) as cluster:
            events = Events(cluster)
            mark = tmp_path / "mark"
            storm = await cluster.spawn(Picky, "once", str(mark), respawn=True, placement=0)
            other = await cluster.spawn(Worker, placement=1)
            mark.touch()  # from now on it ends its container when it is made
            kill(cluster, 0)
            failed = await events.get(EventKind.FAILED, 0)
            assert events.kinds(0) == ["died", "restarting"] * 2 + ["died", "failed"]
            assert isinstance(failed.error, ContainerDied)
            assert failed.error.exit_code == 3
            assert "intensity=2" in failed.message
            info = cluster.containers[0]
            assert (info.state, info.agents, info.exit_code) == ("failed", 0, 3)
            assert (await cluster.status())[0]["state"] == "failed"
            async with asyncio.timeout(BOUND):
                for _ in range(3):
                    with pytest.raises(ConnectionError):
                        await storm.pid()
            assert await other.pid() == cluster.containers[1].pid
            with pytest.raises(ValueError, match="no running container"):
                await cluster.spawn(Worker, placement=0)
            assert await (await cluster.spawn(Worker)).pid() == cluster.containers[1].pid
            assert workers() == {cluster.containers[1].pid}
            kill(cluster, 1)
            await events.get(EventKind.RESTARTED, 1)
            with pytest.raises(LookupError):
                await other.pid()
        assert [info.state for info in cluster.containers] == ["failed", "stopped"]

    async def test_when_none_is_left_that_is_said(self):
        async with Cluster(1, loop="asyncio", restart=NEVER) as cluster:
            events = Events(cluster)
            kill(cluster, 0)
            failed = await events.get(EventKind.FAILED)
            assert "restart mode 'temporary'" in failed.message
            with pytest.raises(SpawnError, match="No container of this cluster runs: 1 failed"):
                await cluster.spawn(Worker)


class TestTime:
    async def test_others_have_it_and_the_lost_one_is_named(self):
        async with Cluster(2, loop="asyncio", clock="2020-01-01", restart=NEVER) as cluster:
            events = Events(cluster)
            other = await cluster.spawn(Worker, placement=1)
            kill(cluster, 0)
            async with asyncio.timeout(BOUND):
                with pytest.raises(ContainerDied, match="Container 0") as caught:
                    await cluster.set_time(5)
            assert caught.value.index == 0
            assert await other.time() == cluster.container.clock.time() == 5
            await events.get(EventKind.FAILED)
            with pytest.raises(ValueError, match="forward"):
                await cluster.set_time(5)
            await cluster.set_time(6)  # the one that was given up is left out
            assert await other.time() == cluster.container.clock.time() == 6

    async def test_after_a_restart_its_clock_has_the_time_of_the_cluster(self):
        policy = RestartPolicy(backoff=0.5)
        async with Cluster(2, loop="asyncio", clock="2020-01-01", restart=policy) as cluster:
            events = Events(cluster)
            agents = [await cluster.spawn(Worker, respawn=True, placement=n) for n in range(2)]
            await cluster.set_time(5)
            kill(cluster, 0)
            await events.get(EventKind.RESTARTING, 0)
            await cluster.set_time(7)  # waits for the one that is being started again
            assert [await agent.time() for agent in agents] == [7, 7]
            kill(cluster, 0)
            await events.get(EventKind.RESTARTED, 0, number=2)
            assert [await agent.time() for agent in agents] == [7, 7]
            await cluster.set_time(8)
            assert [await agent.time() for agent in agents] == [8, 8]
