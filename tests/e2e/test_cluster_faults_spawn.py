"""Agents that cannot be made: modules that fail, factories that raise, hang, or end the program."""

from __future__ import annotations

import asyncio

import pytest

from aiomas.cluster import Cluster, EventKind, RestartPolicy, SpawnError
from tests.e2e.clusters import Events, until, workers
from tests.e2e.fault_agents import Picky, Worker

pytestmark = pytest.mark.timeout(60)
SOON = RestartPolicy(backoff=0.05)


@pytest.mark.parametrize("what", ["raise LookupError('it is broken')", "raise SystemExit(3)"])
async def test_a_module_that_fails_when_it_is_imported(what, tmp_path, monkeypatch):
    (tmp_path / "broken_agents.py").write_text(f"print('in vain')\n{what}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    async with Cluster(1, loop="asyncio", restart=SOON) as cluster:
        events = Events(cluster)
        with pytest.raises(SpawnError) as caught:
            await cluster.spawn("broken_agents:Worker")
        message = str(caught.value)
        pid = cluster.containers[0].pid
        assert "Agent number 0 (broken_agents:Worker) could not be made" in message
        assert f"container 0 (pid {pid})" in message
        assert 'broken_agents.py", line 2' in message
        assert caught.value.spawned == []
        assert await (await cluster.spawn(Worker)).pid() == pid
        assert events.all == []


@pytest.mark.parametrize("number", ["raise", "exit"])
async def test_one_of_many_that_cannot_be_made(number):
    async with Cluster(2, loop="asyncio", restart=SOON) as cluster:
        arguments = [(number if n == 6 else n,) for n in range(12)]
        with pytest.raises(SpawnError) as caught:
            await cluster.spawn_many(Picky, arguments, respawn=True)
        message = str(caught.value)
        assert "Agent number 6 (tests.e2e.fault_agents:Picky) could not be made" in message
        assert f"container 0 (pid {cluster.containers[0].pid})" in message
        assert "Traceback" in message
        assert "fault_agents.py" in message
        # All in the other container, and those before it in its own one, are there.
        spawned = sorted([(await agent.get())[0] for agent in caught.value.spawned])
        assert spawned == [(n,) for n in (0, 1, 2, 3, 4, 5, 7, 9, 11)]
        assert [info.agents for info in cluster.containers] == [3, 6]
        assert [status["agents"] for status in await cluster.status()] == [3, 6]
        # And they are made again like others.
        events = Events(cluster)
        await caught.value.spawned[0].kill()
        await events.get(EventKind.RESTARTED, 0)
        assert sorted([(await agent.get())[0] for agent in caught.value.spawned]) == spawned


async def test_a_factory_that_hangs(tmp_path):
    started, cancelled = tmp_path / "started", tmp_path / "cancelled"
    async with Cluster(1, loop="asyncio", restart=SOON) as cluster:
        events = Events(cluster)

        async def spawn():
            async with asyncio.timeout(None) as bound:
                spawning = asyncio.create_task(
                    cluster.spawn(
                        "tests.e2e.fault_agents:hanging", str(started), str(cancelled), name="slow"
                    )
                )
                await until(started.exists)
                bound.reschedule(asyncio.get_running_loop().time() + 0.1)
                await spawning

        with pytest.raises(TimeoutError):
            await spawn()
        await until(cancelled.exists)  # it does not go on there
        assert cluster.containers[0].agents == 0
        agent = await cluster.spawn(Worker, name="slow")
        assert await agent.pid() == cluster.containers[0].pid
        assert events.all == []


async def test_an_agent_that_cannot_be_made_again_is_told(tmp_path):
    mark = tmp_path / "mark"
    async with Cluster(1, loop="asyncio", restart=SOON) as cluster:
        events = Events(cluster)
        arguments = [(1, ""), ("raise later", str(mark)), (3, "")]
        first, lost, last = await cluster.spawn_many(Picky, arguments, respawn=True)
        mark.touch()
        await first.kill()
        told = await events.get(EventKind.AGENT_LOST)
        await events.get(EventKind.RESTARTED)
        assert "ValueError: this one is not wanted" in str(told.error)
        assert told.index == 0
        assert [await agent.get() for agent in (first, last)] == [((1,), 0), ((3,), 0)]
        with pytest.raises(LookupError):
            await lost.get()
        assert workers() == {cluster.containers[0].pid}
