"""The process that starts, watches, restarts and ends the containers of one host.

Its driver reaches it over a stream that it inherits.  It ends with that stream, and nothing that
it has started outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiomas import rpc
from aiomas.cluster import streams, watch
from aiomas.cluster.addresses import problems_of
from aiomas.cluster.archive import Forwarding
from aiomas.cluster.children import Children
from aiomas.cluster.echo import Echo
from aiomas.cluster.environment import set_title
from aiomas.cluster.events import ClusterEvent, EventKind
from aiomas.cluster.lease import Lease
from aiomas.cluster.part import Part
from aiomas.cluster.reporting import reporting
from aiomas.cluster.rundir import RunDirectory
from aiomas.cluster.shipping import Shipping
from aiomas.cluster.spec import ClusterSpec
from aiomas.cluster.surroundings import Generation, Surroundings
from aiomas.cluster.views import STATUS_TIMEOUT, Views
from aiomas.cluster.zygote import ForkServer, Program
from aiomas.exceptions import ClusterError, ContainerDied, RemoteException

if TYPE_CHECKING:
    from aiomas.cluster.hostkey import HostKey, Signed

_log = logging.getLogger("aiomas.cluster")

_SHARED = ("hmac",)  # what each container imports when it starts
_HURRY = 1.0  # seconds that containers have to end when the driver is gone
_ALL_TIMEOUT = 3.0  # seconds after which all that is left is killed then, all at once
_FORK_TIMEOUT = 0.5  # seconds that the fork server has to end when its children have ended
_PARENT_PAUSE = 1.0  # seconds between two looks whether the driver still lives


class Supervisor:
    """The control service of a host."""

    router = rpc.Service()

    def __init__(self, program: Program) -> None:
        self._program = program
        self._driver: rpc.RpcClient
        self._spec: ClusterSpec
        self._part = Part()
        self._run: RunDirectory | None = None
        self._facts: dict[str, Any] = {}
        self._fork: ForkServer
        self._prepared: asyncio.Future[Any]
        self._around: Surroundings
        self._children = Children()
        self._shipping = Shipping()
        self._watch: Any = None
        self._views: Views
        self._key: HostKey
        self._archive: Forwarding | None = None
        self._echo = Echo(self._log)
        self._end = asyncio.Event()
        self._leasing: asyncio.Task[None] | None = None
        self._tidy: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[list[dict[str, Any]]] | None = None
        self._why_ended: ClusterError | None = None  # if somebody has told us to stop
        self.router.set_sub_router(self._shipping.router, "shipping")

    @rpc.expose
    @reporting
    async def prepare(
        self, fields: dict[str, Any], facts: dict[str, Any], part: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Make the directory of the run, and what certificates need.

        Args:
            fields: those of a :class:`ClusterSpec`.
            facts: what is told about the run to whoever looks for clusters.
            part: the fields of a :class:`Part`; by default all of it is here.

        Returns:
            ``directory`` and ``name`` of the run; ``request``: the host's request for a
            certificate, or ``None`` if there is to be no TLS.
        """
        spec, self._part = _read(fields, part)
        self._spec = spec
        self._run = RunDirectory.create(spec.name)
        self._facts = facts | {
            "name": self._run.name,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": time.time(),
            "log_dir": str(self._log_directory(self._run.path)),
        }
        # Who finds the run can ask it, however long it takes until there are containers.
        self._views = views = Views(self._facts, self._part, self._children, self._driver.remote)
        self._watch = await watch.serve_watch(
            self._run.path / watch.SOCKET, views.watched, self._stop_from_outside, views.log_read
        )
        self._run.publish(self._facts)
        set_title(f"aiomas {self._run.name}/supervisor")
        await self._fork.tidy_up(self._run.path)
        if self._part.lease is not None:
            lease = Lease(self._part.lease, self._part.heartbeat)
            self._leasing = asyncio.create_task(self._keep_lease(lease))
        self._shipping.begin(self._run.path, self._fork)
        # It imports while the driver does what it has to do.
        self._prepared = asyncio.ensure_future(self._preload())
        self._prepared.add_done_callback(_take_note)  # begin() may never be called
        request = None
        if spec.transport == "tls":
            from aiomas.cluster.hostkey import HostKey  # noqa: PLC0415 - only TLS pays for it

            self._key = HostKey(self._part)
            request = self._key.request
        return {"directory": str(self._run.path), "name": self._run.name, "request": request}

    @rpc.expose
    @reporting
    async def begin(
        self, token: str, credentials: Signed | None, *, echo: bool, generation: int = 0
    ) -> list[dict[str, Any]]:
        """Start all containers, and return when each of them answers.

        Args:
            token: what they show each other.
            credentials: the host's certificate, those it trusts, and their revocation list.
            echo: whether the driver wants the lines of their logs.
            generation: how many hosts of the run have been lost.

        Returns:
            ``index``, ``pid`` and ``url`` of each.
        """
        assert self._run is not None  # noqa: S101 - the driver has called prepare()
        self._around = Surroundings(
            spec=self._spec,
            run=self._run.name,
            directory=self._run.path,
            logs=Path(self._facts["log_dir"]),
            fork=self._fork,
            token=token,
            tls=credentials is not None,
            emit=self._emit,
            echo=self._echo.take if echo else None,
            part=self._part,
            generation=Generation(generation, generation, generation),
            archive=self._forwarding() if self._part.archive else None,
        )
        self._starting = asyncio.create_task(self._start_all(credentials))
        try:
            return await self._starting
        except (ClusterError, ContainerDied, asyncio.CancelledError) as exc:
            if self._why_ended is None:
                raise
            raise self._why_ended from exc

    @rpc.expose
    @reporting
    async def grow(self, indices: Sequence[int], time: float) -> list[dict[str, Any]]:
        """Start more containers, and return as :meth:`begin` does.

        Args:
            indices: theirs; those of containers that were given up or taken away can be had again.
            time: what their clocks are set to.
        """
        self._around.time = max(self._around.time, time)  # a later one may be on its way to all
        return await self._children.start(indices, self._around)

    @rpc.expose
    @reporting
    async def shrink(self, indices: Sequence[int], timeout: float) -> dict[int, int | None]:
        """End containers for good; see :meth:`stop` for the parameters and what is returned."""
        return await self._children.end(indices, timeout)

    @rpc.expose
    @reporting
    async def retire(self, indices: Sequence[int], timeout: float) -> list[str]:
        """End containers whose agents are to be made again elsewhere.

        All of these refuse calls at once.  When those under way have been served, the states of
        agents are taken, for :meth:`hand_over`; and then they end.

        Args:
            indices: theirs.
            timeout: seconds; see :meth:`stop`.

        Returns:
            What has kept states from being had, for each container where something has.
        """
        return await self._children.retire(indices, timeout)

    @rpc.expose
    @reporting
    async def check(self, bind: str, ports: Sequence[int], modules: Sequence[str]) -> list[str]:
        """Return what keeps containers from running here; nothing if they can.

        Args:
            bind: the IP address at which they are to listen.
            ports: the ports that they are to have; none for any.
            modules: what they have to import.
        """
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        return [*problems_of(bind, ports), *map(_no_module, missing)]

    @rpc.expose
    @reporting
    async def set_generation(
        self,
        accept: int,
        known: int,
        use: int,
        lost: Sequence[str] = (),
        found: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """Tell all containers that the run is another one, now that a host is lost.

        The parameters are those of
        :meth:`aiomas.cluster.container.ClusterContainer.set_generation`.

        Returns:
            The errors of those who have not heard of it.
        """
        terms = accept, known, use, list(lost), list(found)
        self._around.generation.take(*terms)
        return await self._children.set_generation(*terms)

    @rpc.expose
    @reporting
    async def hand_over(self, indices: Sequence[int]) -> None:
        """Give the driver the states of all agents in containers that are going to end."""
        archive = self._forwarding()
        for index in indices:
            self._children[index].hand_over(archive)
        await archive.flush()

    @rpc.expose
    @reporting
    async def take_states(self, index: int, states: dict[str, bytes]) -> None:
        """Keep states for agents that :meth:`spawn` makes next in a container."""
        self._children[index].take_states(states)

    @rpc.expose
    @reporting
    async def spawn(
        self,
        index: int,
        target: str,
        arguments: bytes,
        respawn: bool,  # noqa: FBT001 - travels
        former: Sequence[Any] = (),
        patient: bool = False,  # noqa: FBT001, FBT002 - as above
    ) -> tuple[list[Any], str | None, int]:
        """Make agents in a container; see :meth:`aiomas.cluster.child.Child.spawn`.

        Returns:
            What that does, and the id of the process in which they are.
        """
        child = self._children[index]
        given = (target, arguments, former)
        made, failure = await child.spawn(*given, respawn=respawn, patient=patient)
        return made, failure, child.pid

    @rpc.expose
    @reporting
    async def set_time(self, time: float) -> list[dict[str, Any]]:
        """Set the clocks of all containers, and return the errors of those that have not got it."""
        self._around.time = time
        return await self._children.set_time(time)

    @rpc.expose
    @reporting
    async def checkpoint(self, indices: Sequence[int] | None = None) -> None:
        """Save the states of all agents that can give them and will be made again.

        The driver has them as well, if it wants them.

        Args:
            indices: see :meth:`.Children.checkpoint`.
        """
        await self._children.checkpoint(indices)
        if self._archive is not None:
            await self._archive.flush()

    @rpc.expose
    @reporting
    async def status(self, timeout: float = STATUS_TIMEOUT) -> list[dict[str, Any]]:
        """Return what is known of each container.

        Args:
            timeout: seconds that a container has to answer.
        """
        return await self._children.status(self._part.host, timeout)

    @rpc.expose
    @reporting
    async def log_read(self, index: int, position: Any) -> tuple[Any, bytes]:
        """Return a part of the log of a container here; see :func:`.log_parts.read_part`."""
        return await self._views.own_log(index, position)

    @rpc.expose
    @reporting
    async def loads(self) -> dict[int, float]:
        """Return for each container the share of a core that it has used lately."""
        return self._children.loads()

    @rpc.expose
    @reporting
    async def stop(self, timeout: float) -> dict[int, int | None]:
        """End all containers, and then the run.

        Args:
            timeout: seconds; see :meth:`aiomas.cluster.life.Life.stop`.

        Returns:
            How the last process of each container ended, by their indices.
        """
        exit_codes = await self._stop_children(timeout)
        self._end.set()
        return exit_codes

    async def serve(self, control: socket.socket) -> None:
        """Serve the driver until it is gone or has told us to stop."""
        self._fork = await ForkServer.attach(self._program)
        self._fork.lost.add_done_callback(lambda _: self._fork_server_lost())
        self._driver = await streams.accept(control, self, name="the driver")
        self._driver.channel.on_closed(self._end.set)
        watching = asyncio.create_task(self._watch_parent())
        try:
            await self._end.wait()
        finally:
            watching.cancel()
            if self._leasing is not None:
                self._leasing.cancel()
            await self._clean_up()
            self._driver.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HURRY):
                    await self._driver.channel.wait_closed()

    async def _start_all(self, credentials: Signed | None) -> list[dict[str, Any]]:
        await self._prepared
        if credentials is not None:
            assert self._run is not None  # noqa: S101 - the driver has called prepare()
            await self._key.load(credentials, self._run.path / "tls", self._fork)
        return await self._children.start(self._part.indices, self._around)

    async def _clean_up(self) -> None:
        hurry = min(_HURRY, self._spec.stop_timeout) if self._run else _HURRY
        stopping = asyncio.create_task(self._stop_children(hurry))
        try:
            # A fork server that does not answer keeps each of them waiting.
            await asyncio.wait({stopping}, timeout=_ALL_TIMEOUT)
        finally:
            if self._watch is not None:
                self._watch.close()
            await self._shipping.close()
            # First the directory: if we are killed now, the fork server removes it, but only as
            # long as it has not been told to end.
            if self._run is not None:
                self._run.remove()
            await self._fork.close(_FORK_TIMEOUT)
            self._echo.close()
            await asyncio.wait({stopping}, timeout=_HURRY)

    async def _stop_children(self, timeout: float) -> dict[int, int | None]:
        exit_codes = await self._children.stop_all(timeout)
        await self._echo.flush(_HURRY)
        return exit_codes

    async def _preload(self) -> None:
        if self._part.shipped:
            await self._shipping.arrived.wait()
        spec = self._spec
        dates = ["arrow"] * (spec.clock is not None)  # else it is imported by who has a date
        modules = [*_SHARED, *dates, *(["uvloop"] * spec.uses_uvloop), *spec.preload]
        await self._fork.preload(modules)

    async def _keep_lease(self, lease: Lease) -> None:
        """End when the driver does not want us any more, or cannot be reached for too long."""
        why = f"its driver has not been reached for lease={lease.seconds} s"
        try:
            await lease.keep(lambda: self._driver.remote.renew())  # noqa: PLW0108 - may be closed
        except ConnectionError:
            return  # whoever waits for the end of the stream does what has to be done
        except RemoteException as exc:
            why = f"its driver has given it up: {exc}"
        _log.warning("This host's part of cluster %s ends: %s", self._facts["name"], why)
        self._end.set()

    async def _watch_parent(self) -> None:
        """End when the driver has, also if somebody else still holds its end of the stream."""
        parent = os.getppid()
        while os.getppid() == parent:  # noqa: ASYNC110 - the system does not tell
            await asyncio.sleep(_PARENT_PAUSE)
        self._end.set()

    def _fork_server_lost(self) -> None:
        if not self._end.is_set():
            error = ClusterError(f"The cluster is gone: {self._fork.lost.result()}")
            self._emit(ClusterEvent(kind=EventKind.LOST, message=str(error), error=error))
            self._end.set()

    def _stop_from_outside(self) -> None:
        if self._tidy is not None:
            return
        error = ClusterError(f"The cluster {self._facts['name']} was told to stop")
        self._why_ended = error
        self._emit(ClusterEvent(kind=EventKind.LOST, message=str(error), error=error))
        self._tidy = asyncio.create_task(self._stop_and_end())

    async def _stop_and_end(self) -> None:
        try:
            if self._starting is not None:  # or what we have stopped would be started
                self._starting.cancel()
                await asyncio.wait({self._starting}, timeout=self._spec.stop_timeout)
            await self._stop_children(self._spec.stop_timeout)
        finally:
            self._end.set()

    def _forwarding(self) -> Forwarding:
        """Return what sends states to the driver: one only, or older ones might come later."""
        if self._archive is None:
            self._archive = Forwarding(self._driver)
        return self._archive

    def _emit(self, event: ClusterEvent) -> None:
        if self._driver.channel.is_open:
            rpc.with_options(self._driver.remote.event, one_way=True)(event.content())

    async def _log(self, index: int, lines: list[str]) -> None:
        await self._driver.remote.log(index, lines)

    def _log_directory(self, run: Path) -> Path:
        wanted = self._spec.log_dir
        # Clusters that run at the same time may be told to use the same one.
        directory = run / "logs" if wanted is None else Path(wanted, run.name)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory


def _take_note(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()


def _read(fields: dict[str, Any], part: dict[str, Any] | None) -> tuple[ClusterSpec, Part]:
    """Return what the driver has sent.

    Raises:
        ClusterError: it is not possible here.
    """
    try:
        spec = ClusterSpec.of_fields(fields)
    except ValueError as exc:
        raise ClusterError(str(exc)) from exc
    if part is None:
        return spec, Part(indices=tuple(range(spec.containers)))
    return spec, Part.of_fields(part)


def _no_module(name: str) -> str:
    return (
        f"there is no module {name!r} for {sys.executable}: install it there, or send it with sync="
    )
