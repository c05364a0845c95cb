"""Agents are made again wherever containers run, and for each that is not it is said why."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomas.cluster.archive import Former
from aiomas.cluster.events import EventKind
from aiomas.cluster.placement import RoundRobin
from aiomas.cluster.remaking import remake
from aiomas.cluster.roster import Roster
from aiomas.codecs import MsgPack
from aiomas.exceptions import ClusterError, ContainerDied
from aiomas.testing import VirtualTimeLoop, run


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


class FakeContainer:
    def proxy(self, url, class_name):
        return f"{class_name} at {url}"

    def portable_codec(self):
        return MsgPack()


class FakeRun:
    """Containers that make all agents but those whose argument is "bad"."""

    def __init__(self, containers=2):
        self.container = FakeContainer()
        self.roster = Roster()
        self.roster.expect(range(containers), "n1")
        self.roster.began({"index": i, "pid": i, "url": f"u{i}/"} for i in range(containers))
        self.sent: list[Any] = []
        self.states: dict[str, bytes] = {}
        self.errors: dict[int, list[Exception]] = {}
        """What containers raise, one after the other."""
        self.events: list[Any] = []

    async def send(self, method, index, *args):
        await asyncio.sleep(0)
        if method == "take_states":
            self.states |= args[0]
            return None
        target, data, respawn, keys = args
        calls = MsgPack().decode(data)
        self.sent.append((asyncio.get_running_loop().time(), index, target, len(calls), respawn))
        if self.errors.get(index):
            raise self.errors[index].pop(0)
        made: list[Any] = []
        for (call, _), states in zip(calls, keys, strict=True):
            if call[0] == "bad":
                return made, "Traceback: it is bad", 1
            kept = [self.states.pop(key, b"-") for key in states]
            made.append((f"u{index}/{call[0]}", f"{target} {b''.join(kept).decode()}", ["0"]))
        return made, None, 1

    async def remake(self, formers):
        this: Any = self
        return await remake(this, self.roster, formers, RoundRobin(), self.events.append)


def former(name, target="m:A", *states):
    return Former(f"old/{name}", target, ([name], {}), list(states) or [None])


async def test_they_are_spread_over_all_that_runs():
    run = FakeRun()
    made = await run.remake([former("a"), former("b"), former("c")])
    assert made == {"old/a": "m:A - at u0/a", "old/b": "m:A - at u1/b", "old/c": "m:A - at u0/c"}
    assert run.events == []
    assert all(respawn for *_, respawn in run.sent)
    assert [info.respawned for info in run.roster.containers] == [2, 1]


async def test_they_have_their_states():
    run = FakeRun()
    first, third = former("a", "m:A", b"1", None, b"3"), former("c", "m:A", b"x")
    made = await run.remake([first, former("b"), third])
    assert list(made.values()) == ["m:A 1-3 at u0/a", "m:A - at u1/b", "m:A x at u0/c"]
    assert run.states == {}


async def test_each_kind_has_its_messages():
    run = FakeRun(1)
    made = await run.remake([former("a"), former("w", "m:W"), former("b")])
    assert list(made) == ["old/a", "old/b", "old/w"]
    assert [entry[2:4] for entry in run.sent] == [("m:A", 2), ("m:W", 1)]


async def test_none_is_no_message():
    run = FakeRun()
    assert await run.remake([]) == {}
    assert run.sent == []


async def test_a_container_that_is_lost_meanwhile_is_done_without():
    run = FakeRun()
    run.errors[1] = [ClusterError("its host is gone")]

    def lost():
        run.roster.lose([1])

    asyncio.get_running_loop().call_later(0.5, lost)
    made = await run.remake([former(name) for name in "abcd"])
    assert sorted(made) == ["old/a", "old/b", "old/c", "old/d"]
    assert made["old/b"] == "m:A - at u0/b"
    assert run.events == []
    # Not at once: that a host is lost is known to the roster only after a while.
    assert [entry[:2] for entry in run.sent] == [(0.0, 0), (0.0, 1), (1.0, 0)]


@pytest.mark.parametrize(
    "error", [ClusterError("its host is gone"), ContainerDied("Container 0 died", 0, -9)]
)
async def test_what_is_never_there_is_given_up(error):
    run = FakeRun(1)
    run.errors[0] = [error] * 10
    assert await run.remake([former("a"), former("b")]) == {}
    assert len(run.sent) == 3
    assert [event.kind for event in run.events] == [EventKind.AGENT_LOST] * 2
    message = f"Agent old/a (m:A) could not be made again: {error}"
    assert run.events[0].message == str(run.events[0].error) == message


async def test_where_nothing_runs_it_is_said_so():
    run = FakeRun(1)
    run.roster.lose([0])
    assert await run.remake([former("a")]) == {}
    [event] = run.events
    assert event.message.endswith("could not be made again: no container of this cluster runs")
    assert run.sent == []


async def test_something_may_run_again():
    run = FakeRun(1)
    run.roster.lose([0])

    def back():
        run.roster.expect([0], "n1")
        run.roster.began([{"index": 0, "pid": 1, "url": "u0/"}])

    asyncio.get_running_loop().call_later(1.5, back)
    assert list(await run.remake([former("a")])) == ["old/a"]
    assert run.events == []


async def test_one_that_fails_takes_no_other_with_it():
    run = FakeRun(1)
    formers = [former("bad"), *(former(str(number)) for number in range(20))]
    made = await run.remake(formers)
    assert list(made) == [f"old/{number}" for number in range(20)]
    [event] = run.events
    assert event.message.startswith("Agent old/bad (m:A) could not be made again: ")
    assert "it is bad" in event.message
    assert asyncio.get_running_loop().time() == 0  # its code will not be another one later


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4))
def test_each_one_is_made_once_or_told(good, containers):
    async def main():
        fake = FakeRun(containers)
        formers = [
            Former(f"old/{number}", "m:A", ([str(number) if is_good else "bad"], {}), [None])
            for number, is_good in enumerate(good)
        ]
        made = await fake.remake(formers)
        lost = [event.message.split()[1] for event in fake.events]
        assert sorted([*made, *lost]) == sorted(former.url for former in formers)
        assert set(made) == {f"old/{n}" for n, is_good in enumerate(good) if is_good}
        assert len(set(made.values())) == len(made)
        assert sum(info.agents for info in fake.roster.containers) == len(made)

    run(main())
