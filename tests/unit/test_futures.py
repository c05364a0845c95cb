"""Awaitables that more than one party may wait for, or nobody."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest

from aiomas._futures import NOT_WAITING, Waiting
from aiomas.util import create_task


@pytest.fixture
async def future():
    return asyncio.get_running_loop().create_future()


async def turn():
    await asyncio.sleep(0)


class TestNotWaiting:
    async def test_it_can_be_awaited_again_and_again(self):
        times = 0
        for _ in range(3):
            await NOT_WAITING
            times += 1
        assert times == 3

    async def test_it_lets_nobody_else_run(self):
        ran: list[str] = []
        asyncio.get_running_loop().call_soon(ran.append, "other")
        await NOT_WAITING
        assert ran == []
        await turn()
        assert ran == ["other"]

    async def test_it_can_be_used_wherever_a_coroutine_can(self):
        assert asyncio.iscoroutine(NOT_WAITING)
        tasks = [create_task(NOT_WAITING) for _ in range(2)]
        assert await asyncio.gather(*tasks) == [None, None]
        await asyncio.wait_for(NOT_WAITING, 1)

    async def test_a_task_of_it_can_be_cancelled_before_it_begins(self):
        task = asyncio.get_running_loop().create_task(NOT_WAITING)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await NOT_WAITING

    def test_it_can_be_closed_and_raises_what_is_thrown(self):
        NOT_WAITING.close()
        with pytest.raises(ValueError, match="thrown"):
            NOT_WAITING.throw(ValueError("thrown"))
        with pytest.raises(StopIteration):
            NOT_WAITING.send(None)


class TestWaiting:
    async def test_it_can_be_awaited_again_and_again(self, future):
        waiting = Waiting(future)
        asyncio.get_running_loop().call_soon(future.set_result, None)
        for _ in range(3):
            await waiting
        assert future.done()

    async def test_many_can_await_it_at_once(self, future):
        async def wait(waiting):
            await waiting

        waiting = Waiting(future)
        tasks = [asyncio.ensure_future(wait(waiting)) for _ in range(3)]
        await turn()
        assert not any(task.done() for task in tasks)
        future.set_result(None)
        assert await asyncio.gather(*tasks) == [None] * 3

    async def test_who_stops_waiting_does_not_stop_the_others(self, future):
        async def wait():
            await Waiting(future)

        first, second = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
        await turn()
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        assert not future.cancelled()
        future.set_result(None)
        await second

    async def test_without_a_future_it_does_not_wait(self):
        ran: list[str] = []
        asyncio.get_running_loop().call_soon(ran.append, "other")
        await Waiting(None)
        assert ran == []

    async def test_it_can_be_a_task(self, future):
        task = create_task(Waiting(future))
        await turn()
        assert not task.done()
        future.set_result(None)
        await task

    async def test_a_task_of_it_can_be_cancelled_at_any_time(self, future):
        early, late = create_task(Waiting(future)), create_task(Waiting(future))
        early.cancel()
        await turn()
        late.cancel()
        assert len((await asyncio.wait([early, late]))[0]) == 2
        assert early.cancelled()
        assert late.cancelled()
        assert not future.cancelled()

    async def test_the_error_of_the_future_is_raised_for_each(self, future):
        future.set_exception(ConnectionError("gone"))
        for _ in range(2):
            with pytest.raises(ConnectionError, match="gone"):
                await Waiting(future)

    async def test_what_is_thrown_before_it_began_ends_it(self, future):
        waiting = Waiting(future)
        with pytest.raises(ValueError, match="thrown"):
            waiting.throw(ValueError("thrown"))
        assert not future.done()

    async def test_closing_ends_it_whether_it_has_begun_or_not(self, future):
        Waiting(future).close()
        begun = Waiting(future)
        begun.send(None)
        begun.close()
        with pytest.raises(StopIteration):
            begun.send(None)
        assert not future.done()


@pytest.mark.parametrize("of", [lambda _: NOT_WAITING, Waiting], ids=["not waiting", "waiting"])
async def test_nobody_is_told_of_one_that_was_never_awaited(future, of):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        awaitable = of(future)
        del awaitable
        gc.collect()
    assert caught == []
