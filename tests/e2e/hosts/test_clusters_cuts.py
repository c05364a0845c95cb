"""A cluster whose network is cut in mid-run: what events say, what callers get and when."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest

from aiomas import Limits
from aiomas.agent import url_of
from aiomas.cluster import Cluster, EventKind
from aiomas.cluster.policy import FENCE
from aiomas.exceptions import ConnectionLost, DeadlineExceeded
from aiomas.rpc import with_options
from tests.e2e.clusters import until
from tests.e2e.hosts.agents import Beating, Worker
from tests.e2e.hosts.clusters import (
    BOUND,
    HEARTBEAT,
    LEASE,
    HostEvents,
    containers_on,
    gone_from,
    outcomes,
    over,
)
from tests.e2e.hosts.lab import Lab, LabHost

pytestmark = pytest.mark.timeout(120)

SILENCE = 3 * HEARTBEAT
"""Seconds after which these clusters take a host for lost."""
LATE = 3.0
"""Seconds that something may come late on a busy machine."""


async def everywhere(cluster: Cluster, agent: type = Worker, **options: Any) -> list[Any]:
    """Make one agent in each container, in their order."""
    numbers = range(len(cluster.containers))
    return [await cluster.spawn(agent, n, placement=n, **options) for n in numbers]


async def all_talk(agents: list[Any]) -> None:
    """Let each of some agents call each other one all the time."""
    for agent in agents:
        await agent.talk([other for other in agents if other is not agent])


def beats(lab: Lab, number: int) -> dict[str, list[float]]:
    """Return when an agent has lived, by the names of the hosts."""
    found = {}
    for host in lab.hosts:
        path = host.path(f"/tmp/beats-{number}")
        if path.exists():
            # The last line may be incomplete: its process was killed, or writes it now.
            found[host.name] = [float(line) for line in path.read_text().split("\n")[:-1]]
    return found


def lost_host(cluster: Cluster, events: HostEvents, host: LabHost) -> None:
    """Make sure that a host is lost, and that everybody can see that and why."""
    [info] = [info for info in cluster.hosts if info.name == host.name]
    assert info.state == "lost"
    assert "silent" in str(info.problem)
    states = {cluster.containers[index].state for index in info.containers}
    assert states == {"lost"}
    assert events.kinds(host.name)[0] == EventKind.HOST_LOST


async def test_a_cut_shorter_than_three_heartbeats_is_only_noticed_by_its_delay(lab: Lab) -> None:
    h2 = lab.hosts[1]
    async with over(lab, heartbeat=2.0, lease=30.0) as cluster:
        events = HostEvents(cluster)
        agents = await everywhere(cluster)
        await all_talk(agents)
        there = [agents[index] for index in containers_on(cluster, h2)]
        h2.cut()
        cut = time.monotonic()
        calls = asyncio.create_task(outcomes(agent.where() for agent in there))
        await asyncio.sleep(2.0)
        assert not calls.done()
        h2.heal()
        found, seconds = await calls
        assert [host for host, *_ in found] == ["h2", "h2"]
        assert seconds > 2.0
        talked = list(itertools.chain(*[await agent.hush() for agent in agents]))
        assert {error for _, _, error in talked} == {""}
        assert sum(end - start > 1.5 for start, end, _ in talked if start < cut + 0.5 < end) >= 4
        assert events.kinds() == []
        assert {info.incarnation for info in cluster.hosts} == {0}
    await gone_from(*lab.hosts, within=0)


async def test_a_host_that_is_back_before_its_lease_is_over_ends_and_joins_anew(lab: Lab) -> None:
    h1, h2, h3 = lab.hosts
    async with over(lab, lease=8.0) as cluster:
        events = HostEvents(cluster)
        agents = await everywhere(cluster)
        await all_talk(agents)
        theirs = containers_on(cluster, h2)
        former = {inside.pid for inside in h2.processes()}
        h2.cut()
        cut = time.monotonic()
        found, _ = await outcomes(agents[index].where() for index in theirs)
        failed = time.monotonic() - cut
        assert [type(error) for error in found] == [ConnectionLost] * 2
        assert all("The host of tcp://" in str(error) for error in found)
        assert SILENCE - HEARTBEAT < failed < SILENCE + LATE
        lost_host(cluster, events, h2)
        # Those who are left have nothing to wait for, and call each other as before.
        found, seconds = await outcomes(agents[index].where() for index in theirs)
        assert [type(error) for error in found] == [ConnectionLost] * 2
        assert seconds < 1.0
        await asyncio.sleep(max(0.0, cut + 3.5 - time.monotonic()))
        assert {inside.pid for inside in h2.processes()} == former, "its lease is not over yet"
        h2.heal()
        left = cut + 8.0 + LATE - time.monotonic()
        await until(lambda: not former & {inside.pid for inside in h2.processes()}, left)
        await events.get(EventKind.HOST_JOINED, "h2")
        [info] = [info for info in cluster.hosts if info.name == "h2"]
        assert (info.state, info.incarnation, info.containers) == ("running", 1, theirs)
        assert events.kinds() == ["host lost", "host joined"]
        # The agents there are gone for good; others can be made, and all call them.
        new = await cluster.spawn(Worker, 9, placement="h2")
        assert await agents[0].ask(new) == ("h2", pytest.approx(0, abs=LATE))
        survivors = [agents[i] for i in (*containers_on(cluster, h1), *containers_on(cluster, h3))]
        for agent in survivors:
            talked = await agent.hush()
            failures = {error for start, _, error in talked if error}
            assert failures <= {"ConnectionLost", "RequestNotSent", "AgentNotFound"}
            last = [error for start, _, error in talked if start > cut + SILENCE + LATE]
            assert last.count("") > 10, "those who are left go on with each other"
    await gone_from(*lab.hosts, within=0)


async def test_agents_are_made_again_elsewhere_after_all_of_their_host_has_ended(lab: Lab) -> None:
    h2 = lab.hosts[1]
    async with over(lab, on_host_loss="respawn") as cluster:
        events = HostEvents(cluster)
        agents = await everywhere(cluster, Beating, respawn=True)
        theirs = containers_on(cluster, h2)
        for agent in agents:
            for _ in range(agents.index(agent) + 1):
                await agent.add()
        await cluster.checkpoint()
        await agents[theirs[0]].add()  # after the last checkpoint, so this one is forgotten
        h2.cut()
        cut = time.monotonic()
        await events.get(EventKind.HOST_LOST, "h2")
        assert h2.processes()
        # Nobody can tell it anything: it ends by itself when its lease is over.
        await gone_from(h2, within=LEASE + LATE)
        assert time.monotonic() - cut > LEASE - HEARTBEAT - 0.1
        assert "respawned" not in events.kinds()
        event = await events.get(EventKind.RESPAWNED, "h2")
        assert len(event.moved) == 2
        assert event.message == "2 of 2 agents of host h2 were made again"
        for index in theirs:
            new = await cluster.container.connect(event.moved[url_of(agents[index])])
            host, _, number = await new.where()
            assert (host in {"h1", "h3"}, number) == (True, index)
            assert await new.add() == index + 2
            lives = beats(lab, index)
            assert sorted(lives) == sorted({"h2", host})
            assert lives["h2"][-1] < lives[host][0], "it has lived twice at once"
            # It was there until the lease was over, and not again before nobody could be there.
            assert lives["h2"][-1] - cut > LEASE - HEARTBEAT - 0.1
            assert lives[host][0] - cut > LEASE + FENCE - HEARTBEAT - 0.1
        h2.heal()
        await events.get(EventKind.HOST_JOINED, "h2")
        assert events.kinds() == ["host lost", "respawned", "host joined"]
        assert {info.incarnation for info in cluster.hosts} == {0, 1}
        found = await cluster.map("where", [*agents[:2], *agents[4:]])
        assert [number for _, _, number in found] == [0, 1, 4, 5]
    await gone_from(*lab.hosts, within=0)


async def test_two_hosts_that_cannot_reach_each_other_are_not_lost(lab: Lab) -> None:
    h1, h2, _ = lab.hosts
    limits = Limits(heartbeat=0.5, write_timeout=None)
    async with over(lab, limits=limits) as cluster:
        events = HostEvents(cluster)
        a, b, c = [await cluster.spawn(Worker, placement=host.name) for host in lab.hosts]
        assert [(await x.ask(y))[0] for x, y in ((a, b), (b, a))] == ["h2", "h1"]
        lab.drop(h1, h2)
        (first, took), (second, also) = await asyncio.gather(a.ask(b), b.ask(a))
        assert {first, second} <= {"PeerUnresponsive", "ConnectionLost"}
        assert max(took, also) < 3 * 0.5 + LATE
        found, seconds = await a.ask(b, 1.0)  # there is no connection now, and none can be made
        assert (found, seconds) == ("DeadlineExceeded", pytest.approx(1.0, abs=LATE))
        asked = [a.ask(c), c.ask(a), b.ask(c), c.ask(b)]
        assert [host for host, _ in await asyncio.gather(*asked)] == ["h3", "h1", "h3", "h2"]
        assert [host for host, *_ in await cluster.map("where", [a, b, c])] == ["h1", "h2", "h3"]
        lab.undrop(h1, h2)
        async with asyncio.timeout(BOUND):
            while (await a.ask(b, 5.0))[0] != "h2":
                pass
        assert events.kinds() == []
    await gone_from(*lab.hosts, within=0)


@pytest.mark.parametrize("to_driver", [False, True], ids=["driver to host", "host to driver"])
async def test_a_host_that_is_heard_but_does_not_hear_is_lost_and_so_is_the_reverse(
    lab: Lab, to_driver: bool
) -> None:
    h1, h2, _ = lab.hosts
    async with over(lab) as cluster:
        events = HostEvents(cluster)
        agents = await everywhere(cluster)
        near, far = (agents[containers_on(cluster, host)[0]] for host in (h1, h2))
        assert (await near.ask(far))[0] == "h2"
        lab.drop(*((h2, None) if to_driver else (None, h2)), one_way=True)
        cut = time.monotonic()
        with pytest.raises(ConnectionLost):
            await far.where()
        await events.get(EventKind.HOST_LOST, "h2")
        assert time.monotonic() - cut < SILENCE + LATE
        lost_host(cluster, events, h2)
        # The way between the hosts is good; but who is lost is nobody's peer any more.
        async with asyncio.timeout(LATE):
            while (answer := (await near.ask(far))[0]) == "h2":
                pass  # it is about to be told
        assert answer == "ConnectionLost"
        # The old one hears from others, or by the end of its lease, that it has to end.
        await gone_from(h2, within=LEASE + LATE)
        lab.undrop(h2, None)
        await events.get(EventKind.HOST_JOINED, "h2")
        new = await cluster.spawn(Worker, placement="h2")
        assert (await near.ask(new))[0] == "h2"
    await gone_from(*lab.hosts, within=0)


async def test_calls_without_a_way_back_end_with_their_timeout(lab: Lab) -> None:
    h1, h2, _ = lab.hosts
    async with over(lab) as cluster:
        events = HostEvents(cluster)
        a, b = [await cluster.spawn(Worker, placement=host.name) for host in (h1, h2)]
        assert (await a.ask(b))[0] == "h2"
        lab.drop(h2, h1, one_way=True)
        assert (await a.ask(b, 1.0))[0] == "DeadlineExceeded"
        with pytest.raises(DeadlineExceeded):
            await with_options(a.ask, timeout=1.0)(b)
        lab.undrop(h1, h2)
        assert (await a.ask(b, BOUND))[0] == "h2"
        assert events.kinds() == []
    await gone_from(*lab.hosts, within=0)
