"""Hosts that leave, join and are lost while a cluster is used; all of them are this machine."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import psutil
import pytest

import aiomas
from aiomas.agent import url_of
from aiomas.cluster import Cluster, CommandLauncher, EventKind, HostSpec
from aiomas.exceptions import AiomasError, ClusterError
from tests.e2e.clusters import BOUND, Events, until


class Counter(aiomas.Agent):
    """Counts, at once or after a while."""

    def __init__(self, container: Any, number: int = 0) -> None:
        super().__init__(container)
        self.number = number

    def get_state(self) -> int:
        return self.number

    def set_state(self, state: int) -> None:
        self.number = state

    @aiomas.expose
    def add(self) -> int:
        self.number += 1
        return self.number

    @aiomas.expose
    async def add_later(self) -> int:
        await asyncio.sleep(0.5)
        return self.add()


COUNTER = f"{__file__}:Counter"


def host(name: str) -> HostSpec:
    return HostSpec(name, 1, address="127.0.0.1")


def cluster(*names: str, **options: Any) -> Cluster:
    launcher = CommandLauncher(["env"], python=sys.executable)
    given: dict[str, Any] = {"lease": 4.0, "on_host_loss": "respawn", "sync": [__file__]}
    given |= options
    return Cluster(hosts=[host(name) for name in names], launcher=launcher, **given)


async def call_for_ever(agent: Any, answers: list[int]) -> None:
    while True:
        answers.append(await agent.add())


def processes() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.mark.parametrize("how", ["remove", "scale"])
async def test_no_answered_call_is_lost_when_agents_move(how: str) -> None:
    async with cluster("a", "b") as plant:
        events = Events(plant)
        agent = await plant.spawn(COUNTER, name="counter", respawn=True, placement="b")
        answers: list[int] = []
        calling = asyncio.create_task(call_for_ever(agent, answers))
        later = asyncio.ensure_future(agent.add_later())
        await until(lambda: len(answers) > 10)
        await (plant.remove_host("b") if how == "remove" else plant.scale(1))
        with pytest.raises((AiomasError, ConnectionError)):
            await calling
        answers.append(await later)  # it was under way
        moved = (await events.get(EventKind.RESPAWNED)).moved
        new = plant.find("counter")
        assert moved == {url_of(agent): url_of(new)}
        assert await new.add() == len(answers) + 1 == max(answers) + 1


async def test_without_the_drivers_supervisor_nothing_is_lost_or_started() -> None:
    async with cluster("a", "b") as plant:
        events = Events(plant)
        home, *_ = sorted(psutil.Process().children(), key=lambda process: process.pid)
        home.kill()
        await events.get(EventKind.LOST)
        await until(lambda: not processes())
        assert {info.state for info in plant.hosts} == {"lost"}
        with pytest.raises(ClusterError, match="does not run any more"):
            await plant.add_host(host("c"))
        assert events.kinds() == ["lost"]


@pytest.mark.parametrize("pause", [0.0, 0.2, 0.5])
async def test_a_host_that_is_being_added_at_the_end_is_not(pause: float) -> None:
    async with cluster("a") as plant:
        adding = asyncio.create_task(plant.add_host(host("b")))
        await asyncio.wait({adding}, timeout=pause)  # however far it has come
    async with asyncio.timeout(BOUND):
        if (error := await asyncio.wait({adding}) and adding.exception()) is not None:
            assert isinstance(error, ClusterError)
            assert "is being stopped" in str(error) or "does not run" in str(error)
    assert processes() == []


async def test_who_gives_up_waiting_leaves_no_host_that_is_there_by_half() -> None:
    async with cluster("a", "b") as plant:
        events = Events(plant)
        agent = await plant.spawn(COUNTER, 5, name="counter", respawn=True, placement="b")
        later = asyncio.ensure_future(agent.add_later())
        removing = asyncio.create_task(plant.remove_host("b"))
        answers = [5]
        with pytest.raises((AiomasError, ConnectionError)):
            await call_for_ever(agent, answers)
        removing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await removing
        number = max(*answers, await later)
        await events.get(EventKind.RESPAWNED)
        assert await plant.find("counter").add() == number + 1
        assert [info.state for info in plant.containers] == ["running", "stopped"]


async def test_the_last_host_with_agents_stays() -> None:
    async with cluster("a") as plant:
        agent = await plant.spawn(COUNTER, respawn=True)
        with pytest.raises(ClusterError, match="No other container"):
            await plant.remove_host("a")
        assert await agent.add() == 1
        await plant.remove_host("a", drain=False)


async def test_a_host_that_joins_has_the_time_that_is_just_set() -> None:
    async with cluster("a", clock="2024-01-01") as plant:
        await plant.set_time(10.0)
        adding = asyncio.create_task(plant.add_host(host("b")))
        time = 10.0
        while not adding.done():
            time += 1.0
            await plant.set_time(time)
        await adding
        await plant.set_time(time + 1.0)
