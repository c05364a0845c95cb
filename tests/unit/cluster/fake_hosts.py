"""Hosts that are none: what a driver asks of their supervisors is written down, in its order."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

from aiomas._objects import AgentProxy
from aiomas.cluster.archive import Archive
from aiomas.cluster.fleet import Fleet, Run
from aiomas.cluster.launchers.base import Launcher
from aiomas.cluster.policy import HostPolicy
from aiomas.cluster.spec import ClusterSpec
from aiomas.codecs import MsgPack
from aiomas.exceptions import ClusterError

SPEC = ClusterSpec(containers=1, loop="asyncio", transport="tls", start_timeout=20.0)


class FakeThread:
    """The control thread, in the loop of the test."""

    async def run(self, coro):
        return await coro


class FakeLauncher(Launcher):
    """Allocates what it is told to, and writes down what is given back."""

    def __init__(self, world):
        self.world = world
        self.chosen: list[Any] = []
        """What it finds, one after the other: lists of hosts, or errors."""

    async def allocate(self, hosts, containers, timeout):
        self.world.journal.append(("allocate", [host.label for host in hosts], containers))
        found = self.chosen.pop(0) if self.chosen else list(hosts)
        if isinstance(found, Exception):
            raise found
        return found

    async def release(self, host):
        self.world.journal.append(("release", host.label))

    async def close(self):
        self.world.journal.append(("launcher closed",))


class ChoosingLauncher(FakeLauncher):
    chooses_hosts = True


class FakeHost:
    """The connection to a supervisor; :attr:`World.at` has what its methods do."""

    def __init__(self, world, home):
        self.world = world
        self.home = home
        self.archive = Archive()
        self.facts: dict[str, Any] = {}
        self.lease_until = world.now()
        self.granted = []
        self.is_open = False
        self.label = "?"
        self.why: str | None = None
        self.indices: list[int] = []
        self.given_up: str | None = None
        self.on_lost: Callable[[], object] = lambda: None
        self.shipped: list[Any] = []

    async def launch(self, launcher, host, timeout, on_lost):
        self.label, self.on_lost = host.label, on_lost
        self.world.journal.append(("launch", host.label))
        self.world.launched.setdefault(host.label, []).append(self)
        await self._do("launch", launcher, timeout)
        number = 1 + list(self.world.launched).index(host.label)
        self.facts = {"address": f"10.0.0.{number}"} | self.world.facts.get(host.label, {})
        self.is_open = True

    async def call(self, method, *args, timeout=None, **kwargs):
        self.world.journal.append((method, self.label, *args, *kwargs.values()))
        if not self.is_open:
            raise await self.lost()
        result = await self._do(method, *args, **kwargs)
        if not self.is_open:
            raise await self.lost()
        if result is None and hasattr(self, f"_{method.replace('.', '_')}"):
            result = getattr(self, f"_{method.replace('.', '_')}")(*args)
        return result

    async def spawn(self, index, target, local, arguments, *more, respawn, states=()):
        self.world.journal.append(("spawn", self.label, index, target, local, respawn, *more))
        return await self._do("spawn", index)

    def grant(self, lease):
        self.granted.append(lease)
        self.lease_until = self.world.now() + lease

    def cut(self, why="it is silent"):
        """Let it be lost."""
        self.is_open, self.why = False, why
        self.on_lost()

    async def lost(self):
        await asyncio.sleep(0)
        return ClusterError(self.why or "it has ended")

    async def give_up(self, why):
        self.world.journal.append(("give up", self.label))
        self.given_up = self.given_up or why
        self.is_open = False

    async def close(self, patience):
        self.world.journal.append(("close", self.label))
        self.is_open = False

    async def _do(self, method, *args, **kwargs):
        await asyncio.sleep(0)
        action = self.world.at.get((method, self.label))
        if isinstance(action, Exception):
            raise action
        if callable(action):
            return await action(self, *args, **kwargs)
        return action

    def _check(self, *_):
        return []

    def _prepare(self, spec, facts, part):
        self.indices = list(part["indices"])
        return {"request": f"request of {self.label}".encode(), "name": "n", "directory": "/d"}

    def _begin(self, *_):
        return self._begun(self.indices)

    def _grow(self, indices, _):
        self.indices += indices
        return self._begun(indices)

    def _retire(self, *_):
        return []

    def _shrink(self, indices, _):
        return dict.fromkeys(indices, 0)

    def _stop(self, *_):
        return {index: 10 + index for index in self.indices}

    def _shipping_missing(self, manifest):
        self.shipped.append(manifest)
        return self.world.missing

    def _shipping_put(self, batch):
        self.shipped.append(batch)

    def _shipping_build(self):
        return f"/tree/of/{self.label}"

    def _begun(self, indices):
        life = len(self.world.launched[self.label])
        return [
            {"index": i, "pid": 100 * life + i, "url": f"tcp://{self.label}-{life}:{i}/"}
            for i in indices
        ]


class FakeProxy(AgentProxy):
    def __init__(self, url):
        self._url = url


class FakeContainer:
    """The driver's own container."""

    clock = None

    def __init__(self, world):
        self.world = world

    def set_generation(self, **terms):
        self.world.journal.append(("own generation", terms))

    def cut_off(self, lost):
        self.world.journal.append(("own cut off", list(lost)))

    async def ping(self, url):
        self.world.journal.append(("ping", url))
        await asyncio.sleep(0)
        if url in self.world.dumb:
            raise ConnectionRefusedError(url)

    def portable_codec(self):
        return MsgPack()

    def proxy(self, url, class_name):
        return FakeProxy(url)


class World:
    """Hosts, and what has been asked of whom in which order."""

    def __init__(self, *, chooses=False):
        loop = asyncio.get_running_loop()
        self.now = loop.time
        self.journal: list[tuple[Any, ...]] = []
        self.at: dict[tuple[str, str], Any] = {}
        """What methods do, by their name and the host's: an error, a coroutine function, a value
        that is returned; ``None`` for what is usual."""
        self.facts: dict[str, dict[str, Any]] = {}
        self.launched: dict[str, list[FakeHost]] = {}
        self.dumb: set[str] = set()
        """URLs of containers that do not answer."""
        self.lost: list[str] = []
        self.missing: list[str] = []
        """Checksums of contents that hosts have to be sent."""
        self.launcher = (ChoosingLauncher if chooses else FakeLauncher)(self)
        self.container: Any = FakeContainer(self)
        self.thread: Any = FakeThread()
        self.numbers = itertools.count()

    def make(self, *, home):
        host: Any = FakeHost(self, home)
        return host

    def fleet(self, *hosts, **policy):
        def lost(member):
            self.lost.append(member.name)

        return Fleet(self.thread, HostPolicy(hosts=hosts, **policy), self.make, lost)

    async def sign(self, request, host, address):
        self.journal.append(("sign", host, address, request))
        await asyncio.sleep(0)
        return f"certificate of {host}"

    def host(self, label):
        """Return the connection to a host that was made last."""
        return self.launched[label][-1]

    def did(self, *methods):
        """Return what was done of these, in its order."""
        return [entry for entry in self.journal if entry[0] in methods]

    async def started(self, fleet, containers=None, spec=SPEC):
        """Go through the start of a cluster; return what is known of its containers."""
        count = await fleet.gather(self.launcher, spec, containers)
        spec = dataclasses.replace(spec, containers=max(1, count))
        run = Run(spec, fleet.policy, "plant", {"fact": 1}, "token", echo=True)
        credentials = await fleet.prepare(run, self.sign)
        await fleet.home.call("prepare", spec.fields(), run.facts, fleet.home_part().fields())
        return await fleet.begin(["own", *credentials])
