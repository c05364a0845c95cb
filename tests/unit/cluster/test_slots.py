"""Slots bound what is under way."""

from __future__ import annotations

import asyncio

import pytest

from aiomas.cluster.slots import Slots


async def turns(loops: int = 3) -> None:
    for _ in range(loops):
        await asyncio.sleep(0)


async def test_who_comes_first_is_served_first():
    slots = Slots(4)
    order: list[int] = []

    async def take(count: int) -> None:
        await slots.take(count)
        order.append(count)

    async with asyncio.TaskGroup() as group:
        for count in (3, 4, 1):
            group.create_task(take(count))
        await turns()
        assert order == [3]  # the single one does not overtake the four
        slots.give(3)
        await turns()
        assert order == [3, 4]
        slots.give(4)
    assert order == [3, 4, 1]


async def test_who_gives_up_takes_none():
    slots = Slots(1)
    await slots.take(1)
    waiting = asyncio.create_task(slots.take(1))
    await turns()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    slots.give(1)
    async with asyncio.timeout(1):
        await slots.take(1)
