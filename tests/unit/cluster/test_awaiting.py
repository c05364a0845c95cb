"""Several things at the same time: all of them are done, or none runs any more."""

from __future__ import annotations

import asyncio

import pytest

from aiomas.cluster.awaiting import all_of


async def test_the_results_are_in_the_order_of_what_is_awaited():
    first = asyncio.Event()

    async def one():
        await first.wait()
        return 1

    async def two():
        first.set()
        return 2

    assert await all_of([one(), two()]) == [1, 2]


async def test_nothing_is_done_with_nothing():
    assert await all_of([]) == []


@pytest.mark.parametrize("by_error", [True, False])
async def test_nobody_runs_on_when_one_fails_or_nobody_waits(by_error):
    ended, begun = [], asyncio.Event()

    async def others():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("others")

    async def fails():
        await begun.wait()
        if not by_error:
            await asyncio.Event().wait()
        msg = "what one says"
        raise LookupError(msg)

    waiting = asyncio.ensure_future(all_of([others(), fails()]))
    await begun.wait()
    if not by_error:
        waiting.cancel()
    with pytest.raises(LookupError if by_error else asyncio.CancelledError):
        await waiting
    assert ended == ["others"]
