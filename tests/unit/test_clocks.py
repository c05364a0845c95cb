"""Clocks: time that passes, and time that is set; the same program runs by either."""

from __future__ import annotations

import asyncio
import datetime
import gc
import weakref
from typing import Any

import arrow
import numpy as np
import pytest

from aiomas.clocks import AsyncioClock, BaseClock, ExternalClock, TimerHandle

START = arrow.get("2015-01-01")
PRECISION = 0.002
"""Seconds by which the timers of some event loops may be early."""


@pytest.fixture
async def clock() -> ExternalClock:
    return ExternalClock(START)


@pytest.fixture(params=["asyncio", "external"])
async def any_clock(request: pytest.FixtureRequest) -> BaseClock:
    return AsyncioClock() if request.param == "asyncio" else ExternalClock(START, init_time=5)


async def turns_of_the_loop(number: int = 3) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


class Calls:
    """What was called, with which arguments and when, by the clock."""

    def __init__(self, clock: BaseClock) -> None:
        self.clock = clock
        self.log: list[Any] = []

    def __call__(self, *args: Any) -> None:
        self.log.append((self.clock.time(), *args))


class TestBaseClock:
    def test_it_cannot_be_used_as_it_is(self):
        with pytest.raises(TypeError):
            BaseClock()  # type: ignore[abstract]

    async def test_a_clock_must_have_time_and_utcnow_and_may_leave_it_at_that(self):
        class Minimal(BaseClock):
            def time(self):
                return 7

            def utcnow(self):
                return START

        clock = Minimal()

        assert (clock.time(), clock.utcnow()) == (7, START)
        with pytest.raises(NotImplementedError):
            clock.sleep(1)
        with pytest.raises(NotImplementedError):
            clock.call_in(1, print)

    def test_a_clock_may_bring_its_own_methods(self):
        class Own(BaseClock):
            def time(self):
                return 7

            def utcnow(self):
                return START

            def sleep(self, dt, result=None):
                return ("slept", dt, result)

        assert Own().sleep(1, "x") == ("slept", 1, "x")


class TestBothClocks:
    async def test_a_date_in_the_past_is_refused(self, any_clock):
        past = any_clock.utcnow().shift(seconds=-1)

        with pytest.raises(ValueError, match="in the past"):
            any_clock.sleep_until(past)
        with pytest.raises(ValueError, match="in the past"):
            any_clock.call_at(past, print)

    async def test_a_time_in_the_past_is_refused(self, any_clock):
        past = any_clock.time() - 1

        with pytest.raises(ValueError, match="in the past"):
            any_clock.sleep_until(past)
        with pytest.raises(ValueError, match="in the past"):
            any_clock.call_at(past, print)

    async def test_to_sleep_for_no_time_or_less_ends_at_once(self, any_clock):
        assert await any_clock.sleep(0, "zero") == "zero"
        assert await any_clock.sleep(-3, "less") == "less"

    async def test_a_call_in_no_time_or_less_is_made_at_once_but_not_here(self, any_clock):
        calls = Calls(any_clock)
        for dt in (0, -3):
            any_clock.call_in(dt, calls, dt)

        assert calls.log == []
        await any_clock.sleep(0)
        await turns_of_the_loop()
        assert [dt for _, dt in calls.log] == [0, -3]

    async def test_a_call_in_no_time_can_be_cancelled(self, any_clock):
        calls = Calls(any_clock)
        any_clock.call_in(0, calls).cancel()

        await any_clock.sleep(0)
        await turns_of_the_loop()
        assert calls.log == []

    async def test_a_sleep_is_a_future_that_can_be_cancelled(self, any_clock):
        sleep = any_clock.sleep(3600)

        assert asyncio.isfuture(sleep)
        sleep.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleep

    async def test_utcnow_is_a_date_in_utc(self, any_clock):
        now = any_clock.utcnow()

        assert isinstance(now, arrow.Arrow)
        assert now.utcoffset() == datetime.timedelta(0)


class TestAsyncioClock:
    async def test_it_shows_the_time_of_the_event_loop(self):
        loop = asyncio.get_running_loop()

        before = loop.time()
        assert before <= AsyncioClock().time() <= loop.time()

    async def test_it_shows_the_date_of_the_system(self):
        before = datetime.datetime.now(datetime.UTC)

        assert before <= AsyncioClock().utcnow() <= datetime.datetime.now(datetime.UTC)

    async def test_sleep_takes_its_time_and_returns_the_result(self):
        clock = AsyncioClock()
        before = clock.time()

        assert await clock.sleep(0.01, "result") == "result"
        assert clock.time() >= before + 0.01 - PRECISION
        assert await asyncio.gather(clock.sleep(0.001)) == [None]  # type: ignore[comparison-overlap]

    async def test_sleep_until_takes_a_number_or_a_date(self):
        clock = AsyncioClock()
        due = clock.time() + 0.01

        assert await clock.sleep_until(due, result="number") == "number"
        assert clock.time() >= due - PRECISION
        date = clock.utcnow().shift(seconds=0.01)
        assert await clock.sleep_until(date, result="date") == "date"
        assert clock.utcnow() >= date.shift(seconds=-PRECISION)

    async def test_calls_are_made_in_order_with_their_arguments(self):
        clock = AsyncioClock()
        calls = Calls(clock)
        done = asyncio.Event()
        clock.call_in(0.02, calls, "second")
        clock.call_at(clock.time() + 0.01, calls, "first", 1)
        clock.call_at(clock.utcnow().shift(seconds=0.03), calls, "third")
        clock.call_in(0.04, done.set)

        await done.wait()
        assert [args for _, *args in calls.log] == [["first", 1], ["second"], ["third"]]

    async def test_a_cancelled_call_is_not_made(self):
        clock = AsyncioClock()
        calls = Calls(clock)
        clock.call_in(0.001, calls).cancel()

        await clock.sleep(0.01)
        assert calls.log == []

    async def test_a_cancelled_sleep_leaves_no_timer_behind(self):
        class Result:
            pass

        result = Result()
        sleep = AsyncioClock().sleep(3600, result)
        freed = weakref.ref(result)
        sleep.cancel()
        await turns_of_the_loop()
        del result, sleep

        gc.collect()
        assert freed() is None

    def test_a_sleep_that_was_cancelled_in_the_very_moment_does_no_harm(self):
        loop = asyncio.new_event_loop()
        try:
            clock = AsyncioClock(loop=loop)
            sleep = clock.sleep(0)
            loop.call_soon(sleep.cancel)
            loop.run_until_complete(asyncio.wait([sleep]))
            assert sleep.cancelled() or sleep.result() is None
        finally:
            loop.close()

    def test_it_can_be_given_a_loop(self):
        loop = asyncio.new_event_loop()
        try:
            clock = AsyncioClock(loop=loop)
            assert abs(clock.time() - loop.time()) < 60
            sleep = clock.sleep(0.001, "result")
            assert sleep.get_loop() is loop
            assert loop.run_until_complete(sleep) == "result"
        finally:
            loop.close()


class TestExternalClock:
    @pytest.mark.parametrize(
        "utc_start",
        [START, "2015-01-01", "2015-01-01T02:00:00+02:00", START.datetime, START.timestamp()],
    )
    async def test_it_starts_at_any_kind_of_date(self, utc_start):
        clock = ExternalClock(utc_start)

        assert clock.time() == 0
        assert clock.utcnow() == START

    async def test_the_initial_time_counts_from_the_start(self):
        clock = ExternalClock(START, init_time=100)

        assert clock.time() == 100
        assert clock.utcnow() == START.shift(seconds=100)

    async def test_it_stands_still_until_it_is_set(self, clock):
        await turns_of_the_loop()
        assert clock.time() == 0

        clock.set_time(10.5)
        assert clock.time() == 10.5
        assert clock.utcnow() == START.shift(seconds=10.5)

    @pytest.mark.parametrize("t", [9, 10, -1, float("nan")])
    async def test_it_can_only_be_set_forward(self, clock, t):
        clock.set_time(10)

        with pytest.raises(ValueError, match="forward"):
            clock.set_time(t)
        assert clock.time() == 10

    async def test_sleep_ends_when_its_time_is_set(self, clock):
        sleep = clock.sleep(10, "result")

        clock.set_time(9.9)
        await turns_of_the_loop()
        assert not sleep.done()
        clock.set_time(10)
        assert await sleep == "result"

    async def test_sleep_until_takes_a_number_or_a_date(self, clock):
        sleeps = [
            clock.sleep_until(10, "number"),
            clock.sleep_until(START.shift(seconds=10), "date"),
            clock.sleep_until(np.int64(10), "number of numpy"),
        ]

        clock.set_time(9)
        assert not any(sleep.done() for sleep in sleeps)
        clock.set_time(10)
        assert await asyncio.gather(*sleeps) == ["number", "date", "number of numpy"]

    async def test_to_sleep_until_now_ends_at_once(self):
        clock = ExternalClock(START, init_time=1 / 3)

        assert await clock.sleep_until(clock.time(), "time") == "time"
        assert await clock.sleep_until(clock.utcnow(), "date") == "date"

    async def test_a_date_is_a_round_time_whatever_the_time_is_now(self):
        clock = ExternalClock(START, init_time=0.1)  # and 0.1 + 0.2 is more than 0.3
        calls = Calls(clock)
        clock.call_at(START.shift(seconds=0.3), calls)

        clock.set_time(0.3)

        assert calls.log == [(0.3,)]

    async def test_calls_are_made_in_the_order_in_which_they_are_due(self, clock):
        calls = Calls(clock)
        clock.call_in(3, calls, "c")
        clock.call_at(1, calls, "a", 1)
        clock.call_at(START.shift(seconds=2), calls, "b")
        clock.call_in(5, calls, "later")

        clock.set_time(4)

        assert calls.log == [(1, "a", 1), (2, "b"), (3, "c")]
        assert clock.time() == 4

    async def test_each_call_sees_its_own_due_date(self, clock):
        dates = []
        for dt in (1, 2):
            clock.call_in(dt, lambda: dates.append(clock.utcnow()))

        clock.set_time(10)

        assert dates == [START.shift(seconds=1), START.shift(seconds=2)]
        assert clock.utcnow() == START.shift(seconds=10)

    async def test_what_is_due_at_the_same_time_happens_in_the_order_of_the_program(self, clock):
        order: list[str] = []
        clock.call_at(1, order.append, "a")
        clock.sleep_until(1).add_done_callback(lambda _: order.append("sleep"))
        clock.call_in(1, order.append, "b")
        clock.call_at(START.shift(seconds=1), order.append, "c")

        clock.set_time(1)
        await turns_of_the_loop()

        assert order == ["a", "b", "c", "sleep"]  # a task that slept runs in a turn of its own

    async def test_sleeps_end_in_the_order_in_which_they_are_due(self, clock):
        order = []

        async def sleeper(dt):
            await clock.sleep(dt)
            order.append((dt, clock.time()))

        async with asyncio.TaskGroup() as tasks:
            for dt in (3, 1, 2):
                tasks.create_task(sleeper(dt))
            await turns_of_the_loop()
            clock.set_time(10)

        assert order == [(1, 10), (2, 10), (3, 10)]

    async def test_what_a_call_schedules_is_made_as_well_if_it_is_due(self, clock):
        calls = Calls(clock)

        def first():
            calls("first")
            clock.call_in(1, calls, "second")
            clock.call_in(0, calls, "now")
            clock.call_in(100, calls, "later")

        clock.call_in(1, first)
        clock.call_in(1.5, calls, "between")

        clock.set_time(5)

        assert calls.log == [(1, "first"), (1, "now"), (1.5, "between"), (2, "second")]

    async def test_a_sleep_that_a_call_starts_ends_as_well_if_it_is_due(self, clock):
        sleeps: list[asyncio.Future[Any]] = []
        clock.call_in(1, lambda: sleeps.extend([clock.sleep(1, "due"), clock.sleep(0, "now")]))

        clock.set_time(2)

        assert await asyncio.gather(*sleeps) == ["due", "now"]

    async def test_a_call_may_not_set_the_time(self, clock):
        errors = []

        def meddle():
            try:
                clock.set_time(7)
            except RuntimeError as exc:
                errors.append(str(exc))

        clock.call_in(1, meddle)
        clock.set_time(5)

        assert len(errors) == 1
        assert "set_time()" in errors[0]
        assert clock.time() == 5

    async def test_a_call_that_raises_is_reported_and_the_others_are_made(self, clock):
        reports: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        others = loop.get_exception_handler()
        loop.set_exception_handler(lambda _, report: reports.append(report))
        calls = Calls(clock)
        clock.call_in(1, lambda: 1 / 0)
        clock.call_in(2, calls)
        try:
            clock.set_time(3)
        finally:
            loop.set_exception_handler(others)

        assert calls.log == [(2,)]
        [report] = reports
        assert isinstance(report["exception"], ZeroDivisionError)

    async def test_what_is_no_error_goes_to_the_one_who_sets_the_time(self, clock):
        def interrupt():
            raise KeyboardInterrupt

        clock.call_in(1, interrupt)

        with pytest.raises(KeyboardInterrupt):
            clock.set_time(3)
        assert clock.time() == 3
        clock.set_time(4)

    async def test_a_cancelled_call_is_not_made(self, clock):
        calls = Calls(clock)
        handle = clock.call_in(1, calls)

        assert isinstance(handle, TimerHandle)
        for _ in range(2):
            handle.cancel()
        clock.set_time(2)
        assert calls.log == []

    async def test_a_call_can_be_cancelled_by_another_of_the_same_moment(self, clock):
        calls = Calls(clock)
        handles: list[Any] = []

        def cancel_the_other():
            handles[0].cancel()

        clock.call_in(1, cancel_the_other)
        handles.append(clock.call_in(1, calls))

        clock.set_time(1)

        assert calls.log == []

    async def test_to_cancel_a_call_that_was_made_does_nothing(self, clock):
        calls = Calls(clock)
        handle = clock.call_in(1, calls)
        clock.set_time(1)

        handle.cancel()
        assert calls.log == [(1,)]

    async def test_a_cancelled_sleep_is_left_alone_when_its_time_comes(self, clock):
        sleep = clock.sleep(1)
        sleep.cancel()

        clock.set_time(1)
        assert sleep.cancelled()

    async def test_a_handle_shows_its_state(self, clock):
        handle = clock.call_in(1, print)
        assert "pending" in repr(handle)
        handle.cancel()
        assert "cancelled" in repr(handle)

    def test_it_can_be_given_a_loop(self):
        loop = asyncio.new_event_loop()
        try:
            clock = ExternalClock(START, init_time=1, loop=loop)
            sleep = clock.sleep(1, "result")
            clock.set_time(2)
            assert sleep.get_loop() is loop
            assert loop.run_until_complete(sleep) == "result"
        finally:
            loop.close()

    async def test_a_program_written_by_the_clock_does_not_know_which_one_it_is(self):
        async def program(clock: BaseClock) -> float:
            before = clock.time()
            await clock.sleep(0.01)
            await clock.sleep_until(clock.time() + 0.01)
            return clock.time() - before

        assert await program(AsyncioClock()) >= 0.02 - 2 * PRECISION

        clock = ExternalClock(START)
        task = asyncio.ensure_future(program(clock))
        while not task.done():
            clock.set_time(clock.time() + 0.01)
            await turns_of_the_loop()
        assert task.result() == pytest.approx(0.02, abs=0.011)


async def test_cancelled_timers_do_not_pile_up():
    clock = ExternalClock("2020-01-01")
    kept = clock.sleep(5)
    for _ in range(1000):
        clock.sleep(10).cancel()
        clock.call_in(10, print).cancel()
    assert len(clock._timers) < 200
    clock.set_time(5)
    assert kept.done()


@pytest.mark.parametrize("clock", [ExternalClock("2020-01-01"), AsyncioClock()])
async def test_not_a_number_is_no_time(clock):
    with pytest.raises(ValueError, match="nan"):
        clock.sleep_until(float("nan"))
    with pytest.raises(ValueError, match="nan"):
        clock.call_at(float("nan"), print)
