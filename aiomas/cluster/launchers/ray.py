"""Starts supervisors on the nodes of a Ray cluster.

Ray is asked for room, and for an actor on each node that relays the stream to a supervisor there.
That the containers live is watched by the cluster itself, as Ray takes a minute to miss a node.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from aiomas.cluster.certificates import PASSPHRASE
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.launchers import ray_actor
from aiomas.cluster.launchers.base import Launcher, Link
from aiomas.cluster.launchers.bootstrap import COMMAND, FirstWords
from aiomas.cluster.launchers.ray_placing import Place, Search
from aiomas.cluster.launchers.ray_plan import STRATEGIES, Demand
from aiomas.cluster.launchers.ray_relay import RelayedStream, call
from aiomas.cluster.launchers.ray_session import Session, in_thread
from aiomas.exceptions import ClusterError

_CPU = "CPU"
_MOST_CALLS = 6  # of an actor, at the same time: each of its methods, and one to spare
# Of the time that there is; who has set the same limit for all of it is to get our error.
_PART = 0.9
_MARGIN = 0.05
_END_TIMEOUT = 5.0  # seconds that Ray has to end an actor, or to take back a reservation
_LAST_WORDS = 2.0  # seconds in which a program that has hung up has ended
_QUIET = {"log_to_driver": False, "logging_level": "ERROR"}
_ALONE = {"include_dashboard": False}  # of a cluster that nobody else looks at


class RayLauncher(Launcher):
    """Starts supervisors on the nodes of a Ray cluster, and reserves what their containers need.

    Args:
        address: of the Ray cluster: ``"auto"`` for the one that ``RAY_ADDRESS`` names or that runs
            on this machine; ``"host:port"``; ``"local"`` or ``None`` to start one here, which ends
            with the last cluster that uses it.  Where the program has called ``ray.init()`` itself,
            that is used and left alone.
        cpus_per_container: how many CPUs are reserved for each container.
        strategy: ``"STRICT_SPREAD"``, ``"SPREAD"`` (containers evenly over the nodes), ``"PACK"``
            (on as few nodes as possible), or ``"STRICT_PACK"`` (on one).
        resources: what else is reserved for each container, by Ray's names: ``"GPU"``,
            ``"memory"`` (bytes), or those that you have made up.
        runtime_env: see Ray; its ``working_dir`` and ``py_modules`` carry your modules.  If the
            program has called ``ray.init()``, local folders have to be given to that instead.
        namespace: of the connection that we make.
        python: the interpreter on the nodes; by default, that of Ray's workers.
        containers_per_new_node: how many containers go onto each node that Ray's autoscaler adds.
            If it is ``None``, more containers than there can be on the nodes are an error at once;
            else nodes for them are waited for.
        init: other parameters for ``ray.init()``.

    Raises:
        ValueError: a parameter has a value that it cannot have.
    """

    chooses_hosts: ClassVar[bool] = True

    def __init__(
        self,
        address: str | None = "auto",
        *,
        cpus_per_container: float = 1.0,
        strategy: str = "STRICT_SPREAD",
        resources: Mapping[str, float] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        python: str | None = None,
        containers_per_new_node: int | None = None,
        init: Mapping[str, Any] | None = None,
    ) -> None:
        if strategy not in STRATEGIES:
            msg = f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}"
            raise ValueError(msg)
        if containers_per_new_node is not None and containers_per_new_node < 1:
            msg = (
                f"containers_per_new_node must be a number from 1 up, or None, got "
                f"{containers_per_new_node!r}"
            )
            raise ValueError(msg)
        if address is not None and address.startswith("ray://"):
            msg = (
                f"address cannot be that of a Ray Client: run the program on a node, not {address}"
            )
            raise ValueError(msg)
        self._address = "local" if address is None else address
        self._each = _each(cpus_per_container, resources)
        self._strategy = strategy
        self._runtime_env = dict(runtime_env or {})
        self._python = python
        self._per_new_node = containers_per_new_node
        alone = _ALONE if self._address == "local" else {}
        self._init: dict[str, Any] = {**_QUIET, **alone, "namespace": namespace, **(init or {})}
        self._session = Session()
        self._places: dict[str, Place] = {}
        self._streams: dict[str, RelayedStream] = {}
        self._avoid: set[str] = set()  # nodes on which a supervisor was lost

    async def allocate(
        self, hosts: Sequence[HostSpec], containers: int | None, timeout: float
    ) -> list[HostSpec]:
        options = self._init
        if self._runtime_env:
            options = {**options, "runtime_env": self._runtime_env}
        demand = Demand(tuple(hosts), containers, self._each, self._strategy, self._per_new_node)
        loop = asyncio.get_running_loop()
        until = loop.time() + _PART * timeout
        try:
            async with asyncio.timeout_at(until):
                await in_thread(self._session.open, self._address, options)
        except TimeoutError:
            msg = f"Ray at address={self._address!r} has not answered within {_PART * timeout:g} s"
            raise ClusterError(msg) from None
        search = Search(
            self._session,
            demand,
            max(0.0, until - loop.time()),
            ours=tuple(self._places.values()),
            avoid=frozenset(self._avoid),
        )
        found = None
        try:
            # It has its own limit; this is for a Ray that does not answer.
            async with asyncio.timeout_at(until + _MARGIN * timeout):
                found = await in_thread(search.run)
        except TimeoutError:
            msg = f"Ray has not answered within {timeout:g} s"
            raise ClusterError(msg) from None
        finally:
            if found is None:
                await self._bounded(search.give_up)
        return [self._keep(place) for place in found]

    async def launch(self, host: HostSpec, timeout: float) -> Link:
        place = self._places.get(host.label)
        if place is None:
            msg = f"Nothing is reserved on Ray for {host.label}; allocate() comes first"
            raise ClusterError(msg)
        try:
            return await self._launch(place, host, timeout)
        except BaseException:
            await self.release(host)  # nothing will be there
            raise

    async def release(self, host: HostSpec) -> None:
        place = self._places.pop(host.label, None)
        stream = self._streams.pop(host.label, None)
        if stream is not None:
            await stream.close(_END_TIMEOUT)
            if not stream.told_its_end and place is not None:
                self._avoid.add(place.node.id)
        if place is not None:
            await self._bounded(self._session.give_back, place.group)

    async def close(self) -> None:
        try:
            places = [place.bundle.host for place in self._places.values()]
            await asyncio.gather(*(self.release(host) for host in places if host is not None))
        finally:
            await self._bounded(self._session.close)

    def _keep(self, place: Place) -> HostSpec:
        """Return the host at a place, and keep the place for it."""
        bundle, address = place.bundle, place.node.address
        host = bundle.host
        if host is None:
            host = HostSpec(address, name=self._free_name(f"node-{address}"))
        host = dataclasses.replace(
            host, containers=bundle.containers, address=host.address or address
        )
        self._places[host.label] = dataclasses.replace(
            place, bundle=dataclasses.replace(bundle, host=host)
        )
        return host

    def _free_name(self, name: str) -> str:
        """Return *name*, or, where several supervisors are at one address, one like it."""
        names = [name, *(f"{name}-{number}" for number in range(2, len(self._places) + 2))]
        return next(name for name in names if name not in self._places)

    async def _launch(self, place: Place, host: HostSpec, timeout: float) -> Link:
        stream: RelayedStream | None = None
        started = False
        try:
            async with asyncio.timeout(timeout):
                stream = self._streams[host.label] = await self._start(place, host)
                facts = await FirstWords(stream.sock).exchange(host)
            started = True
        except TimeoutError:
            msg = f"No supervisor has answered on {_where(host, place)} within {timeout:g} s"
            raise ClusterError(msg) from None
        except EOFError:
            assert stream is not None  # noqa: S101 - it is its end
            await asyncio.wait({stream.ended}, timeout=_LAST_WORDS)
            msg = f"No supervisor could be started on {_where(host, place)}: {stream.said}"
            raise ClusterError(msg) from None
        finally:
            if stream is not None and not started:
                stream.sock.close()
        facts.pop("ssh", None)  # how one got to the node does not say how others get there
        facts["address"] = place.node.address
        return Link(stream.sock, stream.ended, stream.kill, lambda: stream.said, facts)

    async def _start(self, place: Place, host: HostSpec) -> RelayedStream:
        """Start an actor there that runs the program to which the first words are said.

        Raises:
            ClusterError: Ray cannot start it, or the interpreter cannot be run.
        """
        errors = importlib.import_module("ray.exceptions")
        options: dict[str, Any] = {"max_concurrency": _MOST_CALLS}
        if self._runtime_env and not self._session.connected_here:
            options["runtime_env"] = self._runtime_env
        threads = tuple(
            str(max(1, int(cpus)))
            for cpus in (place.bundle.resources.get(_CPU, 0), self._each[_CPU])
        )
        python = host.python or self._python
        actor = None
        try:
            actor = await in_thread(
                self._session.start_actor, _relay_class(), place.bundle, place.group, options
            )
            await call(actor.start, python, ["-c", COMMAND], PASSPHRASE, threads)
        except (errors.RayError, OSError, ValueError) as exc:
            msg = f"Ray cannot start a supervisor on {_where(host, place)}: {exc}"
            if isinstance(exc, ValueError):  # of local folders, Ray says that itself
                msg += " (or leave ray.init() to RayLauncher)"
            raise ClusterError(msg) from exc
        else:
            stream, actor = RelayedStream(actor, self._session.kill, errors.RayError), None
            return stream
        finally:
            if actor is not None:
                await self._bounded(self._session.kill, actor)

    async def _bounded(self, function: Any, *args: Any) -> None:
        """Call what may block, but wait for it only for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_TIMEOUT):
                await in_thread(function, *args)


def _each(cpus: float, resources: Mapping[str, float] | None) -> dict[str, float]:
    """Return what each container needs.

    Raises:
        ValueError: that cannot be.
    """
    each = {_CPU: cpus, **(resources or {})}
    if resources and _CPU in resources:
        msg = "resources cannot have 'CPU' in it, that is cpus_per_container"
        raise ValueError(msg)
    for name, amount in each.items():
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not amount > 0:
            what = "cpus_per_container" if name == _CPU else f"resources[{name!r}]"
            msg = f"{what} must be a positive number, got {amount!r}"
            raise ValueError(msg)
    return each


def _relay_class() -> type:
    """Return the class of the actor, so that its code is sent along."""
    importlib.import_module("ray.cloudpickle").register_pickle_by_value(ray_actor)
    return ray_actor.Relay


def _where(host: HostSpec, place: Place) -> str:
    return f"{host.label} (node {place.node.address}, {place.node.hostname})"
