"""The end of a child process is noticed whatever event loop there is."""

from __future__ import annotations

import asyncio
import threading

from aiomas.cluster.reaping import end_of
from tests.unit.cluster.fakes import BOUND, until


async def test_the_exit_code_is_told():
    goes_on = threading.Event()

    def wait():
        goes_on.wait(BOUND)
        return 3

    ended = end_of(wait)
    assert not ended.done()
    goes_on.set()
    assert await ended == 3


async def test_nobody_has_to_want_it():
    goes_on = threading.Event()

    def wait():
        goes_on.wait(BOUND)
        return 0

    end_of(wait).cancel()
    goes_on.set()
    await until(lambda: "aiomas-reaper" not in [thread.name for thread in threading.enumerate()])
    await asyncio.sleep(0)


def test_the_loop_may_be_closed():
    goes_on = threading.Event()

    def wait():
        goes_on.wait(BOUND)
        return 0

    async def begin():
        end_of(wait)

    asyncio.run(begin())
    [thread] = [t for t in threading.enumerate() if t.name == "aiomas-reaper"]
    goes_on.set()
    thread.join(BOUND)
    assert not thread.is_alive()
