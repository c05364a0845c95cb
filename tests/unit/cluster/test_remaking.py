"""Agents are made again wherever containers run, and for each that is not it is said why."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomas.cluster import remaking as remaking_module
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


LEASE = 30.0


class FakeMember:
    """A host whose containers make all agents but those whose argument is "bad"."""

    def __init__(self, world):
        self.world = world
        self.control: Any = self
        self.is_open = True

    async def spawn(self, index, target, data, respawn, states):
        await asyncio.sleep(0)
        calls = MsgPack().decode(data)
        world = self.world
        world.sent.append((world.now(), index, target, len(calls), respawn))
        made: list[Any] = []
        for (call, _), theirs in zip(calls, states, strict=True):
            if call[0] == "bad":
                return made, "Traceback: it is bad", 1
            kept = b"".join(b"-" if state is None else state for state in theirs)
            made.append((f"u{index}/{call[0]}", f"{target} {kept.decode()}", ["0"]))
        action = world.at.get(index)
        if callable(action):
            await action()
        elif action:
            raise action.pop(0)
        return made, None, 1


class FakeRun:
    """Containers, each on a host of its own."""

    def __init__(self, containers=2):
        self.now = asyncio.get_running_loop().time
        self.container = FakeContainer()
        self.fleet = self
        self.members = [FakeMember(self) for _ in range(containers)]
        self.roster = Roster()
        self.roster.expect(range(containers), "n1")
        self.began(*range(containers))
        self.sent: list[Any] = []
        self.at: dict[int, Any] = {}
        """What containers do when they have made agents: errors that they raise, one after the
        other, or a coroutine function."""
        self.events: list[Any] = []
        self.told: list[dict[str, Any]] = []

    def began(self, *indices):
        self.roster.began({"index": i, "pid": i, "url": f"u{i}/"} for i in indices)

    def of(self, index):
        return self.members[index]

    def fenced_at(self, member):
        return LEASE

    def lose(self, index):
        self.members[index].is_open = False
        self.roster.lose([index])

    async def remake(self, formers):
        this: Any = self
        told = self.events.append, self.told.append
        await remake(this, self.roster, formers, RoundRobin(), *told)
        return self.made

    @property
    def made(self):
        return {url: proxy for made in self.told for url, proxy in made.items()}


@pytest.fixture(autouse=True)
def now(monkeypatch):
    monkeypatch.setattr(remaking_module, "now", lambda: asyncio.get_running_loop().time())


def former(name, target="m:A", *states):
    return Former(f"old/{name}", target, ([name], {}), list(states) or [None])


async def test_they_are_spread_over_all_that_runs():
    run = FakeRun()
    made = await run.remake([former("a"), former("b"), former("c")])
    assert made == {"old/a": "m:A - at u0/a", "old/b": "m:A - at u1/b", "old/c": "m:A - at u0/c"}
    assert run.events == []
    assert len(run.told) == 1
    assert all(respawn for *_, respawn in run.sent)
    assert [info.respawned for info in run.roster.containers] == [2, 1]


async def test_they_have_their_states():
    run = FakeRun()
    first, third = former("a", "m:A", b"1", None, b"3"), former("c", "m:A", b"x")
    made = await run.remake([first, former("b"), third])
    assert made == {
        "old/a": "m:A 1-3 at u0/a",
        "old/b": "m:A - at u1/b",
        "old/c": "m:A x at u0/c",
    }


async def test_each_kind_has_its_messages():
    run = FakeRun(1)
    made = await run.remake([former("a"), former("w", "m:W"), former("b")])
    assert list(made) == ["old/a", "old/b", "old/w"]
    assert [entry[2:4] for entry in run.sent] == [("m:A", 2), ("m:W", 1)]


async def test_none_is_no_message():
    run = FakeRun()
    assert await run.remake([]) == {}
    assert run.sent == []


class TestNotTwice:
    async def test_a_host_that_is_lost_meanwhile_has_its_lease_to_end_them(self):
        run = FakeRun()

        async def lose():
            run.lose(1)
            raise ClusterError("its host is gone")

        run.at[1] = lose
        made = await run.remake([former(name) for name in "abcd"])
        assert sorted(made) == ["old/a", "old/b", "old/c", "old/d"]
        assert made["old/b"] == "m:A - at u0/b"
        assert run.events == []
        assert [entry[:2] for entry in run.sent] == [(0.0, 0), (0.0, 1), (LEASE, 0)]
        # The others do not wait for that.
        assert list(run.told[0]) == ["old/a", "old/c"]

    async def test_a_container_that_hangs_is_waited_for(self):
        run = FakeRun()

        async def hang():
            await asyncio.sleep(500.0)

        run.at[1] = hang
        making = asyncio.create_task(run.remake([former("a"), former("b"), former("w", "m:W")]))
        await asyncio.sleep(400.0)
        assert list(run.made) == ["old/a", "old/w"]
        await making
        assert run.told[-1] == {"old/b": "m:A - at u1/b"}
        assert [entry[:2] for entry in run.sent] == [(0.0, 0), (0.0, 1), (0.0, 0)]
        assert run.events == []

    async def test_where_it_is_not_known_there_is_no_other_attempt(self):
        run = FakeRun()
        run.at[1] = [ClusterError("a bug")]
        made = await run.remake([former(name) for name in "abcd"])
        assert list(made) == ["old/a", "old/c"]
        messages = [event.message for event in run.events]
        assert messages == [
            f"Agent old/{name} (m:A) may or may not have been made again: a bug" for name in "bd"
        ]
        assert {event.kind for event in run.events} == {EventKind.AGENT_LOST}
        assert len(run.sent) == 2

    async def test_a_container_that_has_died_leaves_nothing(self):
        run = FakeRun()
        run.at[1] = [ContainerDied("Container 1 died", 1, -9)]

        asyncio.get_running_loop().call_later(0.5, lambda: run.roster.lose([1]))
        made = await run.remake([former("a"), former("b"), former("w", "m:W"), former("v", "m:V")])
        assert sorted(made) == ["old/a", "old/b", "old/v", "old/w"]
        assert run.events == []
        # Not at once: that others have died with it is known to the roster only after a while.
        assert {entry[:2] for entry in run.sent} == {(0.0, 0), (0.0, 1), (1.0, 0)}

    async def test_not_every_container_is_to_die_of_an_agent(self):
        run = FakeRun(1)
        error = ContainerDied("Container 0 died", 0, -9)
        run.at[0] = [error] * 10
        assert await run.remake([former("a"), former("b")]) == {}
        assert len(run.sent) == 3
        assert [event.kind for event in run.events] == [EventKind.AGENT_LOST] * 2
        message = f"Agent old/a (m:A) could not be made again: {error}"
        assert run.events[0].message == str(run.events[0].error) == message


class TestWhereNothingRuns:
    async def test_they_wait_until_something_does(self, caplog):
        run = FakeRun(1)
        run.lose(0)
        making = asyncio.create_task(run.remake([former("a"), former("b")]))
        await asyncio.sleep(10_000.0)
        [record] = caplog.records
        assert record.getMessage() == (
            "No container of this cluster runs: 2 agent(s) wait until they can be made again"
        )
        assert run.events == run.sent == []
        run.members[0].is_open = True
        run.roster.expect([0], "n1")
        run.began(0)
        await making
        assert list(run.made) == ["old/a", "old/b"]
        assert run.events == []

    async def test_so_do_those_of_the_last_host_that_is_lost(self, caplog):
        run = FakeRun(1)

        async def lose():
            run.lose(0)
            raise ClusterError("its host is gone")

        run.at[0] = lose
        making = asyncio.create_task(run.remake([former("a")]))
        await asyncio.sleep(1000.0)
        del run.at[0]
        run.members[0].is_open = True
        run.roster.expect([0], "n1")
        run.began(0)
        await making
        assert list(run.made) == ["old/a"]
        assert "1 agent(s) wait" in caplog.text

    async def test_whoever_cancels_it_is_obeyed(self, caplog):
        run = FakeRun(1)
        run.lose(0)
        before = asyncio.all_tasks()
        making = asyncio.create_task(run.remake([former("a")]))
        await asyncio.sleep(10.0)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        assert asyncio.all_tasks() == before


async def test_one_that_fails_takes_no_other_with_it():
    run = FakeRun(1)
    formers = [former("bad"), *(former(str(number)) for number in range(20))]
    made = await run.remake(formers)
    assert sorted(made) == sorted(f"old/{number}" for number in range(20))
    [event] = run.events
    assert event.message.startswith("Agent old/bad (m:A) could not be made again: ")
    assert "it is bad" in event.message
    assert asyncio.get_running_loop().time() == 0  # its code will not be another one later


async def test_many_that_fail_are_not_sent_again_and_again():
    run = FakeRun(1)
    formers = [Former(f"old/{n}", "m:A", (["bad"], {}), [None]) for n in range(500)]
    assert await run.remake(formers) == {}
    assert len(run.events) == 500
    assert sum(count for _, _, _, count, _ in run.sent) < 500 * 10


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
