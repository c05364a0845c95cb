"""One timer of an event loop looks at all that has to be looked at, and holds on to nothing."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref
from typing import Any

import pytest

from aiomas._sweeper import Sweeper
from aiomas.testing import VirtualTimeLoop

LONG = 1.1  # seconds in which four sweeps come


class Member:
    """Is looked at a number of times, or for ever."""

    def __init__(self, times: float = float("inf")) -> None:
        self.times = times
        self.swept = 0

    def sweep(self) -> bool:
        self.swept += 1
        return self.swept < self.times


class Loop(VirtualTimeLoop):
    """Counts the timers that are set, and keeps the errors."""

    def __init__(self) -> None:
        super().__init__()
        self.timers = 0
        self.errors: list[str] = []
        self.set_exception_handler(lambda _, context: self.errors.append(str(context["exception"])))

    def call_later(self, *args: Any, **kwds: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        self.timers += 1
        self.last_timer = super().call_later(*args, **kwds)
        return self.last_timer

    def let_pass(self, seconds: float) -> int:
        """Let time pass, and return the number of timers that were set meanwhile."""
        before = self.timers
        self.call_at(self.time() + seconds, self.stop)
        self.run_forever()
        return self.timers - before


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def sweeper(loop):
    return Sweeper.of(loop)


def test_a_loop_has_one(loop, sweeper):
    assert Sweeper.of(loop) is sweeper
    other = asyncio.new_event_loop()
    assert Sweeper.of(other) is not sweeper
    other.close()


def test_there_is_one_timer_for_all(loop, sweeper):
    members = [Member() for _ in range(100)]
    for member in members:
        sweeper.add(member)
        sweeper.add(member)
    assert loop.timers == 1
    assert loop.let_pass(LONG) == 4
    assert {member.swept for member in members} == {4}


def test_who_has_enough_is_left_alone_and_the_timer_ends_with_the_last_one(loop, sweeper):
    short, longer = Member(1), Member(2)
    sweeper.add(short)
    sweeper.add(longer)
    assert loop.let_pass(LONG) == 1
    assert loop.let_pass(LONG) == 0
    assert (short.swept, longer.swept) == (1, 2)


def test_who_comes_after_the_end_is_looked_at(loop, sweeper):
    first, second = Member(1), Member(1)
    sweeper.add(first)
    loop.let_pass(LONG)
    sweeper.add(second)
    loop.let_pass(LONG)
    assert (first.swept, second.swept) == (1, 1)


def test_who_is_removed_is_not_looked_at(loop, sweeper):
    gone, kept = Member(), Member()
    sweeper.add(gone)
    sweeper.add(kept)
    sweeper.remove(gone)
    loop.let_pass(LONG)
    assert (gone.swept, kept.swept) == (0, 4)
    sweeper.remove(kept)
    sweeper.remove(kept)
    loop.let_pass(LONG)
    assert loop.let_pass(LONG) == 0
    assert kept.swept == 4


def test_who_is_removed_and_added_again_is_looked_at_no_more_often(loop, sweeper):
    member = Member()
    for _ in range(3):
        sweeper.add(member)
        sweeper.remove(member)
    sweeper.add(member)
    assert loop.let_pass(LONG) == 4
    assert member.swept == 4


def test_when_nobody_is_left_the_timer_goes_as_well(loop, sweeper):
    member = Member()
    sweeper.add(member)
    sweeper.remove(member)
    assert loop.last_timer.cancelled()


class Placed(Member):
    """Is looked at in a certain order: small sets have numbers in theirs."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def __hash__(self) -> int:
        return self.place


class Failing(Placed):
    """Cannot be looked at."""

    def sweep(self) -> bool:
        super().sweep()
        msg = "cannot be looked at"
        raise RuntimeError(msg)


@pytest.mark.parametrize(
    "place",
    [
        0,
        4,
    ],
)
def test_an_error_of_one_ends_the_sweeps_of_no_other(loop, sweeper, place):
    others = [Placed(number) for number in range(1, 4)]
    failing = Failing(place)
    for member in (*others, failing):
        sweeper.add(member)
    loop.let_pass(10)
    assert min(member.swept for member in others) > 1
    assert set(loop.errors) == {"cannot be looked at"}


def test_who_is_gone_is_not_kept_alive_by_being_looked_at(loop, sweeper):
    member = Member()
    gone = weakref.ref(member)
    sweeper.add(member)
    loop.let_pass(LONG)
    del member
    gc.collect()
    assert gone() is None
    loop.let_pass(LONG)
    assert loop.let_pass(LONG) == 0


class Owner(Member):
    """Holds on to its loop, as a connection does."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop


def test_no_loop_is_kept_alive():
    loop = VirtualTimeLoop()
    owner = Owner(loop)
    Sweeper.of(loop).add(owner)
    loop.call_later(LONG, loop.stop)
    loop.run_forever()
    assert owner.swept
    left: list[weakref.ref[Any]] = [weakref.ref(loop), weakref.ref(Sweeper.of(loop))]
    loop.close()
    del loop, owner
    gc.collect()
    assert [ref() for ref in left] == [None, None]


ABANDONED = """
import asyncio, gc, weakref
import aiomas

class Agent(aiomas.Agent):
    @aiomas.expose
    def quick(self):
        return 1

left = []

async def main():
    one, other = [
        await aiomas.Container.create(("127.0.0.1", 0), codec=aiomas.MsgPack) for _ in range(2)
    ]
    proxy = await one.connect(Agent(other).addr)
    assert await proxy.quick() == 1
    left.extend(map(weakref.ref, [asyncio.get_running_loop(), one, other]))

for _ in range(3):
    asyncio.run(main())
gc.collect()
gc.collect()
print(len(left), sum(ref() is not None for ref in left))
"""


def test_containers_that_are_left_open_go_with_their_loop():
    done = subprocess.run(
        # Nobody has closed what is collected, which Python would mention.
        [sys.executable, "-W", "ignore", "-c", ABANDONED],
        timeout=30,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["9", "0"], done.stderr
