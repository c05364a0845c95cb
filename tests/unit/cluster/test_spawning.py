"""Agents are spread over containers in a few messages; what fails says who was made."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiomas.cluster.info import ContainerInfo
from aiomas.cluster.placement import RoundRobin, least_loaded
from aiomas.cluster.spawning import Spawner, arguments_of
from aiomas.codecs import MsgPack
from aiomas.exceptions import ClusterError, ContainerDied, SerializationError, SpawnError


class FakeContainer:
    def proxy(self, url, class_name):
        return f"{class_name} at {url}"


CONTAINER: Any = FakeContainer()


class FakeSupervisor:
    """Makes all agents whose first argument is not "bad"; what happens at a message can be set."""

    def __init__(self):
        self.messages = []
        self.at_message = lambda index: None

    async def __call__(self, method, index, target, data, respawn):
        assert method == "spawn"
        await asyncio.sleep(0)
        self.at_message(index)
        calls = MsgPack().decode(data)
        self.messages.append((index, target, len(calls), respawn))
        made: list[tuple[str, str, list[str]]] = []
        for args, _ in calls:
            if list(args) == ["bad"]:
                return made, "a traceback", index * 11
            made.append((f"url{index}/{args[0] if args else ''}"[:20], "A", ["0"]))
        return made, None, index * 11


@pytest.fixture
def supervisor():
    return FakeSupervisor()


@pytest.fixture
def told():
    return []


@pytest.fixture
def spawner(supervisor, told):
    return Spawner(CONTAINER, MsgPack(), supervisor, told.append)


@pytest.fixture
def places():
    """Two containers, the first of which is not that with the index 0."""
    return [
        ContainerInfo(4, pid=44, agents=10, state="running"),
        ContainerInfo(7, agents=20, state="running"),
    ]


class TestArguments:
    def test_a_number_is_so_many_without_arguments(self):
        assert arguments_of(2) == [((), {})] * 2
        assert arguments_of(0) == []

    def test_each_has_its_own(self):
        assert arguments_of(iter([(1, 2), [3], {"x": 4}, ()])) == [
            ((1, 2), {}),
            ([3], {}),
            ((), {"x": 4}),
            ((), {}),
        ]

    def test_a_negative_number_is_refused(self):
        with pytest.raises(ValueError, match="cannot be negative: -1"):
            arguments_of(-1)

    @pytest.mark.parametrize("bad", [True, 3.0, None, "text", b"bytes", {"power": 1.0}], ids=repr)
    def test_what_is_neither_is_refused(self, bad):
        with pytest.raises(TypeError, match="arguments must be a number of agents, or an iterable"):
            arguments_of(bad)

    def test_anything_else_is_refused(self):
        with pytest.raises(TypeError, match="tuple, list or dictionary for each agent, got 'text'"):
            arguments_of([(), "text"])


async def test_proxies_come_in_order_and_are_counted(spawner, supervisor, places, told):
    calls = arguments_of([(n,) for n in range(5)])
    proxies = await spawner.spawn("m:A", calls, places, RoundRobin(), respawn=False)
    assert proxies == ["A at url4/0", "A at url7/1", "A at url4/2", "A at url7/3", "A at url4/4"]
    assert sorted(supervisor.messages) == [(4, "m:A", 3, False), (7, "m:A", 2, False)]
    assert [(info.agents, info.respawned) for info in places] == [(13, 0), (22, 0)]
    assert sorted(told) == [2, 3]
    assert spawner.processes == {4: 44, 7: 77}


async def test_agents_that_are_made_again_are_counted_so(spawner, supervisor, places):
    await spawner.spawn("m:A", arguments_of(3), places, RoundRobin(), respawn=True)
    assert [(info.agents, info.respawned) for info in places] == [(12, 2), (21, 1)]
    assert all(respawn for *_, respawn in supervisor.messages)


async def test_a_strategy_sees_where_the_former_ones_go(spawner, places):
    await spawner.spawn("m:A", arguments_of(14), places, least_loaded, respawn=False)
    assert [info.agents for info in places] == [22, 22]


async def test_none_is_no_message(spawner, supervisor, places):
    assert await spawner.spawn("m:A", [], places, RoundRobin(), respawn=False) == []
    assert supervisor.messages == []


async def test_many_are_cut_into_messages(spawner, supervisor, places):
    await spawner.spawn("m:A", arguments_of(2500), places[:1], RoundRobin(), respawn=False)
    assert [count for _, _, count, _ in supervisor.messages] == [1000, 1000, 500]


async def test_large_arguments_are_cut_into_messages_in_order(spawner, supervisor, places):
    calls = arguments_of([(f"{n:020}" + "x" * 300_000,) for n in range(9)])
    proxies = await spawner.spawn("m:A", calls, places[:1], RoundRobin(), respawn=False)
    assert [count for _, _, count, _ in supervisor.messages] == [2, 2, 2, 3]
    assert len(set(proxies)) == 1  # the fake one cuts them off
    huge = arguments_of([("x" * 2_000_000,)] * 2)
    await spawner.spawn("m:A", huge, places[:1], RoundRobin(), respawn=False)
    assert [count for _, _, count, _ in supervisor.messages[4:]] == [1, 1]


async def test_a_failure_says_which_one_and_who_was_made(spawner, places, told):
    calls = arguments_of([("bad",) if n == 4 else (n,) for n in range(8)])
    with pytest.raises(SpawnError) as caught:
        await spawner.spawn("m:A", calls, places, RoundRobin(), respawn=True)
    expected = "Agent number 4 (m:A) could not be made in container 4 (pid 44):\na traceback"
    assert str(caught.value) == expected
    assert len(caught.value.spawned) == 2 + 4
    assert [(info.agents, info.respawned) for info in places] == [(12, 2), (24, 4)]
    assert sum(told) == 6


async def test_one_container_that_died_has_been_counted_anew(spawner, supervisor, places):
    def die(index):
        if index == 4:
            places[0].agents = places[0].respawned  # whoever hears of it does so first
            msg = "Container 4 died"
            raise ContainerDied(msg, 4, -9)

    supervisor.at_message = die
    with pytest.raises(ContainerDied, match="Container 4 died") as caught:
        await spawner.spawn("m:A", arguments_of(10), places, RoundRobin(), respawn=False)
    assert len(caught.value.spawned) == 5
    assert [info.agents for info in places] == [0, 25]


async def test_a_failure_of_the_supervisor_says_who_was_made(spawner, supervisor, places):
    def fail(index):
        if len(supervisor.messages) == 3:
            msg = "the cluster is gone"
            raise ClusterError(msg)

    supervisor.at_message = fail
    with pytest.raises(SpawnError, match="is gone") as caught:
        await spawner.spawn("m:A", arguments_of(4500), places, RoundRobin(), respawn=False)
    assert type(caught.value.__cause__) is ClusterError
    made = sum(count for _, _, count, _ in supervisor.messages)
    assert len(caught.value.spawned) == made < 4500
    assert sum(info.agents for info in places) == 30 + made


async def test_arguments_that_cannot_be_encoded_are_known_before_anything_is_made(
    spawner, supervisor, places
):
    calls = arguments_of([(n if n != 1301 else object(),) for n in range(3000)])
    with pytest.raises(SerializationError) as caught:
        await spawner.spawn("m:A", calls, places, RoundRobin(), respawn=False)
    assert caught.value.__notes__ == ["It was for agent number 1301 (m:A); none was made"]
    assert supervisor.messages == []
    assert [info.agents for info in places] == [10, 20]


async def test_of_several_failures_the_first_is_raised_with_notes(spawner, supervisor, places):
    def fail(index):
        if index == 7:
            places[1].agents = places[1].respawned
            msg = "Container 7 died"
            raise ContainerDied(msg, 7, -9)

    supervisor.at_message = fail
    calls = arguments_of([("bad",) if n == 4 else (n,) for n in range(8)])
    with pytest.raises(SpawnError, match="Agent number 4") as caught:
        await spawner.spawn("m:A", calls, places, RoundRobin(), respawn=False)
    assert caught.value.__notes__ == ["And ContainerDied: Container 7 died"]
    assert len(caught.value.spawned) == 2


async def test_a_strategy_that_fails_leaves_the_counts_as_they_were(spawner, places):
    positions = [1, 0]
    with pytest.raises(IndexError):
        await spawner.spawn("m:A", arguments_of(3), places, lambda _: positions.pop(), respawn=True)
    assert [info.agents for info in places] == [10, 20]


async def test_a_cancelled_spawn_counts_those_that_were_made(spawner, supervisor, places):
    begun = asyncio.Event()

    async def wait(*_):
        begun.set()
        await asyncio.Event().wait()

    spawner = Spawner(CONTAINER, MsgPack(), wait, lambda _: None)
    spawning = asyncio.create_task(
        spawner.spawn("m:A", arguments_of(3), places, RoundRobin(), respawn=False)
    )
    await begun.wait()
    spawning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await spawning
    assert [info.agents for info in places] == [10, 20]
