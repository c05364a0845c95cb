"""Virtual time: jumps to the next timer, exactly and in order, and what it leaves to real time."""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import math
import random
import selectors
import socket
import threading
import time

import arrow
import pytest

import aiomas
from aiomas.local_queue import LocalQueue
from aiomas.testing import VirtualClock, VirtualTimeLoop, run

YEAR = 365 * 24 * 3600.0


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
def selects(monkeypatch):
    """Count how often the loop has looked for what is ready."""
    counted: list[float | None] = []
    original = selectors.DefaultSelector.select

    def select(self, timeout=None):
        counted.append(timeout)
        return original(self, timeout)

    monkeypatch.setattr(selectors.DefaultSelector, "select", select)
    return counted


async def word_from_a_thread() -> None:
    """Wait for a thread of which the loop does not know."""
    loop = asyncio.get_running_loop()
    word = loop.create_future()
    idle = threading.Event()

    def work():
        idle.wait()
        for _ in range(20):  # after each of them, the loop has nothing to do
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
        loop.call_soon_threadsafe(word.set_result, None)

    thread = threading.Thread(target=work)
    thread.start()
    loop.call_soon(idle.set)
    await word
    thread.join()


class TestJumps:
    def test_time_starts_at_0_and_sleeping_takes_none(self):
        async def main():
            assert now() == 0.0
            await asyncio.sleep(10 * YEAR)
            return now()

        before = time.monotonic()
        assert run(main()) == 10 * YEAR
        assert time.monotonic() - before < 10

    def test_time_stands_still_while_something_is_ready(self):
        async def main():
            timer = asyncio.get_running_loop().call_later(1e-9, lambda: None)
            for _ in range(100):
                await asyncio.sleep(0)
                assert now() == 0
            timer.cancel()

        run(main())

    @pytest.mark.parametrize("base", [0.0, 0.1, 1.0, 1e3, 1e6, YEAR, 1e9, 1e12, 2.0**53])
    def test_a_timer_is_due_after_one_jump_whatever_the_rounding(self, base, selects):
        rng = random.Random(1)

        async def main():
            loop = asyncio.get_running_loop()
            await asyncio.sleep(base)
            for _ in range(50):
                when = now() + rng.choice([rng.random(), 1e-9, 1e-12, 0.1, 1e5 * rng.random()])
                fired = loop.create_future()
                selects.clear()
                loop.call_at(when, fired.set_result, None)
                await fired
                assert now() == when  # not about
                assert len(selects) <= 3

        run(main())

    def test_timers_fire_in_the_order_of_their_times(self):
        times = [random.Random(2).choice([0.1, 0.2, 0.3, 1, 2, 1e7]) for _ in range(200)]

        async def main():
            seen = []

            async def sleep(number, delay):
                await asyncio.sleep(delay)
                assert now() == delay
                seen.append((delay, number))

            await asyncio.gather(*(sleep(*pair) for pair in enumerate(times)))
            return seen

        # Those for the same moment: in the order in which they were set.
        assert run(main()) == sorted((delay, number) for number, delay in enumerate(times))

    def test_a_timer_for_the_past_fires_at_once(self):
        async def main():
            await asyncio.sleep(5)
            fired = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_at(3, fired.set_result, None)
            await fired
            return now()

        assert run(main()) == 5

    def test_a_timer_that_is_due_gets_its_turn_beside_a_task_that_never_waits(self):
        async def main():
            fired: list = []
            asyncio.get_running_loop().call_later(0, fired.append, 1)
            for _ in range(3):
                await asyncio.sleep(0)
            return fired

        assert run(main()) == [1]

    def test_timeouts_are_exact(self):
        async def main():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(30):
                    await asyncio.sleep(31)
            assert now() == 30
            async with asyncio.timeout(30):
                await asyncio.sleep(29)
            assert now() == 59

        run(main())


class TestTimers:
    def test_a_cancelled_timer_does_not_fire_and_is_not_waited_for(self):
        async def main():
            loop = asyncio.get_running_loop()
            fired: list = []
            timer = loop.call_at(1, fired.append, "cancelled")
            assert timer.when() == 1
            timer.cancel()
            assert timer.cancelled()
            loop.call_at(2, fired.append, "fired")
            await asyncio.sleep(3)
            return fired

        assert run(main()) == ["fired"]

    def test_a_timer_is_cancelled_by_another_one_for_the_same_moment(self):
        async def main():
            loop = asyncio.get_running_loop()
            fired: list = []

            def cancel_second():
                second.cancel()

            loop.call_at(1, cancel_second)
            second = loop.call_at(1, fired.append, "second")
            await asyncio.sleep(2)
            return fired

        assert run(main()) == []

    def test_cancelled_timers_do_not_pile_up(self):
        loop = VirtualTimeLoop()
        live = [loop.call_later(1000, lambda: None) for _ in range(10)]
        for _ in range(10_000):
            loop.call_later(1000, lambda: None).cancel()
        assert len(loop._timeline._timers) < 100
        assert all(not timer.cancelled() for timer in live)
        loop.close()
        assert not loop._timeline._timers

    def test_what_a_cancelled_timer_was_to_call_is_let_go(self):
        import gc
        import weakref

        class Thing:
            def method(self):
                pass

        thing = Thing()
        reference = weakref.ref(thing)
        loop = VirtualTimeLoop()
        timer = loop.call_later(1000, thing.method)
        timer.cancel()
        del thing
        gc.collect()
        assert reference() is None
        loop.close()

    def test_a_timer_keeps_its_context(self):
        variable = contextvars.ContextVar("variable", default=0)

        async def main():
            loop = asyncio.get_running_loop()
            seen = []
            variable.set(1)
            loop.call_later(1, lambda: seen.append(variable.get()))
            variable.set(2)
            context = contextvars.copy_context()
            variable.set(3)
            loop.call_later(1, lambda: seen.append(variable.get()), context=context)
            await asyncio.sleep(2)
            return seen

        assert run(main()) == [1, 2]

    def test_an_error_of_a_timer_is_reported_and_harms_nobody_else(self):
        async def main():
            loop = asyncio.get_running_loop()
            reported = []
            loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
            loop.call_later(1, lambda: 1 / 0)
            fired = loop.create_future()
            loop.call_later(1, fired.set_result, None)
            await fired
            return reported

        [error] = run(main())
        assert isinstance(error, ZeroDivisionError)

    def test_a_timer_at_infinity_never_fires_and_nobody_spins_for_it(self, selects):
        async def main():
            loop = asyncio.get_running_loop()
            never = asyncio.create_task(asyncio.sleep(math.inf))
            handle = loop.call_later(math.inf, lambda: None)
            await asyncio.sleep(0)
            selects.clear()
            await asyncio.sleep(3 * YEAR)
            assert len(selects) <= 3
            assert now() == 3 * YEAR
            handle.cancel()
            assert handle.cancelled()
            never.cancel()

        run(main())

    def test_nan_is_no_time(self):
        loop = VirtualTimeLoop()
        with pytest.raises(ValueError, match="NaN"):
            loop.call_later(math.nan, print)
        loop.close()

    def test_a_closed_loop_takes_no_timer(self):
        loop = VirtualTimeLoop()
        loop.close()
        with pytest.raises(RuntimeError, match="closed"):
            loop.call_later(1, print)

    def test_debug_mode_works(self):
        async def main():
            assert asyncio.get_running_loop().get_debug()
            asyncio.get_running_loop().call_later(5, lambda: None).cancel()
            async with asyncio.timeout(20):
                await asyncio.sleep(10)
            return now()

        assert run(main(), debug=True) == 10


class TestTheRestOfTheWorld:
    def test_without_timers_the_loop_waits_for_a_thread(self):
        async def main():
            await word_from_a_thread()
            return now()

        assert run(main()) == 0

    def test_time_does_not_go_where_nothing_happens(self):
        async def main():
            asyncio.get_running_loop().call_at(1, print).cancel()
            never = asyncio.get_running_loop().call_at(math.inf, print)
            await word_from_a_thread()
            never.cancel()
            return now()

        assert run(main()) == 0

    def test_time_does_not_jump_while_a_function_runs_in_a_thread(self):
        async def main():
            loop = asyncio.get_running_loop()

            def work():
                for _ in range(50):  # after each of them, the loop has nothing to do
                    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()

            async with asyncio.timeout(300):
                await asyncio.to_thread(work)
            assert now() == 0
            await asyncio.sleep(300)  # and jumps again
            return now()

        assert run(main()) == 300

    def test_a_timer_that_a_thread_waits_for_fires_in_real_time(self):
        async def main():
            loop = asyncio.get_running_loop()

            def work():
                return asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01, "slept"), loop).result()

            before = time.monotonic()
            assert await asyncio.to_thread(work) == "slept"
            assert time.monotonic() - before >= 0.005
            return now()

        assert run(main()) == 0.01

    def test_closing_the_executor_waits_for_its_threads(self):
        async def main():
            loop = asyncio.get_running_loop()
            started = loop.create_future()
            ended = []

            def work():
                loop.call_soon_threadsafe(started.set_result, None)
                for _ in range(20):
                    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
                ended.append(1)

            future = loop.run_in_executor(None, work)
            await started
            future.cancel()  # nobody waits for it any more, but it goes on
            async with asyncio.timeout(300):  # asyncio itself sets such a limit
                await loop.shutdown_default_executor()
            return ended, now()

        assert run(main()) == ([1], 0)

    def test_names_are_resolved_before_a_timeout(self):
        async def main():
            async with asyncio.timeout(1):
                return await asyncio.get_running_loop().getaddrinfo("localhost", 80)

        assert run(main())

    def test_sockets_that_are_ready_come_before_a_jump(self):
        async def main():
            loop = asyncio.get_running_loop()
            one, other = socket.socketpair()
            with one, other:
                one.setblocking(False)
                other.setblocking(False)
                async with asyncio.timeout(1):
                    for _ in range(100):
                        receiving = asyncio.create_task(loop.sock_recv(other, 100))
                        await asyncio.sleep(0)
                        await loop.sock_sendall(one, b"x")
                        assert await receiving == b"x"
            return now()

        assert run(main()) == 0

    def test_a_container_on_a_unix_socket_answers(self, unix_path):
        class Echo(aiomas.Agent):
            @aiomas.expose
            def echo(self, value):
                return value

        async def main():
            async with (
                aiomas.Container.open(unix_path) as one,
                aiomas.Container.open(f"{unix_path}2") as other,
            ):
                echo = await other.connect(Echo(one).addr)
                return [await echo.echo(n) for n in range(3)]

        assert run(main()) == [0, 1, 2]


class TestRun:
    def test_it_returns_the_result_and_raises_the_error(self):
        async def good():
            return type(asyncio.get_running_loop())

        async def bad():
            raise LookupError("nothing")

        assert run(good()) is VirtualTimeLoop
        with pytest.raises(LookupError, match="nothing"):
            run(bad())

    async def test_it_does_not_run_within_a_loop(self):
        async def main():
            pass

        coro = main()
        with pytest.raises(RuntimeError, match="running in this thread"):
            run(coro)
        coro.close()


class TestVirtualClock:
    def test_it_follows_the_time_of_the_loop(self):
        async def main():
            clock = VirtualClock("2030-01-01")
            assert (clock.time(), clock.utcnow()) == (0, arrow.get(2030, 1, 1))
            await asyncio.sleep(1.5)
            assert clock.time() == now() == 1.5
            assert clock.utcnow() == arrow.get(2030, 1, 1, 0, 0, 1, 500_000)
            await clock.sleep(86_400)
            assert clock.time() == 86_401.5
            assert VirtualClock().utcnow() == arrow.get(1970, 1, 2, 0, 0, 1, 500_000)

        run(main())

    @pytest.mark.parametrize(
        "start",
        [
            "2030-01-01T02:00:00+02:00",
            arrow.get(2030, 1, 1),
            datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC),
            1_893_456_000,
        ],
        ids=lambda start: type(start).__name__,
    )
    def test_it_starts_at_any_date(self, start):
        async def main():
            now = VirtualClock(start).utcnow()
            assert now == arrow.get(2030, 1, 1)
            assert now.tzinfo == arrow.get(2030, 1, 1).tzinfo

        run(main())

    def test_it_sleeps_until_and_calls_at_dates_to_the_point(self):
        async def main():
            clock = VirtualClock("2030-01-01")
            await asyncio.sleep(0.1)
            await clock.sleep_until(arrow.get(2030, 1, 2))
            assert clock.time() == 86_400
            called = []
            clock.call_at(arrow.get(2030, 1, 3), lambda: called.append(clock.time()))
            clock.call_at(2 * 86_400 - 1, called.append, "before")
            clock.call_in(5, called.append, "first")
            clock.call_in(5, called.append, "cancelled").cancel()
            await clock.sleep_until(3 * 86_400)
            assert called == ["first", "before", 2 * 86_400]

        run(main())

    def test_a_date_that_is_now_is_not_past(self):
        async def main():
            clock = VirtualClock("2030-01-01")
            for delay in (1 / 3, 0.1, 1e-7, 12345.6789012):
                await asyncio.sleep(delay)
                await clock.sleep_until(clock.utcnow())

        run(main())

    def test_the_past_is_past(self):
        async def main():
            clock = VirtualClock("2030-01-01")
            await asyncio.sleep(2)
            with pytest.raises(ValueError, match="past"):
                clock.sleep_until(1)
            with pytest.raises(ValueError, match="past"):
                clock.call_at(arrow.get(2030, 1, 1), print)

        run(main())

    async def test_it_refuses_another_loop(self):
        clock = VirtualClock()
        with pytest.raises(RuntimeError, match="VirtualTimeLoop"):
            clock.time()
        with pytest.raises(RuntimeError, match="VirtualTimeLoop"):
            clock.utcnow()
        with pytest.raises(RuntimeError, match="VirtualTimeLoop"):
            clock.sleep(1)

    def test_a_loop_can_be_passed(self):
        loop = VirtualTimeLoop()
        clock = VirtualClock(loop=loop)
        loop.run_until_complete(asyncio.sleep(4))
        assert clock.time() == 4
        loop.close()

    def test_containers_take_it(self):
        class Sleeper(aiomas.Agent):
            @aiomas.expose
            async def nap(self, seconds):
                await self.container.clock.sleep(seconds)
                return self.container.clock.utcnow()

        async def main():
            clock = VirtualClock("2030-01-01")
            async with (
                aiomas.Container.open(LocalQueue("naps"), clock=clock) as container,
                asyncio.timeout(3601),
            ):
                sleeper = await container.connect(Sleeper(container).addr)
                return await sleeper.nap(3600)

        assert run(main()) == arrow.get(2030, 1, 1, 1)


class TestAnyioPlugin:
    @pytest.fixture
    def anyio_backend(self):
        return "asyncio", {"loop_factory": VirtualTimeLoop}

    async def test_tests_run_in_virtual_time(self):
        assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
        before = now()
        await asyncio.sleep(YEAR)
        assert now() == before + YEAR
