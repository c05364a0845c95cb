"""Workers that end by themselves: with a code, without memory, without their control stream."""

from __future__ import annotations

import asyncio
import signal

import pytest

from aiomas.cluster import Cluster, ContainerDied, EventKind, RestartPolicy
from aiomas.cluster.forkserver import OUT_OF_MEMORY
from aiomas.exceptions import RemoteException
from tests.e2e.clusters import BOUND, Events, workers
from tests.e2e.fault_agents import Faulty, Worker

pytestmark = pytest.mark.timeout(60)
MEMORY = 512 * 2**20  # bytes


def policy(mode: str = "transient") -> RestartPolicy:
    return RestartPolicy(mode=mode, backoff=0.05)


@pytest.mark.parametrize(
    ("mode", "code", "comes_back"),
    [
        ("transient", 3, True),
        ("transient", 0, False),
        ("permanent", 0, True),
        ("temporary", 3, False),
    ],
)
async def test_an_exit_code_and_what_the_policy_makes_of_it(mode, code, comes_back):
    async with Cluster(1, loop="asyncio", restart=policy(mode)) as cluster:
        events = Events(cluster)
        agent = await cluster.spawn(Faulty, respawn=True)
        await agent.write("the last words", 1)
        async with asyncio.timeout(BOUND):
            with pytest.raises(ConnectionError):
                await agent.exit(code)
        died = await events.get(EventKind.DIED)
        assert isinstance(died.error, ContainerDied)
        assert died.error.exit_code == code
        assert died.error.log == ["the last words"]
        assert f"ended with exit code {code}" in str(died.error)
        if comes_back:
            await events.get(EventKind.RESTARTED)
            assert await agent.add() == 1
        else:
            failed = await events.get(EventKind.FAILED)
            assert f"restart mode '{mode}'" in failed.message
            async with asyncio.timeout(BOUND):
                with pytest.raises(ConnectionError):
                    await agent.add()
            assert cluster.containers[0].exit_code == code
            assert workers() == set()


async def test_more_memory_than_it_may_have():
    async with Cluster(1, loop="asyncio", restart=policy(), memory=MEMORY) as cluster:
        events = Events(cluster)
        agent = await cluster.spawn(Faulty, respawn=True)
        with pytest.raises(RemoteException, match="MemoryError"):
            await agent.allocate(MEMORY)
        assert await agent.allocate(2**20) == 2**20
        assert events.all == []

        await agent.allocate_in_a_handler(MEMORY)
        died = await events.get(EventKind.DIED)
        assert isinstance(died.error, ContainerDied)
        assert died.error.exit_code == OUT_OF_MEMORY
        assert died.error.out_of_memory
        assert "out of memory" in str(died.error)
        assert any("MemoryError" in line for line in died.error.log)
        await events.get(EventKind.RESTARTED)
        assert await agent.add() == 1
        with pytest.raises(RemoteException, match="MemoryError"):
            await agent.allocate(MEMORY)


async def test_one_that_takes_all_memory_that_it_may_have():
    """Whatever fails first in it: it comes back, or is still there, and does not half live."""
    async with Cluster(1, loop="asyncio", restart=policy("permanent"), memory=MEMORY) as cluster:
        events = Events(cluster)
        agent = await cluster.spawn(Faulty, respawn=True)
        call = agent.hoard()
        with pytest.raises((ConnectionError, RemoteException)):
            await asyncio.wait_for(call, BOUND)
        async with asyncio.timeout(BOUND):
            while True:
                try:
                    await agent.add()
                except (ConnectionError, RemoteException):
                    await asyncio.sleep(0.05)
                else:
                    break
        assert "failed" not in events.kinds()


async def test_one_that_closes_its_control_stream():
    async with Cluster(1, loop="asyncio", restart=policy()) as cluster:
        events = Events(cluster)
        agent = await cluster.spawn(Faulty, respawn=True)
        call = agent.close_control()
        died = await events.get(EventKind.DIED)
        assert isinstance(died.error, ContainerDied)
        assert "closed its control stream" in str(died.error)
        assert died.error.exit_code == -signal.SIGKILL
        await asyncio.wait({asyncio.ensure_future(call)})
        await events.get(EventKind.RESTARTED)
        assert await agent.add() == 1
        assert await (await cluster.spawn(Worker)).pid() == cluster.containers[0].pid
        assert workers() == {cluster.containers[0].pid}
