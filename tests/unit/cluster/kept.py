"""A keeper of hosts that are none, and what was asked of them."""

from __future__ import annotations

import asyncio
from typing import Any

from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.keeper import Keeper
from aiomas.cluster.roster import Roster
from aiomas.codecs import MsgPack
from tests.unit.cluster.fake_hosts import SPEC, FakeProxy, World

N1, N2, N3 = HostSpec("n1"), HostSpec("n2"), HostSpec("n3")
LEASE = 30.0
STOP = 2.0  # seconds that containers have to end

UNREACHABLE = ConnectionRefusedError("no route to host")


class FakeRun:
    """A cluster that runs."""

    def __init__(self, world, fleet):
        self.fleet, self.container, self.sign = fleet, world.container, world.sign
        self.spec = SPEC


class Kept(World):
    """Hosts that are kept, with agents on them."""

    async def begin(self, *hosts, containers=None, **policy):
        self.the_fleet = fleet = self.fleet(*hosts, lease=LEASE, **policy)
        self.roster = Roster()
        begun = await self.started(fleet, containers)
        for member in fleet.members:
            self.roster.expect(member.info.containers, member.name)
        self.roster.began(begun)
        self.events: list[Any] = []
        self.moved: list[Any] = []
        run: Any = FakeRun(self, fleet)
        self.run = run
        self.keeper = Keeper(run, self.roster, self.tell, self.remake)
        fleet._on_lost = self.keeper.lost
        self.keeper.begin()
        self.journal.clear()

    def tell(self, event):
        self.events.append(event)
        self.journal.append(("event", event.kind, event.host, self.now()))

    async def remake(self, formers, took):
        urls = [former.url for former in formers]
        self.journal.append(("remake", self.now(), urls))
        await asyncio.sleep(0)
        place = self.roster.running()[0].url
        made = {url: FakeProxy(f"{place}{n}") for n, url in enumerate(urls) if "bad" not in url}
        if made:
            took(made)

    def agents(self, label, index, *aids, name=None):
        """Let there be agents that are made again."""
        member = self.the_fleet.named(label)
        records = member.control.archive.of(index)
        with records.adding():
            arguments = MsgPack().encode([((), {}) for _ in aids])
            records.add("m:A", arguments, [(aid, [aid]) for aid in aids])
        url = self.roster.containers[index].url
        if name is not None:
            self.roster.claim(name)
            self.roster.give(name, FakeProxy(url + aids[0]), index, 0, respawn=True)
            self.roster.release(name)
        return [url + aid for aid in aids]

    def kinds(self):
        return [(event.kind, event.host) for event in self.events]

    def states(self):
        return {info.index: (info.state, info.host) for info in self.roster.containers}

    def host_states(self):
        return {member.name: member.info.state for member in self.the_fleet.members}
