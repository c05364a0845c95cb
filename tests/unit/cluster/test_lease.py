"""A lease counts from when it was asked for, and runs out whatever becomes of the answers."""

from __future__ import annotations

import asyncio
import time

import pytest

from aiomas.cluster import control, lease
from aiomas.cluster.control import Host
from aiomas.cluster.lease import Lease
from aiomas.testing import VirtualTimeLoop

SECONDS, HEARTBEAT = 30.0, 1.0


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture
def clock(monkeypatch):
    """Let leases have the time of the loop, and a machine that may be suspended."""
    clock = Clock()
    monkeypatch.setattr(lease, "now", clock)
    monkeypatch.setattr(control, "now", clock)
    return clock


class Clock:
    def __init__(self):
        self.suspended = 0.0

    def __call__(self):
        return asyncio.get_running_loop().time() + self.suspended


class Driver:
    """Agrees after a while."""

    def __init__(self, clock, *, there=0.0, back=0.0):
        self.clock = clock
        self.there, self.back = there, back  # seconds on the way
        self.asked = []
        self.host = Host(print, print)
        self.host.grant(SECONDS)
        self.error = None
        self.answers = True

    async def ask(self):
        self.asked.append(self.clock())
        await asyncio.sleep(self.there)
        if self.error is not None:
            raise self.error
        if not self.answers:
            await asyncio.Event().wait()
        self.host.renew()
        await asyncio.sleep(self.back)


def test_time_goes_forward():
    before = lease.now()
    assert lease.now() >= before > 0


def test_a_system_without_that_clock_has_another(monkeypatch):
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    monkeypatch.setattr(time, "monotonic", lambda: 17.0)
    assert lease.now() == 17.0


async def test_it_is_asked_for_with_each_heartbeat(clock):
    driver, kept = Driver(clock), Lease(SECONDS, HEARTBEAT)
    keeping = asyncio.create_task(kept.keep(driver.ask))
    await asyncio.sleep(3.5)
    assert driver.asked == [0.0, 1.0, 2.0, 3.0]
    assert kept.left == SECONDS - 0.5
    keeping.cancel()


@pytest.mark.parametrize(("there", "back"), [(2.5, 0.0), (0.0, 2.5), (4.0, 7.0)])
async def test_one_that_is_granted_late_counts_from_when_it_was_asked(clock, there, back):
    driver, kept = Driver(clock, there=there, back=back), Lease(SECONDS, HEARTBEAT)
    keeping = asyncio.create_task(kept.keep(driver.ask))
    way = there + back
    await asyncio.sleep(100.25)
    last = int(100.25 - way)  # the second in which it was asked what was answered last
    assert kept.left == pytest.approx(last + SECONDS - 100.25)
    assert driver.asked[-1] == 100.0  # slow answers do not put the next question off
    keeping.cancel()


@pytest.mark.parametrize(("there", "back"), [(0.0, 0.0), (3.0, 0.0), (0.5, 9.0), (20.0, 5.0)])
async def test_the_driver_never_takes_it_for_over_before_the_host_does(clock, there, back):
    driver, kept = Driver(clock, there=there, back=back), Lease(SECONDS, HEARTBEAT)
    keeping = asyncio.create_task(kept.keep(driver.ask))
    for second in range(60):
        await asyncio.sleep(1.0)
        if second == 40:
            driver.answers = False
        assert driver.host.lease_until >= clock() + kept.left
    await keeping
    assert driver.host.lease_until >= clock()
    keeping.cancel()


async def test_it_runs_out_although_answers_hang(clock):
    driver, kept = Driver(clock), Lease(SECONDS, HEARTBEAT)
    driver.answers = False
    await kept.keep(driver.ask)
    assert clock() == SECONDS
    assert kept.left <= 0


async def test_questions_that_nobody_answers_are_bounded(clock):
    driver, kept = Driver(clock), Lease(1000.0, HEARTBEAT)
    driver.answers = False
    await kept.keep(driver.ask)
    assert clock() == 1000.0
    assert len(driver.asked) == 64


async def test_it_runs_out_while_the_machine_is_suspended(clock):
    """The loop's own clock stands still meanwhile, and an answer was on its way."""
    driver, kept = Driver(clock, back=0.5), Lease(SECONDS, HEARTBEAT)
    keeping = asyncio.create_task(kept.keep(driver.ask))
    await asyncio.sleep(5.25)
    clock.suspended = 100.0
    await keeping
    assert asyncio.get_running_loop().time() <= 5.25 + HEARTBEAT
    assert kept.left < 0


async def test_an_answer_that_comes_after_the_end_is_too_late(clock):
    driver, kept = Driver(clock, back=SECONDS + 5), Lease(SECONDS, HEARTBEAT)
    await kept.keep(driver.ask)
    assert clock() == SECONDS


async def test_who_is_refused_hears_why(clock):
    driver, kept = Driver(clock, there=0.5), Lease(SECONDS, HEARTBEAT)
    keeping = asyncio.create_task(kept.keep(driver.ask))
    await asyncio.sleep(2.25)
    driver.error = PermissionError("it was given up")
    with pytest.raises(PermissionError, match="given up"):
        await keeping
    assert clock() == 2.5


async def test_many_questions_fail_with_one_error(clock):
    """All those under way when the connection ends; asyncio would log those nobody looks at."""
    driver, kept = Driver(clock, there=10.0), Lease(SECONDS, HEARTBEAT)
    cut = asyncio.get_running_loop().create_future()

    async def ask():
        driver.asked.append(clock())
        await asyncio.shield(cut)

    keeping = asyncio.create_task(kept.keep(ask))
    await asyncio.sleep(4.5)
    cut.set_exception(ConnectionResetError("cut"))
    with pytest.raises(ConnectionResetError, match="cut"):
        await keeping
    assert len(driver.asked) == 5


async def test_nothing_is_asked_any_more_by_one_that_is_cancelled(clock):
    driver, kept = Driver(clock, back=5.0), Lease(SECONDS, HEARTBEAT)
    before = asyncio.all_tasks()
    keeping = asyncio.create_task(kept.keep(driver.ask))
    await asyncio.sleep(2.5)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert len(driver.asked) == 3


class TestDriver:
    async def test_it_grants_from_when_it_is_asked(self, clock):
        host = Host(print, print)
        assert host.lease_until == 0
        host.grant(SECONDS)
        assert host.lease_until == SECONDS
        await asyncio.sleep(5.0)
        host.renew()
        assert host.lease_until == 5.0 + SECONDS

    async def test_who_was_given_up_is_refused_for_good(self, clock):
        host = Host(print, print)
        host.grant(SECONDS)
        await asyncio.sleep(5.0)
        await host.give_up("it is silent")
        with pytest.raises(PermissionError, match="the host was given up"):
            host.renew()
        assert host.lease_until == SECONDS  # else its agents would have to wait again

    async def test_who_was_never_granted_one_is_refused(self, clock):
        host = Host(print, print)
        with pytest.raises(PermissionError):
            host.renew()
        assert host.lease_until == 0
