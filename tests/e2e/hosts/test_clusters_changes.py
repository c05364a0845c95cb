"""Hosts and containers come and go while agents call each other; and an example over all hosts."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from aiomas.agent import url_of
from aiomas.cluster import EventKind
from aiomas.exceptions import AiomasError
from examples.virtual_power_plant.main import negotiate
from examples.virtual_power_plant.plant import Plant
from examples.virtual_power_plant.progress import display
from tests.e2e.hosts.agents import Worker
from tests.e2e.hosts.clusters import HostEvents, containers_on, gone_from, over, spec
from tests.e2e.hosts.lab import Lab

pytestmark = pytest.mark.timeout(120)


async def test_twelve_containers_over_three_hosts_negotiate_for_a_power_plant(lab: Lab) -> None:
    plant = Plant.make(60, 1, "winter")
    cluster = over(lab, 12)
    with display(0.0) as screen:
        report = await negotiate(plant, cluster, screen)
    assert report.hosts == ["h1"] * 4 + ["h2"] * 4 + ["h3"] * 4
    assert report.outcome.improvement > 0.8
    assert report.outcome.before == plant.uncontrolled
    assert report.messages > 60
    assert {info.url.partition(":")[0] for info in cluster.containers} == {"tcp"}
    assert [info.exit_code for info in cluster.containers] == [0] * 12
    await gone_from(*lab.hosts, within=0)


async def test_a_host_joins_and_another_leaves_while_agents_call_each_other(lab: Lab) -> None:
    h1, h2, h3 = lab.hosts
    async with over(lab, 4, hosts=[spec(h1), spec(h2)]) as cluster:
        events = HostEvents(cluster)
        talking = await cluster.spawn_many(Worker, 4, placement="h1")
        for agent in talking:
            await agent.talk([other for other in talking if other is not agent])
        quiet = await cluster.spawn_many(Worker, [(n,) for n in range(4)], respawn=True)
        for agent in quiet:
            await agent.add()

        await cluster.add_host(spec(h3, 2))
        assert containers_on(cluster, h3) == [4, 5]
        assert (await events.get(EventKind.HOST_JOINED, "h3")).message.endswith("2 containers")
        there = await cluster.spawn(Worker, placement="h3")
        assert (await quiet[0].ask(there))[0] == "h3"
        assert (await there.ask(quiet[3]))[0] == "h2"
        with pytest.raises(ValueError, match="'h3' is in this cluster already"):
            await cluster.add_host(spec(h3))

        answers = [1]

        async def call() -> None:
            while True:
                answers.append(await quiet[2].add())

        calling = asyncio.create_task(call())
        await cluster.remove_host("h2", drain=True)
        await gone_from(h2, within=0)
        with pytest.raises((AiomasError, ConnectionError)):
            await calling
        moved = (await events.get(EventKind.RESPAWNED, "h2")).moved
        assert sorted(moved) == sorted(url_of(agent) for agent in quiet[2:])
        for agent, number in ((quiet[2], answers[-1]), (quiet[3], 1)):
            new = await cluster.container.connect(moved[url_of(agent)])
            assert await new.add() == number + 1, "a call that was answered is lost"
            assert (await new.where())[0] in {"h1", "h3"}
            with pytest.raises(ConnectionError):
                await agent.add()
        assert {info.name: info.state for info in cluster.hosts} == {
            "h1": "running",
            "h2": "left",
            "h3": "running",
        }
        assert events.kinds() == ["host joined", "host left", "respawned"]

        await cluster.add_host(spec(h2, 1))
        again = await cluster.spawn(Worker, placement="h2")
        assert (await quiet[0].ask(again))[0] == "h2"
        talked = list(itertools.chain(*[await agent.hush() for agent in talking]))
        assert len(talked) > 100
        assert {error for _, _, error in talked} == {""}
    await gone_from(*lab.hosts, within=0)


async def test_containers_come_and_go_where_there_are_few_and_many(lab: Lab) -> None:
    async with over(lab, 3) as cluster:
        events = HostEvents(cluster)
        talking = await cluster.spawn_many(Worker, 3)
        for agent in talking:
            await agent.talk([other for other in talking if other is not agent])
        await cluster.scale(7)
        assert len({info.url for info in cluster.containers}) == 7
        counts = [len(containers_on(cluster, host)) for host in lab.hosts]
        assert (sum(counts), min(counts), max(counts)) == (7, 2, 3)
        agents = await cluster.spawn_many(
            Worker, [(n,) for n in range(7)], respawn=True, placement="least-loaded"
        )
        found = await asyncio.gather(*(talking[0].ask(agent) for agent in agents))
        assert {host for host, _ in found} == {"h1", "h2", "h3"}
        await cluster.map("add", agents)
        await cluster.scale(3)
        running = [info.index for info in cluster.containers if info.state == "running"]
        assert running == [0, 1, 2]
        moved: dict[str, str] = {}
        for event in events.all:
            assert not set(moved.values()) & set(event.moved), "it was made again more than once"
            moved |= event.moved
        assert len(moved) == 4
        urls = [moved.get(url_of(agent), url_of(agent)) for agent in agents]
        connecting = (cluster.container.connect(url) for url in urls)
        agents = list(await asyncio.gather(*connecting))
        assert await cluster.map("add", agents) == [2] * 7
        assert [number for _, _, number in await cluster.map("where", agents)] == [*range(7)]
        # What is on each host: a supervisor, a fork server and a container.
        await gone_beyond(lab, 3)
        talked = list(itertools.chain(*[await agent.hush() for agent in talking]))
        assert {error for _, _, error in talked} == {""}
    await gone_from(*lab.hosts, within=0)


async def gone_beyond(lab: Lab, number: int) -> None:
    """Make sure that each host has so many processes."""
    assert [len(host.processes()) for host in lab.hosts] == [number] * len(lab.hosts)
