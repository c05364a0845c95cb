"""Section 1.9.4: aiomas.clocks."""

from __future__ import annotations

import asyncio

import arrow
import pytest

from aiomas.clocks import AsyncioClock, BaseClock, ExternalClock, TimerHandle

PRECISION = 0.002
"""Seconds by which the timers of some event loops may be early."""


@pytest.fixture(params=["AsyncioClock", "ExternalClock"])
async def clock(request):
    if request.param == "AsyncioClock":
        yield AsyncioClock()
        return

    clock = ExternalClock("2015-01-01")

    async def simulate():
        while True:
            await asyncio.sleep(0)
            clock.set_time(clock.time() + 0.01)

    simulation = asyncio.ensure_future(simulate())
    yield clock
    simulation.cancel()


def test_section_1_9_4_all_clocks_are_baseclocks():
    assert issubclass(AsyncioClock, BaseClock)
    assert issubclass(ExternalClock, BaseClock)


def test_section_1_9_4_clocks_must_at_least_implement_time_and_utcnow():
    class Frozen(BaseClock):
        def time(self):
            return 3

        def utcnow(self):
            return arrow.get("2015-01-01")

    assert Frozen().time() == 3
    assert Frozen().utcnow() == arrow.get("2015-01-01")


async def test_section_1_9_4_baseclock_time_is_monotonic(clock):
    times = []
    for _ in range(5):
        times.append(clock.time())
        await asyncio.sleep(0)

    assert times == sorted(times)


async def test_section_1_9_4_baseclock_utcnow_is_an_arrow_date_in_utc(clock):
    assert isinstance(clock.utcnow(), arrow.Arrow)
    assert clock.utcnow().tzname() == "UTC"


async def test_section_1_9_4_baseclock_sleep(clock):
    before = clock.time()

    assert asyncio.isfuture(sleep := clock.sleep(dt=0.02))
    assert await sleep is None
    assert clock.time() >= before + 0.02 - PRECISION
    assert await clock.sleep(dt=0.01, result="spam") == "spam"


async def test_section_1_9_4_baseclock_sleep_until_a_number(clock):
    t = clock.time() + 0.02

    assert asyncio.isfuture(sleep := clock.sleep_until(t=t))
    assert await sleep is None
    assert clock.time() >= t - PRECISION
    assert await clock.sleep_until(clock.time() + 0.01, result="spam") == "spam"


async def test_section_1_9_4_baseclock_sleep_until_a_date(clock):
    date = clock.utcnow().shift(seconds=0.02)

    assert await clock.sleep_until(t=date, result="spam") == "spam"
    assert clock.utcnow() >= date.shift(seconds=-PRECISION)


@pytest.mark.parametrize("schedule", ["call_in", "call_at a number", "call_at a date"])
@pytest.mark.parametrize("cancel", [False, True])
async def test_section_1_9_4_baseclock_call_in_and_call_at(clock, schedule, cancel):
    calls = []
    due = clock.time() + 0.02
    if schedule == "call_in":
        handle = clock.call_in(0.02, lambda *args: calls.append((clock.time(), args)), 1, 2)
    else:
        t = due if schedule.endswith("number") else clock.utcnow().shift(seconds=0.02)
        handle = clock.call_at(t, lambda *args: calls.append((clock.time(), args)), 1, 2)
    assert calls == []
    if cancel:
        handle.cancel()
    await clock.sleep(0.05)

    if cancel:
        assert calls == []
    else:
        [(time, args)] = calls
        assert args == (1, 2)
        assert time >= due - PRECISION


async def test_section_1_9_4_asyncioclock_is_the_event_loops():
    loop = asyncio.get_running_loop()

    before = loop.time()
    assert before <= AsyncioClock().time() <= loop.time()


@pytest.mark.parametrize("utc_start", [arrow.get("2015-01-01"), "2015-01-01", 1420070400])
async def test_section_1_9_4_externalclock_parameters(utc_start):
    clock = ExternalClock(utc_start=utc_start, init_time=0)

    assert clock.time() == 0
    assert clock.utcnow() == arrow.get("2015-01-01")
    clock.set_time(60)
    assert clock.time() == 60
    assert clock.utcnow() == arrow.get("2015-01-01T00:01")
    assert ExternalClock(utc_start, init_time=7).time() == 7


async def test_section_1_9_4_timerhandle_cancel():
    clock = ExternalClock("2015-01-01")
    calls: list[str] = []
    handle = clock.call_in(1, calls.append, "called")
    assert isinstance(handle, TimerHandle)

    handle.cancel()
    clock.set_time(2)

    assert calls == []


async def test_section_1_9_4_timerhandle_parameters():
    future = asyncio.get_running_loop().create_future()

    TimerHandle(future=future, callback=print).cancel()

    assert future.cancelled()
