"""A budget lets small things pass beside each other, and large ones one after the other."""

from __future__ import annotations

import asyncio

import pytest

from aiomas.cluster.budget import Budget


class World:
    def __init__(self):
        self.budget = Budget(10)
        self.under_way: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, name, size):
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._spend(name, size))

    async def end(self, name):
        self.ends[name].set()
        await self.tasks[name]
        await asyncio.sleep(0)  # whose turn it is now goes on

    async def _spend(self, name, size):
        async with self.budget.spending(size):
            self.under_way.append(name)
            await self.ends[name].wait()
        self.under_way.remove(name)


@pytest.fixture
async def world():
    world = World()
    yield world
    for task in world.tasks.values():
        task.cancel()
    await asyncio.wait(world.tasks.values())


async def test_what_fits_goes_and_the_rest_waits_in_order(world):
    for name, size in (("a", 4), ("b", 6), ("c", 8), ("d", 1)):
        world.begin(name, size)
    await asyncio.sleep(0)
    assert world.under_way == ["a", "b"]
    await world.end("a")
    assert world.under_way == ["b"]  # the small one does not overtake, or large ones might starve
    await world.end("b")
    assert world.under_way == ["c", "d"]


async def test_what_is_larger_than_all_goes_alone(world):
    world.begin("small", 1)
    world.begin("huge", 1000)
    world.begin("next", 1)
    await asyncio.sleep(0)
    assert world.under_way == ["small"]
    await world.end("small")
    assert world.under_way == ["huge"]
    await world.end("huge")
    assert world.under_way == ["next"]


async def test_who_gives_up_waiting_keeps_nobody_back_and_takes_nothing(world):
    for name, size in (("a", 10), ("b", 10), ("c", 10)):
        world.begin(name, size)
    await asyncio.sleep(0)
    world.tasks["b"].cancel()
    await asyncio.wait({world.tasks["b"]})
    await world.end("a")
    assert world.under_way == ["c"]
    await world.end("c")
    world.begin("d", 10)
    await asyncio.sleep(0)
    assert world.under_way == ["d"]


async def test_who_is_cancelled_at_work_gives_its_part_back(world):
    world.begin("a", 10)
    world.begin("b", 10)
    await asyncio.sleep(0)
    world.tasks["a"].cancel()
    await asyncio.wait({world.tasks["a"]})
    await asyncio.sleep(0)
    assert "b" in world.under_way
