"""The heartbeat: what is silence, whose fault it is, and what it leads to."""

from __future__ import annotations

import asyncio

import pytest

from aiomas._heartbeat import Heartbeat
from aiomas.testing import VirtualTimeLoop


class Watch:
    """A heartbeat, and the times at which it has done something."""

    def __init__(self, loop: VirtualTimeLoop, interval: float = 10.0, misses: int = 3) -> None:
        self.loop = loop
        self.asked: list[float] = []
        self.lost: list[float] = []
        self.excused = False
        self.heartbeat = Heartbeat(
            loop,
            interval,
            misses,
            ask=lambda: self.asked.append(loop.time()),
            excused=lambda: self.excused,
            lost=lambda: self.lost.append(loop.time()),
        )

    def until(self, when: float) -> None:
        """Let it be *when*; what is due then has been done."""
        self.loop.run_until_complete(asyncio.sleep(when - self.loop.time()))

    def heard_at(self, *times: float) -> None:
        for when in times:
            self.loop.call_at(when, self.heartbeat.heard)

    def blocked(self, start: float, end: float) -> None:
        """Let a callback block the loop."""
        self.loop.call_at(start, setattr, self.loop._timeline, "now", end)


@pytest.fixture
def loop():
    loop = VirtualTimeLoop()
    yield loop
    loop.close()


@pytest.fixture
def watch(loop):
    watch = Watch(loop)
    yield watch
    watch.heartbeat.stop()


def timers(loop: VirtualTimeLoop) -> list[asyncio.TimerHandle]:
    return [timer for *_, timer in loop._timeline._timers if not timer.cancelled()]


def test_a_silent_peer_is_asked_after_each_interval_and_lost_after_the_last(watch):
    watch.until(100.0)

    assert watch.asked == [10.0, 20.0]
    assert watch.lost == [30.0]


@pytest.mark.parametrize(("misses", "asked", "lost"), [(1, [], [10.0]), (2, [10.0], [20.0])])
def test_the_number_of_misses_is_a_parameter(loop, misses, asked, lost):
    watch = Watch(loop, misses=misses)

    watch.until(100.0)

    assert (watch.asked, watch.lost) == (asked, lost)


def test_the_interval_is_a_parameter(loop):
    watch = Watch(loop, interval=0.5)

    watch.until(100.0)

    assert watch.asked == [0.5, 1.0]
    assert watch.lost == [1.5]


def test_nobody_is_asked_who_is_heard_often_enough(watch):
    watch.heard_at(*range(9, 1000, 9))

    watch.until(999.0)

    assert watch.asked == []
    assert watch.lost == []


def test_silence_begins_when_the_peer_was_heard_last(watch):
    watch.heard_at(4.0, 7.0)

    watch.until(100.0)

    assert watch.asked == [17.0, 27.0]
    assert watch.lost == [37.0]


def test_a_peer_that_is_heard_at_last_is_as_alive_as_ever(watch):
    watch.heard_at(29.9)

    watch.until(100.0)

    assert watch.asked == [10.0, 20.0, pytest.approx(39.9), pytest.approx(49.9)]
    assert watch.lost == [pytest.approx(59.9)]


def test_a_peer_that_answers_each_question_lives_for_ever(loop, watch):
    ask = watch.heartbeat._ask

    def answered() -> None:
        ask()
        loop.call_later(0.1, watch.heartbeat.heard)

    watch.heartbeat._ask = answered
    watch.until(10_000.0)

    assert len(watch.asked) == pytest.approx(990, abs=2)
    assert watch.lost == []


def test_many_signs_of_life_set_no_timers(loop, watch):
    for _ in range(1000):
        watch.heartbeat.heard()

    assert len(timers(loop)) == 1


def test_time_in_which_our_own_loop_was_blocked_does_not_count(watch):
    watch.blocked(5.0, 1000.0)

    watch.until(1000.0)
    assert watch.lost == []

    watch.until(2000.0)
    # 10 s of silence before what was late; the rest of the intervals comes after it.
    assert watch.lost == [pytest.approx(1020.0)]


def test_a_loop_that_is_blocked_again_and_again_loses_no_peer_that_answers(loop, watch):
    for start in range(10, 1000, 50):
        watch.blocked(start, start + 45.0)
    watch.heard_at(*(start + 46.0 for start in range(10, 1000, 50)))

    watch.until(1000.0)

    assert watch.lost == []


def test_a_timer_that_is_a_little_late_shortens_no_silence(watch):
    watch.blocked(9.5, 10.5)  # one tenth of the interval is nothing

    watch.until(29.9)
    assert watch.asked == [10.5, 20.0]
    watch.until(30.1)
    assert watch.lost == [30.0]


def test_who_was_heard_after_the_loop_was_blocked_is_not_in_the_future(loop, watch):
    """What has arrived meanwhile is read before the late timer is looked at, or after."""
    watch.blocked(10.0, 100.0)
    watch.heard_at(10.0)  # is called at 100.0

    watch.until(105.0)
    assert watch.heartbeat.heard_at <= loop.time()
    watch.until(200.0)

    assert watch.lost == [pytest.approx(130.0)]


def test_silence_that_is_to_be_expected_does_not_count(watch):
    watch.excused = True
    watch.until(100.0)
    assert watch.asked == []
    assert watch.lost == []

    watch.excused = False
    watch.until(200.0)

    assert watch.asked == [pytest.approx(110.0), pytest.approx(120.0)]
    assert watch.lost == [pytest.approx(130.0)]


def test_one_that_is_stopped_does_nothing_and_leaves_no_timer(loop, watch):
    watch.until(15.0)

    watch.heartbeat.stop()

    assert timers(loop) == []
    watch.until(100.0)
    assert watch.asked == [10.0]
    assert watch.lost == []


def test_one_that_has_lost_its_peer_says_so_once_and_leaves_no_timer(loop, watch):
    watch.until(30.0)

    assert watch.lost == [30.0]
    assert timers(loop) == []
    watch.heartbeat.stop()


def test_a_timer_that_comes_early_changes_nothing(loop, monkeypatch):
    """The timers of some loops come up to a millisecond too early."""
    call_at = loop.call_at
    monkeypatch.setattr(
        loop, "call_at", lambda when, *args, **kw: call_at(when - 0.0009, *args, **kw)
    )
    watch = Watch(loop)

    watch.until(100.0)

    assert watch.asked == [pytest.approx(when, abs=0.01) for when in (10.0, 20.0)]
    assert watch.lost == [pytest.approx(30.0, abs=0.01)]
