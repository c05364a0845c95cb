"""The agents of the example, in containers of this process."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random

import pytest

import aiomas
from examples.virtual_power_plant.agents import (
    OBSERVER,
    Link,
    NegotiationError,
    Observer,
    Unit,
)
from examples.virtual_power_plant.cohda import Goal, distance_wh, pack, small_world
from examples.virtual_power_plant.units import total


class Broken(Unit):
    """A unit that takes part for a while and then has a fault."""

    turns = 0

    def take_turn(self):
        self.turns += 1
        if self.turns == 3:
            self._inbox.append((0, (None, None, [(1, 2, 3)])))  # type: ignore[list-item]
        super().take_turn()


@pytest.fixture
async def containers(unix_path):
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                aiomas.Container.open(f"{unix_path}{i}", codec=aiomas.MsgPack)
            )
            for i in range(3)
        ]


async def make_agents(containers, count=12, classes=None):
    """Spread units over all containers but the last, where the observer is."""
    *workers, driver = containers
    rng = Random(1)
    schedules = [
        [tuple(rng.randint(-9, 9) for _ in range(3)) for _ in range(5)] for _ in range(count)
    ]
    neighbours = small_world(count, 0.5, rng)
    units = [
        (classes or {}).get(i, Unit)(workers[i % len(workers)], i, schedules[i], neighbours[i])
        for i in range(count)
    ]
    observer = Observer(driver)
    for unit, numbers in zip(units, neighbours, strict=True):
        await unit.meet([units[number].addr for number in numbers], observer.addr)
    target = total([rng.choice(options) for options in schedules])
    return units, observer, Goal(target)


def distance(units, goal):
    return distance_wh(goal.target, total([unit.schedule() for unit in units]))


async def test_the_observer_learns_of_the_end_when_all_agents_agree(containers):
    units, observer, goal = await make_agents(containers)
    before = distance(units, goal)
    await observer.negotiate(await containers[-1].connect(units[0].addr), goal)
    states = {unit.status()[1:] for unit in units}
    assert states == {(12, distance(units, goal))}
    assert distance(units, goal) < before


async def test_nothing_is_sent_after_the_end(containers):
    units, observer, goal = await make_agents(containers)
    await observer.negotiate(await containers[-1].connect(units[0].addr), goal)
    messages = [unit.status()[0] for unit in units]
    chosen = [unit.schedule() for unit in units]
    # What was under way would have arrived before the replies to these calls.
    for unit in units:
        for container in containers:
            await (await container.connect(unit.addr)).status()
    assert [unit.status()[0] for unit in units] == messages
    assert [unit.schedule() for unit in units] == chosen


async def test_an_agent_has_not_heard_of_anybody_before_the_start(containers):
    units, _, _ = await make_agents(containers)
    assert {unit.status() for unit in units} == {(0, 0, 0)}


async def test_a_fault_in_an_agent_ends_the_negotiation(containers):
    units, observer, goal = await make_agents(containers, classes={5: Broken})
    first = await containers[-1].connect(units[0].addr)
    with pytest.raises(NegotiationError, match="unit 5 failed: ValueError"):
        async with asyncio.timeout(20):
            await observer.negotiate(first, goal)


async def test_a_lost_container_ends_the_negotiation(containers):
    units, observer, goal = await make_agents(containers)
    first = await containers[-1].connect(units[0].addr)
    end = asyncio.ensure_future(observer.negotiate(first, goal))
    while units[0].status()[0] == 0:
        await asyncio.wait([end], timeout=0)
    await containers[1].shutdown(as_coro=True)
    with pytest.raises(NegotiationError, match=r"unit \d+ failed: "):
        async with asyncio.timeout(20):
            await end


class Peer:
    """A proxy whose calls are answered by the test."""

    def __init__(self):
        self.calls = []
        self.replies = []

    def __getattr__(self, name):
        def call(*args):
            self.calls.append((name, *args))
            self.replies.append(asyncio.get_running_loop().create_future())
            return self.replies[-1]

        return call


async def next_turn():
    for _ in range(3):  # the turn, and what its calls' replies set off
        await asyncio.sleep(0)


async def start(container, neighbours):
    """Return a unit that has just told its neighbours of the goal, those and its observer."""
    unit = Unit(container, 0, [(0,), (3,)], neighbours)
    peers = [Peer() for _ in neighbours]
    unit._links = {
        number: Link(number, peer) for number, peer in zip(neighbours, peers, strict=True)
    }
    unit._observer = Peer()
    assert not unit.gossip(OBSERVER, (((3,), 1), None, []))
    await next_turn()
    return unit, *peers, unit._observer


async def test_a_neighbour_gets_no_message_before_it_has_taken_the_last_one(containers):
    unit, neighbour, _ = await start(containers[0], [1])
    assert len(neighbour.calls) == 1
    for counter in range(3):
        # It has to be answered: there is a new agent, or one of them has changed its mind.
        assert unit.gossip(1, (None, None, [(1, counter, counter, pack((counter,)))]))
        await next_turn()
    assert len(neighbour.calls) == 1
    neighbour.replies[0].set_result(True)
    await next_turn()
    assert len(neighbour.calls) == 2  # for all three


async def test_an_agent_is_done_when_its_neighbour_has_acknowledged_its_messages(containers):
    _, neighbour, observer = await start(containers[0], [1])
    assert observer.calls == []
    neighbour.replies[0].set_result(True)
    await next_turn()
    assert observer.calls == [("acknowledge",)]


async def test_an_agent_whose_message_woke_its_neighbour_up_waits_for_it(containers):
    unit, neighbour, observer = await start(containers[0], [1])
    neighbour.replies[0].set_result(False)
    await next_turn()
    assert observer.calls == []
    unit.acknowledge()
    assert observer.calls == [("acknowledge",)]


async def test_an_agent_whose_message_got_lost_reports_it_once_and_says_nothing_more(containers):
    unit, one, other, observer = await start(containers[0], [1, 2])
    other.replies[0].set_result(True)
    one.replies[0].set_exception(ConnectionResetError("gone"))
    await next_turn()
    unit.gossip(2, (None, None, [(2, 0, 0, pack((1,)))]))
    await next_turn()
    unit.gossip(2, (None, None, [()]))  # one more thing that goes wrong
    await next_turn()
    assert observer.calls == [("failed", 0, "ConnectionResetError: gone")]
    assert len(one.calls) == len(other.calls) == 1
