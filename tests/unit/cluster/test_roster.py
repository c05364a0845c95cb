"""What the driver knows of containers follows events; names belong to agents that are there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiomas._objects import AgentProxy
from aiomas.cluster.events import ClusterEvent, EventKind
from aiomas.cluster.roster import Roster
from aiomas.exceptions import ClusterError, ContainerDied


@pytest.fixture
def roster():
    """Two containers that run."""
    roster = Roster()
    assert roster.containers == []
    roster.expect([0], "node1")
    roster.expect([1], "localhost")
    assert [info.state for info in roster.containers] == ["starting"] * 2
    for index in range(2):
        roster.take(event(EventKind.STARTED, index, pid=100 + index))
    begun = [
        {"index": index, "pid": 100 + index, "url": f"tcp://host:{index}/"} for index in range(2)
    ]
    roster.began(begun)
    assert [(info.pid, info.url, info.host) for info in roster.containers] == [
        (100, "tcp://host:0/", "node1"),
        (101, "tcp://host:1/", "localhost"),
    ]
    return roster


def event(kind, index=None, **fields):
    if kind is EventKind.DIED:
        fields["error"] = ContainerDied(f"Container {index} died", index, -9)
    return ClusterEvent(kind=kind, message=f"{kind}", index=index, **fields)


def states(roster):
    return [info.state for info in roster.containers]


class TestStates:
    def test_they_follow_events(self, roster):
        seen = [states(roster)[0]]
        for kind in ("HUNG", "RECOVERED", "DIED", "RESTARTING", "RESTARTED", "DIED", "FAILED"):
            roster.take(event(EventKind[kind], 0, pid=200))
            seen.append(states(roster)[0])
        assert seen == [
            *("running", "hung", "running"),
            *("died", "restarting", "running", "died", "failed"),
        ]
        info = roster.containers[0]
        assert (info.pid, info.restarts, info.exit_code) == (200, 1, -9)
        assert [info.index for info in roster.running()] == [1]
        assert roster.summary() == "1 failed, 1 running"

    def test_agents_are_counted_again_when_their_container_died(self, roster):
        info = roster.containers[0]
        info.agents, info.respawned = 5, 2
        roster.take(event(EventKind.DIED, 0))
        assert (info.agents, info.respawned) == (2, 2)
        roster.take(event(EventKind.FAILED, 0))
        assert (info.agents, info.respawned) == (0, 0)

    def test_of_a_cluster_that_is_lost_none_runs(self, roster):
        roster.take(event(EventKind.FAILED, 0))
        roster.take(event(EventKind.LOST, error=ClusterError("gone")))
        assert states(roster) == ["failed", "died"]
        roster.take(event(EventKind.DIED, 1))  # that comes late, and is not what will happen
        roster.take(event(EventKind.RESTARTING, 1))
        assert states(roster) == ["failed", "died"]
        roster.end({})
        assert states(roster) == ["failed", "died"]

    def test_of_a_cluster_that_has_ended_all_are_stopped(self, roster):
        roster.take(event(EventKind.DIED, 0))
        roster.end({1: 0})
        assert [(info.state, info.exit_code) for info in roster.containers] == [
            ("died", -9),
            ("stopped", 0),
        ]


def give(roster, name, index, *, respawn=False, pid=None):
    """Give a name to an agent in a container; return its proxy."""
    channel: Any = None  # nobody calls it
    proxy = AgentProxy(channel, "0", "A", f"tcp://host:{index}/{name}")
    roster.claim(name)
    roster.give(name, proxy, index, pid or 100 + index, respawn=respawn)
    roster.release(name)
    return proxy


class TestNames:
    def test_an_agent_is_found_by_its_name(self, roster):
        market = give(roster, "market", 1)
        assert roster.find("market") is market
        with pytest.raises(LookupError, match=r"'x'; there are: \['market'\]"):
            roster.find("x")
        with pytest.raises(ValueError, match="'market' already"):
            roster.claim("market")

    def test_a_name_is_taken_while_its_agent_is_made(self, roster):
        roster.claim("market")
        with pytest.raises(ValueError, match="'market' already"):
            roster.claim("market")
        roster.release("market")
        roster.claim("market")

    @pytest.mark.parametrize("bad", [3, b"market", ("market",)], ids=repr)
    def test_a_name_is_a_string(self, roster, bad):
        with pytest.raises(TypeError, match="name must be a string"):
            roster.claim(bad)

    def test_agents_that_are_made_again_keep_theirs(self, roster):
        give(roster, "lost", 0)
        give(roster, "kept", 0, respawn=True)
        give(roster, "elsewhere", 1)
        roster.take(event(EventKind.DIED, 0, pid=100))
        with pytest.raises(LookupError, match="'lost' any more: its container ended"):
            roster.find("lost")
        assert roster.find("kept")
        roster.take(event(EventKind.FAILED, 0, pid=100))
        with pytest.raises(LookupError, match="'kept' any more: its container ended"):
            roster.find("kept")
        assert roster.find("elsewhere")

    def test_others_can_have_the_names_of_agents_that_are_gone(self, roster):
        give(roster, "market", 0)
        roster.take(event(EventKind.DIED, 0, pid=100))
        new = give(roster, "market", 1)
        assert roster.find("market") is new

    def test_an_agent_whose_process_died_before_it_had_its_name_is_not_found(self, roster):
        roster.take(event(EventKind.DIED, 0, pid=100))
        roster.take(event(EventKind.RESTARTED, 0, pid=102))
        give(roster, "lost", 0, pid=100)
        with pytest.raises(LookupError, match="'lost' any more: its container ended"):
            roster.find("lost")
        again = give(roster, "again", 0, pid=100, respawn=True)
        assert roster.find("again") is again
        new = give(roster, "lost", 0, pid=102)
        assert roster.find("lost") is new

    def test_an_agent_of_a_process_that_is_not_known_yet_is_found(self, roster):
        """A driver that was busy hears of a restart after it has spawned an agent there."""
        early = give(roster, "early", 0, pid=102)
        assert roster.find("early") is early

    def test_nothing_in_a_container_that_was_given_up_has_a_name(self, roster):
        roster.take(event(EventKind.DIED, 0, pid=100))
        roster.take(event(EventKind.FAILED, 0, pid=100))
        give(roster, "lost", 0, respawn=True)
        with pytest.raises(LookupError, match="'lost' any more"):
            roster.find("lost")

    def test_an_id_that_the_system_has_given_again_is_no_dead_one(self, roster):
        roster.take(event(EventKind.DIED, 0, pid=100))
        roster.take(event(EventKind.RESTARTED, 0, pid=100))
        assert give(roster, "market", 0, pid=100) is roster.find("market")


class TestSomeRunning:
    async def test_those_that_run_are_there_at_once(self, roster):
        assert [info.index for info in await roster.some_running()] == [0, 1]

    @pytest.mark.parametrize("how", ["began", "restarted", "kept"])
    async def test_it_is_waited_for_one(self, roster, how):
        roster.drain([1])
        roster.take(event(EventKind.DIED, 0, pid=100))
        waiting = asyncio.create_task(roster.some_running())
        for _ in range(5):
            await asyncio.sleep(0)
        roster.take(event(EventKind.RESTARTING, 0))
        await asyncio.sleep(0)
        assert not waiting.done()
        if how == "began":
            roster.began([{"index": 0, "pid": 5, "url": "tcp://host:0/"}])
        elif how == "restarted":
            roster.take(event(EventKind.RESTARTED, 0, pid=101))
        else:
            roster.keep([1])
        async with asyncio.timeout(1.0):
            [info] = await waiting
        assert info.index == (1 if how == "kept" else 0)


def test_one_that_drains_is_not_used_when_it_has_been_restarted(roster):
    roster.expect([0, 1], "h1")
    roster.began({"index": i, "pid": i + 1, "url": f"tcp://h1:{i}/"} for i in (0, 1))
    roster.containers[0].state = "restarting"
    roster.drain([0])
    restarted = ClusterEvent(kind=EventKind.RESTARTED, message="", index=0, pid=9)
    roster.take(restarted)
    assert [info.index for info in roster.running()] == [1]
    assert roster.containers[0].state == "draining"
    roster.keep([0])
    assert [info.index for info in roster.running()] == [0, 1]
    roster.drain([0])
    roster.expect([0], "h2")
    roster.take(restarted)
    assert roster.containers[0].state == "running"
