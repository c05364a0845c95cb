"""What the user wants is done one after the other, and never left half done."""

from __future__ import annotations

import asyncio

import pytest

from aiomas.cluster.requests import Requests
from aiomas.exceptions import ClusterError


async def test_one_after_the_other():
    requests, done = Requests(), []

    def work(number):
        async def work(_):
            done.append((number, "begins"))
            await asyncio.sleep(0)
            done.append((number, "ends"))

        return work

    await asyncio.gather(*(requests.do("Something", work(number)) for number in (1, 2)))
    assert done == [(1, "begins"), (1, "ends"), (2, "begins"), (2, "ends")]


async def test_what_fails_is_told_and_the_next_one_is_done():
    requests = Requests()

    async def fail(_):
        raise LookupError("no")

    async def work(_):
        return

    with pytest.raises(LookupError, match="no"):
        await requests.do("Something", fail)
    await requests.do("Something", work)


@pytest.mark.parametrize("goes_on", [False, True])
async def test_who_is_cancelled_undoes_what_can_be_undone(goes_on):
    requests, steps = Requests(), []
    asked, end = asyncio.Event(), asyncio.Event()

    async def work(begun):
        try:
            if goes_on:
                begun()
            asked.set()
            await end.wait()
            steps.append("done")
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            steps.append("undone")
            raise

    doing = asyncio.create_task(requests.do("Something", work))
    await asked.wait()
    doing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doing
    assert steps == ([] if goes_on else ["undone"])  # who was cancelled waits for that
    end.set()
    await requests.close()
    assert steps == (["done"] if goes_on else ["undone"])


async def test_at_the_end_nothing_goes_on():
    requests, asked = Requests(), asyncio.Event()

    async def work(begun):
        begun()
        asked.set()
        await asyncio.Event().wait()

    doing = [asyncio.create_task(requests.do(f"Thing {n}", work)) for n in range(2)]
    await asked.wait()
    requests.end("it is over")
    requests.end("for another reason")
    await requests.close()
    for number, task in enumerate(doing):
        with pytest.raises(ClusterError, match=f"Thing {number} .*: it is over"):
            await task
    with pytest.raises(ClusterError, match="it is over"):
        await requests.do("Another one", work)
