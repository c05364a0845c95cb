"""One host of a run, as the driver sees it: how it is taken in, and what it is asked for."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import time
import zlib
from collections.abc import Callable, Sequence
from itertools import chain, count
from typing import Any

from aiomas.cluster.addresses import is_ip, is_loopback
from aiomas.cluster.archive import Former, Kept, formers_of
from aiomas.cluster.basedir import LONGEST_NAME
from aiomas.cluster.budget import Budget
from aiomas.cluster.control import ControlThread, Host
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.info import HostInfo
from aiomas.cluster.launchers.base import Launcher
from aiomas.cluster.part import LOOPBACK, Part
from aiomas.cluster.policy import HostPolicy
from aiomas.cluster.records import States
from aiomas.cluster.spec import ClusterSpec
from aiomas.cluster.streams import pieces
from aiomas.cluster.sync import Bundle
from aiomas.codecs import Codec
from aiomas.exceptions import ClusterError

_SKEW = 240.0  # seconds; certificates are valid from 300 seconds before they were made
_SKEW_WORTH_TELLING = 1.0  # seconds
_BULK = 2 * 2**20  # bytes under way, or a slow link would keep the host's lease back for long
_PIECE = 2**20  # bytes of states in one message
_DAY = 86_400  # seconds


class Member:
    """A host.  What it does, it does in the control thread; its methods are for any other loop.

    Args:
        spec: the host.
        host: the connection to its supervisor.
        thread: in which that lives.
    """

    def __init__(self, spec: HostSpec, host: Host, thread: ControlThread) -> None:
        self.spec = spec
        self.info = HostInfo(spec.label)
        self.control = host
        self._thread = thread
        self._bulk = Budget(_BULK)
        self._keys = count()  # of states: who makes agents again at the same time has others
        self._root: str | None = None  # of the modules that were sent there
        self._policy = HostPolicy()

    def __repr__(self) -> str:
        return f"<Member {self.name} {self.info.state}>"

    @property
    def name(self) -> str:
        """How the cluster calls the host."""
        return self.info.name

    @property
    def runs(self) -> bool:
        """Whether its supervisor can be asked for something."""
        return self.info.state == "running"

    @property
    def bind(self) -> str:
        """The IP address at which its containers listen."""
        return self.spec.bind or _numeric(self.info.address)

    async def call(
        self, method: str, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """Call a method of its supervisor; see :meth:`aiomas.cluster.control.Host.call`."""
        calling = self.control.call(method, *args, timeout=timeout, **kwargs)
        return await self._thread.run(calling)

    async def spawn(
        self,
        index: int,
        target: str,
        arguments: bytes,
        respawn: bool,  # noqa: FBT001 - as the supervisor has it
        states: Sequence[States] | None = None,
    ) -> Any:
        """Make agents there; see :meth:`aiomas.cluster.control.Host.spawn`.

        With *states* they are made again, and a container that hangs is waited for.
        """
        local, more = self.localized(target), []
        if states is not None:
            more = [await self._send_states(index, states), True]
        async with self._bulk.spending(len(arguments)):
            spawning = self.control.spawn(
                index, target, local, arguments, *more, respawn=respawn, states=states or ()
            )
            return await self._thread.run(spawning)

    async def formers(self, index: int, url: str, codec: Codec) -> list[Former]:
        """Return all agents of a container that are to be made again.

        Args:
            index: its index.
            url: its base URL.
            codec: with which their arguments were encoded.
        """
        kept = await self._thread.run(self._kept(index))
        return list(formers_of(kept, url, codec))  # here, as it may take some time

    async def drop(self, index: int) -> None:
        """Forget all agents of a container."""
        await self._thread.run(self._drop(index))

    async def launch(
        self, launcher: Launcher, timeout: float, on_lost: Callable[[], object]
    ) -> None:
        """Start its supervisor; see :meth:`aiomas.cluster.control.Host.launch`."""
        await self._thread.run(self.control.launch(launcher, self.spec, timeout, on_lost))

    async def examine(
        self, spec: ClusterSpec, bundle: Bundle | None, *, insecure: bool = False
    ) -> None:
        """Look whether containers can run there.

        Args:
            spec: of the cluster.
            bundle: the modules that will be sent there.
            insecure: whether plain text may be sent to other machines.

        Raises:
            ClusterError: they cannot; the message says all that is wrong.
        """
        facts = self.control.facts
        self.info.address = self.spec.address or facts.get("address") or ""
        problems = _skew_problems(facts, spec)
        if not self.info.address:
            problems.append(
                f"it is not known at which address others reach {self.name}: say it with "
                f"HostSpec({self.spec.host!r}, address=...)"
            )
        else:
            modules = spec.modules_needed(() if bundle is None else bundle.entries)
            try:
                given = self.bind, (), modules
                if spec.transport == "tcp" and not insecure:
                    problems += _plain_text_problems(self.info.address, self.bind)
                problems += await self.call("check", *given, timeout=spec.start_timeout)
            except ClusterError as exc:
                problems.append(str(exc))
        if problems:
            raise ClusterError("; ".join(problems))

    async def check_ports(self, spec: ClusterSpec, indices: Sequence[int]) -> None:
        """Look whether the ports of its containers are free, if these are to have certain ones.

        Raises:
            ClusterError: they are not.
        """
        ports = [spec.port + index for index in indices] if spec.port else ()
        if problems := await self.call("check", self.bind, ports, (), timeout=spec.start_timeout):
            raise ClusterError("; ".join(problems))

    async def prepare(
        self, spec: ClusterSpec, run: str, facts: dict[str, Any], policy: HostPolicy
    ) -> bytes | None:
        """Make the directory of the run there, and send modules.

        Args:
            spec: of the cluster.
            run: its name.
            facts: what is told about it to others there.
            policy: of its hosts.

        Returns:
            The host's request for a certificate, if there is to be TLS.
        """
        self._policy = policy
        theirs = dataclasses.replace(spec, name=self._part_name(run), cwd=None)
        await self._thread.run(self._grant_lease())
        prepared = await self.call("prepare", theirs.fields(), facts, self.part().fields())
        await self._thread.run(self._grant_lease())  # it has begun some time before that answer
        if policy.bundle is not None:
            await self._ship(policy)
        request: bytes | None = prepared["request"]
        return request

    def part(self) -> Part:
        """Return what its supervisor is told about its part in the run."""
        policy = self._policy
        return Part(
            host=self.name,
            indices=tuple(self.info.containers),
            bind=self.bind,
            address=self.info.address,
            lease=policy.lease,
            heartbeat=policy.heartbeat,
            incarnation=self.info.incarnation,
            several=True,
            archive=policy.on_host_loss == "respawn",
            shipped=policy.bundle is not None,
        )

    def localized(self, target: str) -> str:
        """Return the name there of what is called *target* here."""
        file, _, attribute = target.rpartition(":")
        bundle = self._policy.bundle
        if not file.endswith(".py") or bundle is None or self._root is None:
            return target
        place = bundle.locate(file)
        return target if place is None else f"{self._root}/{place}:{attribute}"

    def becomes(self, state: str, problem: str | None = None) -> None:
        """Note in which state it is from now on, and why."""
        self.info.state, self.info.problem, self.info.since = state, problem, time.time()

    async def give_up(self, why: str) -> None:
        """Have nothing to do with it any more."""
        await self._thread.run(self.control.give_up(why))

    async def reason(self) -> str:
        """Return why it is gone."""
        return str(await self._thread.run(self.control.lost())).removeprefix(
            "The cluster is gone: "
        )

    async def close(self, patience: float) -> None:
        """Close the stream to its supervisor, and wait until that has ended."""
        await self._thread.run(self.control.close(patience))

    def described(self) -> str:
        """Return one line about the host, for a report."""
        facts = self.control.facts
        known = [f"{what} {facts[key]}" for key, what in _DESCRIBED.items() if key in facts]
        skew = _skew(facts)
        if abs(skew) > _SKEW_WORTH_TELLING:
            known.append(f"its clock is {skew:+.1f} s off ours")
        return ", ".join([f"ready at {self.info.address}", *known])

    def _part_name(self, run: str) -> str:
        # What is left of the host that was lost may still be there, and have the former name.
        number = self.info.incarnation
        return part_name(run, f"{self.name}.{number}" if number else self.name)

    async def _send_states(self, index: int, states: Sequence[States]) -> list[list[str]]:
        """Send states for agents that are made there next; return the keys that they have there."""
        keys = [[str(next(self._keys)) for _ in of_one] for of_one in states]
        pairs = zip(chain.from_iterable(keys), chain.from_iterable(states), strict=True)
        for piece in pieces(((key, state) for key, state in pairs if state is not None), _PIECE):
            async with self._bulk.spending(sum(map(len, piece.values()))):
                await self.call("take_states", index, piece)
        return keys

    async def _kept(self, index: int) -> list[Kept]:
        return self.control.archive.kept(index)

    async def _drop(self, index: int) -> None:
        self.control.archive.drop(index)

    async def _grant_lease(self) -> None:
        self.control.grant(self._policy.lease)

    async def _ship(self, policy: HostPolicy) -> None:
        """Send the modules of the user that are not there yet."""
        bundle = policy.bundle
        assert bundle is not None  # noqa: S101 - the caller has looked
        missing = await self.call("shipping.missing", bundle.manifest())
        batches = iter(bundle.batches(missing))
        # Files are read from the disk, which may be a slow one.
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            await self.call("shipping.put", batch)
        self._root = await self.call("shipping.build")


_DESCRIBED = {"python": "Python", "aiomas": "aiomas", "wire": "protocol", "cores": "cores:"}


def part_name(run: str, host: str) -> str:
    """Return the name of the part of a run on a host, as a cluster of its own would have it.

    Hosts may be on the same machine, so these names are different.
    """
    name = f"{run}.{host}"
    possible = name.replace(":", "-")
    if possible == name and len(name) <= LONGEST_NAME:
        return name
    number = f"{zlib.crc32(name.encode()):08x}"
    return f"{possible[: LONGEST_NAME - len(number) - 1]}-{number}"


def _numeric(address: str) -> str:
    """Return the IP address of a host, as we see it."""
    if is_ip(address):
        return address
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except OSError as exc:
        msg = f"the address {address!r} is not known here ({exc.strerror}): say HostSpec(bind=...)"
        raise ClusterError(msg) from exc
    return str(found[0][4][0]) if found else LOOPBACK


def _skew(facts: Any) -> float:
    """Return by how many seconds a host's clock is ahead of ours; 0 if it may be none."""
    if "clock" not in facts:
        return 0.0
    skew = float(facts["clock"] - (facts["asked"] + facts["answered"]) / 2)
    return skew if abs(skew) > (facts["answered"] - facts["asked"]) / 2 else 0.0


def _plain_text_problems(address: str, bind: str) -> list[str]:
    if is_loopback(address) and is_loopback(bind):
        return []
    problem = (
        f"transport='tcp' sends everything to {address} in plain text, and anybody on the network "
        f"can read and change it: use transport='tls', or say insecure=True"
    )
    return [problem]


def _skew_problems(facts: Any, spec: ClusterSpec) -> list[str]:
    skew, most = _skew(facts), spec.certificate_days * _DAY
    if spec.transport != "tls" or -_SKEW < skew < most:
        return []
    what = "behind" if skew < 0 else "ahead of"
    problem = (
        f"its clock is {abs(skew):.0f} s {what} ours, so that certificates would not be valid "
        f"there: set it (NTP does)"
    )
    return [problem]
