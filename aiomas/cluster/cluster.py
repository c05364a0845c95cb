"""The driver's view of a cluster: start it, spawn agents, look at it, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from aiomas.agent import Agent, Container
from aiomas.clocks import ExternalClock
from aiomas.cluster.launchers.local import WorkerProcess
from aiomas.cluster.loading import load
from aiomas.cluster.placement import RoundRobin, Strategy, chooser
from aiomas.cluster.spec import (
    ClusterSpec,
    clock_date,
    codec_name,
    importable_name,
    serializer_names,
)
from aiomas.codecs import Codec, make_codec
from aiomas.exceptions import ClusterError, ContainerDied, RemoteException, SpawnError
from aiomas.rpc import Proxy

_CHUNK_AGENTS = 1000
_CHUNK_BYTES = 1 << 20  # of arguments in one control message
_EXIT_TIMEOUT = 1.0  # seconds to learn how a process ended that has closed its streams


@dataclasses.dataclass(slots=True)
class ContainerInfo:
    """A container of a cluster, as the driver knows it."""

    index: int
    """Its number; the first one is 0."""
    pid: int = 0
    """The id of its process."""
    url: str = ""
    """Its base URL, which ends with a slash."""
    state: str = "starting"
    """``starting``, ``running``, ``stopped`` or ``died``."""
    agents: int = 0
    """How many agents the driver has spawned there."""
    cpu_load: float = 0.0
    """The share of one core that its process has used lately; 1.0 for all of it."""
    host: str = "localhost"
    """The host on which it runs."""
    exit_code: int | None = None
    """Its exit code once it has ended; negative for the number of the signal that killed it."""


class Cluster:
    """Container processes on this machine, with agents spread over them.

    Use it as an asynchronous context manager; all processes have ended when the block has.

    Args:
        containers: how many container processes.
        transport: how containers talk to each other: ``"unix"`` for Unix sockets in a directory
            that only this user can enter, or ``"tcp"`` for TCP on the loopback interface.
        codec: ``"msgpack"``, ``"json"``, ``"msgpack-blosc"``, or a
            :class:`~aiomas.codecs.Codec` subclass that other processes can import.
        extra_serializers: callables that other processes can import, or their names
            (``"module:callable"``).
        loop: ``"asyncio"``, ``"uvloop"``, or ``"auto"`` for uvloop where it is installed.
        clock: ``None`` for real time; a date for an :class:`~aiomas.ExternalClock` that starts
            there in each container, see :meth:`set_time`.
        start_timeout: seconds until all containers must answer.
        stop_timeout: seconds that containers get to end, before they are terminated and, after
            the same time again, killed.

    Raises:
        ValueError: a parameter has a value that it cannot have.
    """

    def __init__(
        self,
        containers: int,
        *,
        transport: str = "unix",
        codec: str | type[Codec] = "msgpack",
        extra_serializers: Iterable[Any] = (),
        loop: str = "auto",
        clock: Any = None,
        start_timeout: float = 60.0,
        stop_timeout: float = 10.0,
    ) -> None:
        if sys.platform == "win32":
            msg = "aiomas.cluster needs a POSIX system, Windows is none"
            raise OSError(msg)
        self._spec = ClusterSpec(
            containers=containers,
            transport=transport,
            codec=codec_name(codec),
            extra_serializers=serializer_names(extra_serializers),
            loop=loop,
            clock=None if clock is None else clock_date(clock),
        )
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self.container: Container
        """The driver's own container, on the same transport as the others."""
        self.containers: list[ContainerInfo] = []
        """The containers, in the order of their indices."""
        self._codec: Codec
        self._directory: Path | None = None
        self._workers: dict[int, WorkerProcess] = {}
        self._stopping = False
        self._watchers: list[asyncio.Task[None]] = []
        self._round_robin = RoundRobin()
        self._names: dict[str, Proxy] = {}
        self._taken: set[str] = set()  # names, of agents that are being made, too

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(self._start_timeout) as bound:
                await self._start()
        except BaseException as exc:
            await self._stop()
            if isinstance(exc, TimeoutError) and bound.expired():
                late = [str(c.index) for c in self.containers if c.state == "starting"]
                msg = (
                    f"Containers {', '.join(late) or '(all)'} were not ready within "
                    f"start_timeout={self._start_timeout} s"
                )
                raise TimeoutError(msg) from exc
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stop()

    async def spawn(
        self,
        target: str | type[Agent] | Any,
        /,
        *args: Any,
        name: str | None = None,
        placement: str | int | Proxy | Strategy = "round-robin",
        **kwargs: Any,
    ) -> Any:
        """Make one agent.

        Args:
            target: an agent class, a (coroutine) function that gets a container and returns an
                agent, or the name of one: ``"module:Class"`` or ``"/path/file.py:Class"``.
            args: go to it, after the container; they pass through the cluster's codec.
            name: a name for :meth:`find`.
            placement: ``"round-robin"``; ``"least-loaded"``, where the fewest agents were
                spawned; a container's index; the proxy of an agent, to be beside it; or a
                :data:`~aiomas.cluster.placement.Strategy`.
            kwargs: go to it.

        Returns:
            A proxy for the agent.

        Raises:
            SpawnError: the agent could not be made; the message has the traceback.
            ContainerDied: its container ended.
            ValueError: *target* is a class or function that other processes cannot import, or
                *name* is taken.
        """
        if name is None:
            return (await self._spawn_all(target, [(args, kwargs)], placement))[0]
        if name in self._taken:
            msg = f"There is an agent with the name {name!r} already"
            raise ValueError(msg)
        self._taken.add(name)
        try:
            [proxy] = await self._spawn_all(target, [(args, kwargs)], placement)
        except BaseException:
            self._taken.discard(name)
            raise
        self._names[name] = proxy
        return proxy

    async def spawn_many(
        self,
        target: str | type[Agent] | Any,
        arguments: int | Iterable[tuple[Any, ...] | list[Any] | dict[str, Any]],
        *,
        placement: str | int | Proxy | Strategy = "round-robin",
    ) -> list[Any]:
        """Make many agents, with a few messages for each container.

        Args:
            target: as in :meth:`spawn`.
            arguments: how many agents without arguments; or, for each agent, a tuple of its
                positional or a dictionary of its keyword arguments.
            placement: as in :meth:`spawn`.

        Returns:
            A proxy for each agent, in the order of *arguments*.

        Raises:
            SpawnError: an agent could not be made; ``spawned`` has proxies for those that were.
            ContainerDied: a container ended; it has ``spawned`` as well.
            ValueError: *target* is a class or function that other processes cannot import.
            TypeError: *arguments* has something else in it.
        """
        if isinstance(arguments, int):
            if arguments < 0:
                msg = f"The number of agents cannot be negative: {arguments}"
                raise ValueError(msg)
            calls: list[tuple[Sequence[Any], dict[str, Any]]] = [((), {})] * arguments
        else:
            calls = [_call(argument) for argument in arguments]
        return await self._spawn_all(target, calls, placement)

    def find(self, name: str) -> Any:
        """Return the proxy for the agent that was spawned with this name.

        Raises:
            LookupError: there is none.
        """
        try:
            return self._names[name]
        except KeyError:
            msg = f"There is no agent with the name {name!r}; there are: {sorted(self._names)}"
            raise LookupError(msg) from None

    async def status(self, *, timeout: float = 5.0) -> list[dict[str, Any]]:
        """Return what is known of each container.

        Args:
            timeout: seconds that a container has to answer.

        Returns:
            For each container a dictionary with ``index``, ``pid``, ``url``, ``state``, ``agents``
            and, while it runs, ``cpu`` (seconds used so far) and ``rss`` (bytes).  The state of
            one that does not answer in time is ``"not answering"``.
        """
        return await asyncio.gather(*(self._status(info, timeout) for info in self.containers))

    async def set_time(self, time: float) -> None:
        """Set the external clocks of all containers, and return when all have the new time.

        Args:
            time: in seconds; later than the current time.

        Raises:
            ValueError: the cluster was started without ``clock=``, or *time* is not later.
            ContainerDied: a container ended; all others have the time.
            ClusterError: a container could not set its clock; the message has the traceback.
        """
        if self._spec.clock is None:
            msg = "This cluster runs in real time; start it with Cluster(..., clock=<date>)"
            raise ValueError(msg)
        clock = self.container.clock
        assert isinstance(clock, ExternalClock)  # noqa: S101 - for the type checker
        clock.set_time(time)
        results = await asyncio.gather(
            *(self._control(info, "set_time", time) for info in self.containers),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _start(self) -> None:
        spec = self._spec
        codec = load(spec.codec)
        serializers = [load(name) for name in spec.extra_serializers]
        self._codec = make_codec(codec, serializers)
        self._directory = Path(tempfile.mkdtemp(prefix="aiomas-"))  # with mode 0700
        self.container = await Container.create(
            self._addr("driver"),
            codec=codec,
            extra_serializers=serializers,
            clock=None if spec.clock is None else ExternalClock(spec.clock),
            as_coro=True,
        )
        self.containers = [ContainerInfo(index) for index in range(spec.containers)]
        try:
            async with asyncio.TaskGroup() as group:
                for info in self.containers:
                    group.create_task(self._start_container(info))
        except* Exception as errors:  # noqa: BLE001 - raised again
            # The first is what went wrong; the others follow from it.
            raise errors.exceptions[0] from None

    async def _start_container(self, info: ContainerInfo) -> None:
        assert self._directory is not None  # noqa: S101 - made before
        worker = await WorkerProcess.start(self._directory, uvloop=self._spec.uses_uvloop)
        info.pid = worker.process.pid
        self._workers[info.index] = worker
        self._watchers.append(asyncio.create_task(self._watch(info, worker)))
        fields = dataclasses.asdict(self._spec)
        info.url = await self._control(info, "start", fields, self._addr(str(info.index)))
        # It is up when it has answered where the others will reach it.
        await self.container.ping(info.url)
        info.state = "running"

    async def _watch(self, info: ContainerInfo, worker: WorkerProcess) -> None:
        info.exit_code = await worker.process.wait()
        info.state = "stopped" if self._stopping else "died"

    async def _stop(self) -> None:
        self._stopping = True
        try:
            await asyncio.gather(*(w.stop(self._stop_timeout) for w in self._workers.values()))
        finally:  # also if we are cancelled
            try:
                if self._watchers:
                    await asyncio.wait(self._watchers, timeout=_EXIT_TIMEOUT)
                if self.__dict__.get("container") is not None:
                    await self.container.shutdown(as_coro=True, timeout=self._stop_timeout)
            finally:
                if self._directory is not None:
                    shutil.rmtree(self._directory, ignore_errors=True)

    def _addr(self, name: str) -> Any:
        if self._spec.transport == "tcp":
            return "127.0.0.1", 0
        assert self._directory is not None  # noqa: S101 - made before
        return str(self._directory / name)

    async def _control(self, info: ContainerInfo, method: str, *args: Any) -> Any:
        """Call a method of the worker, and say which container it is if that fails."""
        try:
            return await getattr(self._workers[info.index].control.remote, method)(*args)
        except ConnectionError as exc:
            raise await self._died(info) from exc
        except RemoteException as exc:
            msg = f"Container {info.index} (pid {info.pid}): {exc.remote_traceback}"
            raise ClusterError(msg) from None

    async def _died(self, info: ContainerInfo) -> ContainerDied:
        # Its control stream is closed, so it has ended or is about to.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_TIMEOUT):
                await self._workers[info.index].process.wait()
        code = self._workers[info.index].process.returncode
        how = "closed its control stream" if code is None else _exit_description(code)
        msg = f"Container {info.index} (pid {info.pid}) {how}"
        return ContainerDied(msg, info.index, code)

    async def _spawn_all(
        self,
        target: Any,
        calls: Sequence[tuple[Sequence[Any], dict[str, Any]]],
        placement: str | int | Proxy | Strategy,
    ) -> list[Any]:
        name = target if isinstance(target, str) else importable_name(target)
        choose = chooser(placement, self.containers, self._round_robin)
        running = [info for info in self.containers if info.state == "running"]
        if not running:
            msg = "No container of this cluster runs"
            raise SpawnError(msg)
        proxies: list[Any] = [None] * len(calls)
        places: dict[int, list[int]] = {}
        try:
            for number in range(len(calls)):
                info = running[choose(running)]
                info.agents += 1  # now, so that the strategy sees it when it chooses for the next
                places.setdefault(info.index, []).append(number)
            results = await asyncio.gather(
                *(
                    self._spawn_in(self.containers[index], name, calls, numbers, proxies)
                    for index, numbers in places.items()
                ),
                return_exceptions=True,
            )
        finally:
            for index, numbers in places.items():
                self.containers[index].agents -= sum(proxies[number] is None for number in numbers)
        for error in results:
            if isinstance(error, SpawnError | ContainerDied):
                error.spawned = [proxy for proxy in proxies if proxy is not None]
            if isinstance(error, BaseException):
                raise error
        return proxies

    async def _spawn_in(
        self,
        info: ContainerInfo,
        target: str,
        calls: Sequence[tuple[Sequence[Any], dict[str, Any]]],
        numbers: list[int],
        proxies: list[Any],
    ) -> None:
        """Make some of the agents in one container, and put their proxies into the list."""
        for chunk, data in self._chunks(calls, numbers):
            made, failure = await self._control(info, "spawn", target, data)
            for number, (url, class_name) in zip(chunk, made, strict=False):
                proxies[number] = self.container.proxy(url, class_name)
            if failure is not None:
                msg = (
                    f"Agent number {chunk[len(made)]} ({target}) could not be made in container "
                    f"{info.index} (pid {info.pid}):\n{failure}"
                )
                raise SpawnError(msg)

    def _chunks(
        self, calls: Sequence[tuple[Sequence[Any], dict[str, Any]]], numbers: list[int]
    ) -> Iterator[tuple[list[int], bytes]]:
        """Cut *numbers* into pieces whose arguments fit into a message; yield both."""
        for start in range(0, len(numbers), _CHUNK_AGENTS):
            pieces = [numbers[start : start + _CHUNK_AGENTS]]
            while pieces:
                piece = pieces.pop()
                data = self._codec.encode([calls[number] for number in piece])
                if len(data) > _CHUNK_BYTES and len(piece) > 1:
                    middle = len(piece) // 2
                    pieces += [piece[middle:], piece[:middle]]
                else:
                    yield piece, data

    async def _status(self, info: ContainerInfo, timeout: float) -> dict[str, Any]:
        status: dict[str, Any] = {
            key: getattr(info, key) for key in ("index", "pid", "url", "state", "agents")
        }
        if info.state == "running":
            with contextlib.suppress(psutil.NoSuchProcess, ContainerDied):
                process = psutil.Process(info.pid)
                times = process.cpu_times()
                status["cpu"] = times.user + times.system
                status["rss"] = process.memory_info().rss
                try:
                    async with asyncio.timeout(timeout):
                        status["agents"] = await self._control(info, "agents")
                except TimeoutError:
                    status["state"] = "not answering"
        return status


def _call(argument: Any) -> tuple[Sequence[Any], dict[str, Any]]:
    match argument:
        case dict():
            return (), argument
        case tuple() | list():
            return argument, {}
        case _:
            msg = f"Arguments are a tuple, list or dictionary for each agent, got {argument!r}"
            raise TypeError(msg)


def _exit_description(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
