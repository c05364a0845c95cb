"""A host crashes, ssh or the driver is killed, a supervisor is stopped: what is left, and when."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from aiomas.agent import url_of
from aiomas.cluster import EventKind
from aiomas.exceptions import ConnectionLost
from tests.e2e.clusters import until
from tests.e2e.driver_process import Drive, DriverProcess, base, drive  # noqa: F401 - fixtures
from tests.e2e.hosts.agents import Worker
from tests.e2e.hosts.clusters import (
    ENDED_WITHIN,
    HEARTBEAT,
    LEASE,
    HostEvents,
    containers_on,
    gone_from,
    outcomes,
    over,
    ssh_to,
    supervisor_on,
)
from tests.e2e.hosts.lab import Lab

pytestmark = pytest.mark.timeout(120)

DRIVER = str(Path(__file__).with_name("driver.py"))
SILENCE = 3 * HEARTBEAT
LATE = 3.0
"""Seconds that something may come late on a busy machine."""


async def test_a_host_that_crashes_is_lost_and_joins_when_it_is_up_again(lab: Lab) -> None:
    h2 = lab.hosts[1]
    async with over(lab, on_host_loss="respawn") as cluster:
        events = HostEvents(cluster)
        agents = await cluster.spawn_many(Worker, [(n,) for n in range(6)], respawn=True)
        theirs = [agents[index] for index in containers_on(cluster, h2)]
        for agent in agents:
            await agent.add()
        await cluster.checkpoint()
        h2.crash()
        crashed = time.monotonic()
        found, seconds = await outcomes(agent.add() for agent in theirs)
        assert [type(error) for error in found] == [ConnectionLost] * 2
        assert seconds < SILENCE + LATE
        lost = await events.get(EventKind.HOST_LOST, "h2")
        assert lost.message == "Host h2 is lost: the supervisor there has been silent for 1.5 s"
        assert events.time(EventKind.HOST_LOST, "h2") - crashed < SILENCE + LATE
        moved = (await events.get(EventKind.RESPAWNED, "h2")).moved
        assert sorted(moved) == sorted(map(url_of, theirs))
        new = [await cluster.container.connect(url) for url in moved.values()]
        assert [await agent.add() for agent in new] == [2, 2]
        assert {(await agent.where())[0] for agent in new} <= {"h1", "h3"}
        h2.boot()
        await events.get(EventKind.HOST_JOINED, "h2")
        assert events.kinds() == ["host lost", "respawned", "host joined"]
        there = await cluster.spawn(Worker, placement="h2")
        assert (await new[0].ask(there))[0] == "h2"
    await gone_from(*lab.hosts, within=0)


async def test_who_is_reached_by_an_ssh_that_was_killed_is_lost_at_once(lab: Lab) -> None:
    h2 = lab.hosts[1]
    async with over(lab) as cluster:
        events = HostEvents(cluster)
        agents = await cluster.spawn_many(Worker, [(n,) for n in range(6)])
        there = agents[containers_on(cluster, h2)[0]]
        former = {inside.pid for inside in h2.processes()}
        ssh_to(h2).kill()
        killed = time.monotonic()
        lost = await events.get(EventKind.HOST_LOST, "h2")
        assert time.monotonic() - killed < 1.0 + LATE
        assert "was killed by SIGKILL" in lost.message
        with pytest.raises(ConnectionLost):
            await there.add()
        await until(lambda: not former & {i.pid for i in h2.processes()}, ENDED_WITHIN)
        await events.get(EventKind.HOST_JOINED, "h2")
        assert events.kinds() == ["host lost", "host joined"]
        [info] = [info for info in cluster.hosts if info.name == "h2"]
        assert (info.state, info.incarnation) == ("running", 1)
    await gone_from(*lab.hosts, within=0)


async def test_a_supervisor_that_was_stopped_ends_as_soon_as_it_goes_on(lab: Lab) -> None:
    h1, h2, _ = lab.hosts
    async with over(lab) as cluster:
        events = HostEvents(cluster)
        agents = await cluster.spawn_many(Worker, [(n,) for n in range(6)])
        for agent in agents:
            await agent.talk([other for other in agents if other is not agent])
        former = {inside.pid for inside in h2.processes()}
        supervisor = supervisor_on(h2)
        os.kill(supervisor, signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            await events.get(EventKind.HOST_LOST, "h2")
            assert time.monotonic() - stopped < SILENCE + LATE
            await events.get(EventKind.HOST_JOINED, "h2")
            # The new containers there are others: the old ones are refused by everybody.
            new = await cluster.spawn(Worker, placement="h2")
            assert (await agents[containers_on(cluster, h1)[0]].ask(new))[0] == "h2"
            assert supervisor in {inside.pid for inside in h2.processes()}
        finally:
            os.kill(supervisor, signal.SIGCONT)
        await until(lambda: not former & {i.pid for i in h2.processes()}, ENDED_WITHIN)
        assert events.kinds() == ["host lost", "host joined"]
    await gone_from(*lab.hosts, within=0)


def started(lab: Lab, drive: Drive) -> DriverProcess:  # noqa: F811 - imported as a fixture
    """Return a driver of a cluster over all hosts whose agents call each other."""
    config = str(lab.folder / "ssh_config")
    driver = drive.interpreter(DRIVER, config, *(host.name for host in lab.hosts))  # type: ignore[attr-defined]
    driver.expect("ready")
    assert all(len(host.processes()) == 4 for host in lab.hosts)
    return driver


async def test_nothing_is_left_on_any_host_when_the_driver_is_killed(
    lab: Lab,
    drive: Drive,  # noqa: F811
) -> None:
    driver = started(lab, drive)
    driver.process.kill()
    await gone_from(*lab.hosts)
    driver.wait_until_gone()


async def test_a_host_that_cannot_hear_of_the_end_of_the_driver_ends_after_its_lease(
    lab: Lab,
    drive: Drive,  # noqa: F811
) -> None:
    h1, h2, h3 = lab.hosts
    driver = started(lab, drive)
    h2.cut()
    cut = time.monotonic()
    driver.process.kill()
    await gone_from(h1, h3)
    assert h2.processes(), "it was told by somebody"
    await gone_from(h2, within=LEASE + ENDED_WITHIN)
    assert time.monotonic() - cut > LEASE - HEARTBEAT - 0.1
    driver.wait_until_gone()


async def test_a_driver_that_is_stopped_for_longer_than_the_lease_has_lost_its_hosts(
    lab: Lab,
    drive: Drive,  # noqa: F811
) -> None:
    driver = started(lab, drive)
    process = psutil.Process(driver.pid)
    process.suspend()
    try:
        await gone_from(*lab.hosts, within=LEASE + ENDED_WITHIN)
    finally:
        process.kill()
    driver.wait_until_gone()
