"""The tasks of handlers: who waits for them, who cancels them, and what is left of it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from aiomas._handlers import Handlers
from aiomas.testing import VirtualTimeLoop


@pytest.fixture
def anyio_backend():
    """Patience takes no time here."""
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture
def handlers():
    return Handlers()


def start(handlers: Handlers, coro, path: str = "agents/0/work") -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(coro)
    handlers.paths[task] = path
    task.add_done_callback(handlers.paths.pop)
    return task


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


class TestWhoWaitsItself:
    async def test_is_not_waited_for(self, handlers):
        async def drain() -> None:
            with handlers.not_waiting_for(asyncio.current_task()):
                await handlers.drain(10.0)

        task = start(handlers, drain())
        async with asyncio.timeout(1):
            await task
        assert not handlers._leaving

    async def test_ends_the_waiting_of_others(self, handlers):
        begin = asyncio.Event()

        async def leave() -> None:
            await begin.wait()
            with handlers.not_waiting_for(asyncio.current_task()):
                await asyncio.sleep(5)

        task = start(handlers, leave())
        draining = asyncio.create_task(handlers.drain(100.0))
        await asyncio.sleep(1)
        begin.set()
        async with asyncio.timeout(1):
            await draining
        await task

    async def test_is_waited_for_when_it_goes_on_with_its_work(self, handlers):
        log: list[str] = []

        async def work() -> None:
            with handlers.not_waiting_for(asyncio.current_task()):
                await asyncio.sleep(1)
            await asyncio.sleep(5)
            log.append("done")

        start(handlers, work())
        await asyncio.sleep(2)
        await handlers.drain(100.0)
        assert log == ["done"]

    async def test_leaves_nothing_behind_however_often_it_does_so(self, handlers):
        async def work() -> None:
            for _ in range(1000):
                with handlers.not_waiting_for(asyncio.current_task()):
                    await asyncio.sleep(0)

        task = start(handlers, work())
        await asyncio.sleep(0)
        before = len(task._callbacks)
        await asyncio.sleep(0)
        while not task.done():
            assert len(task._callbacks) <= before
            await asyncio.sleep(0)
        assert not handlers._leaving
        assert not handlers._ends

    async def test_may_be_a_task_that_serves_nobody(self, handlers):
        with handlers.not_waiting_for(asyncio.current_task()), handlers.not_waiting_for(None):
            await handlers.drain(2.0)
        assert not handlers._leaving


class TestTheLog:
    @staticmethod
    async def lines(handlers: Handlers, caplog) -> list[str]:
        caplog.set_level(logging.WARNING)
        await handlers.drain(2.0)
        return [record.getMessage() for record in caplog.records]

    async def test_has_one_line_for_many_calls_that_are_cancelled(self, handlers, caplog):
        tasks = [start(handlers, forever(), f"agents/{n % 10}/work") for n in range(1000)]

        (line,) = await self.lines(handlers, caplog)

        assert all(task.cancelled() for task in tasks)
        assert line.startswith("Cancelled 1000 calls, ")
        assert "timeout=2.0" in line
        assert line.endswith(": " + ", ".join(f"agents/{n}/work" for n in range(5)) + ", ...")

    async def test_names_the_paths_of_a_few(self, handlers, caplog):
        for path in ("b", "a", "b"):
            start(handlers, forever(), path)
        (line,) = await self.lines(handlers, caplog)
        assert line.endswith(": a, b")

    async def test_says_nothing_of_calls_that_end_in_time(self, handlers, caplog):
        start(handlers, asyncio.sleep(1))
        assert await self.lines(handlers, caplog) == []
