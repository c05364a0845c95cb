"""The driver's view of a cluster: start it, spawn agents, look at it, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from aiomas._limits import Limits
from aiomas.agent import Agent, Container
from aiomas.clocks import ExternalClock
from aiomas.cluster.archive import Former
from aiomas.cluster.events import ClusterEvent, EventKind, error_of_content, together
from aiomas.cluster.fanout import CONCURRENCY, map_calls, starmap_calls
from aiomas.cluster.hosts import HostSpec, host_specs
from aiomas.cluster.info import ContainerInfo, HostInfo
from aiomas.cluster.keeper import Keeper
from aiomas.cluster.launchers.base import Launcher
from aiomas.cluster.launchers.choice import default_launcher
from aiomas.cluster.listening import Callback, Listeners
from aiomas.cluster.members import Member
from aiomas.cluster.naming import importable_name
from aiomas.cluster.placement import RoundRobin, Strategy, chooser
from aiomas.cluster.policy import HostPolicy, check
from aiomas.cluster.progress import Progress
from aiomas.cluster.remaking import remake
from aiomas.cluster.roster import Roster
from aiomas.cluster.run import Lifecycle
from aiomas.cluster.spawning import Arguments, Spawner, arguments_of
from aiomas.cluster.spec import ClusterSpec, RestartPolicy
from aiomas.codecs import Codec
from aiomas.exceptions import ClusterError, SpawnError
from aiomas.rpc import Proxy

_MARGIN = 2.0  # seconds that the supervisor may be late to what its containers have

Placement = str | int | Proxy | Strategy
"""Where agents are made; see :meth:`Cluster.spawn`."""


class Cluster:
    """Container processes on this machine, or on several hosts, with agents spread over them.

    Use it as an asynchronous context manager; all processes have ended when the block has.

    Args:
        containers: how many container processes in all; by default one for each core that we may
            use.  Those that no host asks for are divided equally among the other hosts.
        hosts: where they are: :class:`~aiomas.cluster.HostSpec`, or strings that stand for their
            first field; by default on this machine alone.  With *hosts*, this machine has
            containers only if ``"localhost"`` is one of them.
        transport: how containers talk to each other: ``"unix"`` for Unix sockets in a directory
            that only this user can enter, ``"tcp"`` for TCP, or ``"tls"`` for that with mutual TLS.
            On one machine the two are on its loopback interface.  Over each of them, only
            containers of the same run are served.  By default ``"tls"`` if there are *hosts*, or a
            launcher that chooses them, else ``"unix"``.
        codec: ``"msgpack"``, ``"json"``, ``"msgpack-blosc"``, or a
            :class:`~aiomas.codecs.Codec` subclass that other processes can import.
        extra_serializers: callables that other processes can import, or their names
            (``"module:callable"``).
        launcher: what starts supervisors; by default ``ssh`` for *hosts*, and else a child process.
        pki: for ``"tls"``, a directory made by ``aiomas pki``; by default an authority for this
            run alone, in memory.
        certificate_days: how long the certificates of this run are valid, from 1 to 365.  After
            that no new connections can be made, so a container that is started again is not
            reached.
        restart: when containers that have ended are started again.
        loop: ``"asyncio"``, ``"uvloop"``, or ``"auto"`` for uvloop where it is installed.
        clock: ``None`` for real time; a date for an :class:`~aiomas.ExternalClock` that starts
            there in each container, see :meth:`set_time`.
        preload: the name, or names, of modules that all containers share, as they are imported
            before these are forked; ``"arrow"``, say, if agents send each other dates.  They must
            not start threads.
        name: to find it with ``aiomas cluster ls``; by default one is made up.
        seed: for each container, its random numbers (those of :mod:`random`, and of numpy's legacy
            functions if that was preloaded, or comes with the module of an agent) follow from this,
            from its index and from how often it was restarted.
        port: for ``"tcp"`` and ``"tls"``, container *i* listens on ``port + i``; by default on any
            free port.
        env: environment variables, one mapping for all containers or a list with one for each.
        cwd: the working directory of the containers on this machine; by default, ours.
        pin: let each container run on one core, one after the other.
        nice: how much the containers give way to other processes, from 0 to 19.
        memory: bytes that a container may allocate; beyond, allocating raises :exc:`MemoryError`.
        open_files: how many files and connections a container may have open.
        hang_timeout: seconds in which a container's event loop has to answer, after which
            :meth:`spawn`, :meth:`checkpoint` and :meth:`set_time` wait for it no longer (they raise
            :class:`~aiomas.exceptions.ClusterError`); ``None`` for no limit.
        on_hang: what happens to one that does not: ``"report"`` (an event), or ``"restart"``: its
            stacks are written to its log, it is killed, and started again as *restart* says.
        logs: print what containers write, with their index before each line, on the standard error
            stream.  What is more than can be printed is left out there.
        log_dir: where the files with what containers write are kept, in a folder with the name of
            the run; by default in the directory of the run, which vanishes with it.
        log_bytes: the size at which a log file is put aside and a new one begun.
        log_backups: how many such files are kept for each container.
        progress: show how far the start and long spawns have come, on a terminal.
        start_timeout: seconds until all containers must answer.
        stop_timeout: seconds that containers get to end, before they are terminated and, after
            the same time again, killed.
        limits: those of the connections between containers, ours included; by default those of
            :class:`~aiomas.Limits` without *heartbeat*, since whoever is busy is not dead; on this
            machine alone, without *write_timeout* as well.
        sync: files and directories with modules, which each host gets under their own names before
            it imports any: ``"src/plant"`` is ``plant`` there.
        address: where other hosts reach this machine; by default, the address from which it
            reaches the first one.
        lease: seconds that a host goes on which has lost its driver; then it ends its containers.
            They must be more than three of *heartbeat*.
        heartbeat: seconds between two signs of life of a host; one that is silent for three times
            as long is taken for lost.
        on_host_loss: what happens to the agents of a host that is lost: ``"report"`` (an event), or
            ``"respawn"``: those that were spawned with ``respawn=True`` are made again on others
            when the lease has run out for certain.
        allow_partial: start although some hosts cannot be used, if there is one that can.
        insecure: allow ``"tcp"`` between hosts, in plain text.

    Raises:
        ValueError: a parameter has a value that it cannot have.
    """

    def __init__(
        self,
        containers: int | None = None,
        *,
        hosts: Iterable[HostSpec | str] | None = None,
        transport: str | None = None,
        codec: str | type[Codec] = "msgpack",
        extra_serializers: Iterable[Any] = (),
        launcher: Launcher | None = None,
        pki: str | os.PathLike[str] | None = None,
        certificate_days: int = 30,
        restart: RestartPolicy = RestartPolicy(),  # noqa: B008 - it cannot be changed
        loop: str = "auto",
        clock: Any = None,
        preload: Iterable[str] = (),
        name: str | None = None,
        seed: int | str | None = None,
        port: int = 0,
        env: Mapping[str, str] | Sequence[Mapping[str, str]] = (),
        cwd: str | os.PathLike[str] | None = None,
        pin: bool = False,
        nice: int = 0,
        memory: int | None = None,
        open_files: int | None = None,
        hang_timeout: float | None = 30.0,
        on_hang: str = "report",
        logs: bool = False,
        log_dir: str | os.PathLike[str] | None = None,
        log_bytes: int = 10 * 2**20,
        log_backups: int = 3,
        progress: bool = False,
        start_timeout: float = 60.0,
        stop_timeout: float = 10.0,
        limits: Limits | None = None,
        sync: Iterable[str | os.PathLike[str]] = (),
        address: str | None = None,
        lease: float = 30.0,
        heartbeat: float = 1.0,
        on_host_loss: str = "report",
        allow_partial: bool = False,
        insecure: bool = False,
    ) -> None:
        if sys.platform == "win32":
            msg = "aiomas.cluster needs a POSIX system, Windows is none"
            raise OSError(msg)
        several = hosts is not None or (launcher is not None and launcher.chooses_hosts)
        transport = transport or ("tls" if several else "unix")
        # Each parameter is a field of the spec, but for those of the driver alone.
        self._spec = ClusterSpec.of_parameters(locals(), several=several)
        if pki is not None and transport != "tls":
            msg = f"pki={os.fspath(pki)!r} needs transport='tls', got transport={transport!r}"
            raise ValueError(msg)
        policy = HostPolicy.of_parameters(locals())
        if several:
            check(policy, transport, containers)
        self._asked = containers
        self.container: Container
        """The driver's own container, on the same transport as the others."""
        self._launcher = launcher or default_launcher(several=several)
        self._progress = progress
        self._run = Lifecycle(
            self._spec,
            pki,
            self._took,
            _print_lines if logs else None,
            policy if several else None,
        )
        self._listeners = Listeners()
        self._loop: asyncio.AbstractEventLoop | None = None  # in which it was started
        self._over: str | None = None  # the first reason why it does not run any more
        self._starting: Progress | None = None
        self._stopping = False
        self._round_robin = RoundRobin()
        self._roster = Roster()
        self._keeper = Keeper(self._run, self._roster, self._took, self._remake)

    def __repr__(self) -> str:
        if self._over is not None:
            state = f"over: {self._over}"
        elif self._run.container is None:
            state = "not started" if self._loop is None else "starting"
        else:
            state = self._roster.summary()
        name = f" {self.name!r}" if self.name else ""
        return f"<Cluster{name} of {self._run.spec.containers} containers, {state}>"

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            msg = "A cluster can be started once; make another Cluster()"
            raise ClusterError(msg)
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._spec.start_timeout) as bound:
                await self._start()
        except BaseException as exc:
            late = [str(c.index) for c in self.containers if c.state == "starting"]
            await self._stop("it could not be started")
            if isinstance(exc, TimeoutError) and bound.expired():
                msg = (
                    f"Containers {', '.join(late) or '(all)'} were not ready within "
                    f"start_timeout={self._spec.start_timeout} s"
                )
                raise TimeoutError(msg) from exc
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._check_loop()
        await self._stop("its 'async with' block has ended")

    @property
    def containers(self) -> list[ContainerInfo]:
        """The containers, in the order of their indices."""
        return self._roster.containers

    @property
    def hosts(self) -> list[HostInfo]:
        """The hosts, with their states; the driver's own machine only if it has containers."""
        fleet = self._run.fleet
        return [] if fleet is None else [member.info for member in fleet.shown]

    @property
    def name(self) -> str:
        """The name of the run, by which ``aiomas cluster`` finds it."""
        return self._run.name

    @property
    def directory(self) -> Path | None:
        """The directory of the run, with its sockets and logs; ``None`` before the start."""
        return self._run.directory

    async def spawn(
        self,
        target: str | type[Agent] | Any,
        /,
        *args: Any,
        name: str | None = None,
        respawn: bool = False,
        placement: Placement = "round-robin",
        **kwargs: Any,
    ) -> Any:
        """Make one agent.

        Args:
            target: an agent class, a (coroutine) function that gets a container and returns an
                agent, or the name of one: ``"module:Class"`` or ``"/path/file.py:Class"``.
            args: go to it, after the container; they pass through the cluster's codec.  Agents of
                our own container and proxies may be among them, and arrive as proxies.
            name: a name for :meth:`find`; others can have it when the agent has ended with its
                container.
            respawn: make it again, with the same id and arguments, if its container is started
                again; see :func:`~aiomas.cluster.checkpoint` for its state.
            placement: ``"round-robin"``; ``"least-loaded"``, where there are the fewest agents
                and the process uses the least of its core; a container's index; the name of a
                host; the proxy of an agent, to be beside it; or a
                :data:`~aiomas.cluster.placement.Strategy`.
            kwargs: go to it.

        Returns:
            A proxy for the agent.

        Raises:
            SpawnError: the agent could not be made; the message has the traceback.
            ContainerDied: its container ended.
            ClusterError: the cluster does not run any more.
            SerializationError: the arguments cannot be encoded.
            ValueError: *target* is a class or function that other processes cannot import, or
                *name* is taken.
            TypeError: *name* is no string.
        """
        calls: list[Arguments] = [(args, kwargs)]
        if name is not None:
            self._roster.claim(name)
        try:
            proxies = await self._spawn_all(target, calls, placement, respawn=respawn, name=name)
        finally:
            if name is not None:
                self._roster.release(name)
        return proxies[0]

    async def spawn_many(
        self,
        target: str | type[Agent] | Any,
        arguments: int | Iterable[tuple[Any, ...] | list[Any] | dict[str, Any]],
        *,
        respawn: bool = False,
        placement: Placement = "round-robin",
    ) -> list[Any]:
        """Make many agents, with a few messages for each container.

        Args:
            target: as in :meth:`spawn`.
            arguments: how many agents without arguments; or, for each agent, a tuple of its
                positional or a dictionary of its keyword arguments.
            respawn: as in :meth:`spawn`.
            placement: as in :meth:`spawn`.

        Returns:
            A proxy for each agent, in the order of *arguments*.

        Raises:
            SpawnError: an agent could not be made, or the cluster ended meanwhile; ``spawned`` has
                proxies for those that were made.  If there are errors in several containers, notes
                of the first one tell of the others.
            ContainerDied: a container ended; it has ``spawned`` as well.
            ClusterError: the cluster does not run any more.
            SerializationError: arguments cannot be encoded; a note says for which agent they are,
                and none was made.
            ValueError: *target* is a class or function that other processes cannot import.
            TypeError: *arguments* is something else, or has something else in it.
        """
        return await self._spawn_all(target, arguments_of(arguments), placement, respawn=respawn)

    def find(self, name: str) -> Any:
        """Return the proxy for the agent that was spawned with this name.

        Raises:
            LookupError: there is none, or it ended with its container.
            ClusterError: the cluster does not run.
        """
        self._check_running()
        return self._roster.find(name)

    async def map(
        self,
        method: str,
        agents: Iterable[Any],
        /,
        *args: Any,
        timeout: float | None = None,
        concurrency: int = CONCURRENCY,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Call the same method of many agents, with a few messages for each container.

        Args:
            method: its name.
            agents: proxies for them; each gets a copy of the arguments.
            args: the arguments.
            timeout: seconds that all calls together have.
            concurrency: how many calls are under way at the same time, at the most.
            return_exceptions: return exceptions in the place of results.
            kwargs: the keyword arguments.

        Returns:
            The results, in the order of *agents*.

        Raises:
            PartialResult: a call failed; it has the results of all others.
        """
        return await map_calls(
            self._run_container(),
            method,
            agents,
            args,
            kwargs,
            timeout=timeout,
            concurrency=concurrency,
            return_exceptions=return_exceptions,
        )

    async def starmap(
        self,
        method: str,
        calls: Iterable[Sequence[Any]],
        /,
        *,
        timeout: float | None = None,
        concurrency: int = CONCURRENCY,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Call the same method of many agents, each with arguments of its own.

        Args:
            method: its name.
            calls: ``(agent, *arguments)`` for each call.
            timeout: as in :meth:`map`, like the others and what is raised.
            concurrency: how many calls are under way at the same time, at the most.
            return_exceptions: return exceptions in the place of results.
            kwargs: keyword arguments for all of them.

        Returns:
            The results, in the order of *calls*.
        """
        return await starmap_calls(
            self._run_container(),
            method,
            calls,
            kwargs,
            timeout=timeout,
            concurrency=concurrency,
            return_exceptions=return_exceptions,
        )

    async def status(self, *, timeout: float = 5.0) -> list[dict[str, Any]]:
        """Return what is known of each container.

        Args:
            timeout: seconds that a container has to answer.

        Returns:
            For each container a dictionary with ``index``, ``host``, ``pid``, ``url``, ``state``,
            ``agents``, ``restarts``, ``exit_code`` and, while it runs, ``cpu`` (seconds used so
            far), ``rss`` (bytes), ``uptime`` (seconds), ``calls_in`` and ``calls_out`` (messages),
            ``errors``, ``bytes_in`` and ``bytes_out``.  The state of one that does not answer in
            time is ``"hung"``.

        Raises:
            ClusterError: the supervisor is gone.
        """
        self._run_container()
        found = await self._run.call_all("status", timeout, timeout=timeout + _MARGIN)
        known = {status["index"]: status for _, statuses in found for status in statuses}
        return [known.get(info.index) or _last_known(info) for info in self.containers]

    async def set_time(self, time: float) -> None:
        """Set the external clocks of all containers, and return when all have the new time.

        If some of them fail, all others have the time, our own container too, so that one can go
        on with a later time.  Containers that have been given up before (their state is
        ``"failed"``) are left out, without an error.

        Args:
            time: in seconds; later than the current time.

        Raises:
            ValueError: the cluster was started without ``clock=``, or *time* is not later.
            ContainerDied: a container ended.
            ClusterError: a container could not set its clock; the message has the traceback.  If
                several failed, this is about the first one, and its notes about the others.
        """
        clock = self._run_container().clock
        if self._spec.clock is None:
            msg = "This cluster runs in real time; start it with Cluster(..., clock=<date>)"
            raise ValueError(msg)
        assert isinstance(clock, ExternalClock)  # noqa: S101 - for the type checker
        if not time > clock.time():
            msg = f"The time can only be set forward: it is {clock.time()} s, got {time} s"
            raise ValueError(msg)
        given_up = {info.index for info in self.containers if info.state == "failed"}
        self._keeper.set_time(time)  # a host that joins now has it as well
        found = await self._run.call_all("set_time", time)
        contents = [content for _, contents in found for content in contents]
        clock.set_time(time)  # last, so that it can be repeated if we are cancelled
        errors = [error_of_content(c) for c in contents if c.get("index") not in given_up]
        if errors:
            raise together(errors)

    async def checkpoint(self) -> None:
        """Save the states of all agents that have a method ``get_state()``.

        Those that were spawned with ``respawn=True`` get them back if they are made again.

        Raises:
            ContainerDied: a container ended.
            ClusterError: states could not be had, or are too large; the message names the agents
                and has a traceback.  All others are saved.
        """
        self._run_container()
        await self._run.call_all("checkpoint")

    async def add_host(self, host: HostSpec | str) -> None:
        """Add a host while the cluster runs, with new, empty containers.

        If this is cancelled, it is undone.

        Args:
            host: as in *hosts*; it gets one container for each of its cores, if it does not say how
                many.

        Raises:
            ClusterError: it cannot be used; the message says why.
            ContainerDied: one of its containers ended before it answered.
            OSError: it cannot be used, or is not ready in time (a :exc:`TimeoutError`).  Its
                supervisor has *start_timeout* for that, and then its containers.
            ValueError: the cluster has this host already, or was started without *hosts*.
        """
        self._run_container()
        self._check_several("add_host()")
        [spec] = host_specs([host])
        await self._keeper.add(spec)

    async def remove_host(self, host: str, *, drain: bool = True) -> None:
        """End all containers of a host, and forget it.

        They refuse calls first, and have *stop_timeout* for those under way.  If this is cancelled
        after that, it goes on nevertheless.

        Args:
            host: its name.
            drain: make those of its agents again on other hosts that were spawned with
                ``respawn=True``, with the states that their last calls have left; their new URLs
                are in the event ``RESPAWNED``.  Those of containers that have failed, or do not
                answer, have the states that they have saved last.

        Raises:
            ClusterError: agents cannot give their states, or no other container runs in which they
                could be made again, and nothing was done.  Or all was done, but last states were
                not to be had in the end, so that these agents have those that they had saved
                before; the message names them.
            ValueError: there is no such host, or it is the driver's own machine.
        """
        self._run_container()
        await self._keeper.remove(host, self._spec.stop_timeout, drain=drain)

    async def scale(self, containers: int) -> None:
        """Start or end containers, until there are so many that run.

        New ones go where there are the fewest; with a launcher that chooses hosts, on new hosts.
        The last ones are ended first; what :meth:`remove_host` says about agents, and about what
        is cancelled, holds for theirs.

        Args:
            containers: how many.

        Raises:
            ClusterError: there is no room for them, they were not ready in time (within
                *start_timeout* on each host), or what :meth:`remove_host` says.  New ones on other
                hosts stay.
            ContainerDied: a new container ended before it answered.
            ValueError: it is no number from 1 up.
        """
        self._run_container()
        if not isinstance(containers, int) or isinstance(containers, bool) or containers < 1:
            msg = f"containers must be a number from 1 up, got {containers!r}"
            raise ValueError(msg)
        await self._keeper.scale(containers, self._spec.stop_timeout)

    def on_event(self, callback: Callback) -> Callable[[], None]:
        """Call ``callback(event)`` with each :class:`ClusterEvent` from now on.

        Returns:
            A function that ends that.
        """
        return self._listeners.add(callback)

    def events(self) -> AsyncIterator[ClusterEvent]:
        """Return an asynchronous iterator over the events from now on; it ends with the cluster.

        It keeps 10,000 events for whoever does not come for them; the oldest are dropped first.
        """
        return self._listeners.iterate()

    async def _start(self) -> None:
        with self._bar("Starting containers") as bar:

            def placed(members: Sequence[Member]) -> None:
                for member in members:
                    self._roster.expect(member.info.containers, member.name)
                bar.started(len(self.containers))
                self._starting = bar

            begun = await self._run.start(
                self._launcher, self._lost, self._keeper.lost, self._asked, placed
            )
            container = self._run_container()
            self.container = container
            self._roster.began(begun)
            # They are up when they have answered where others will reach them.
            await asyncio.gather(*(container.ping(info.url) for info in self.containers))
            self._starting = None
            self._keeper.begin()

    async def _stop(self, why: str) -> None:
        self._stopping = True
        self._over = self._over or why
        exit_codes: dict[int, int | None] = {}
        try:
            await self._keeper.close()
            exit_codes = await self._run.stop(self._spec.stop_timeout)
        finally:
            self._roster.end(exit_codes)
            self._listeners.close()

    def _check_running(self) -> None:
        if self._over is not None:
            msg = f"The cluster does not run any more: {self._over}"
            raise ClusterError(msg)
        if self._run.container is None:
            msg = "The cluster does not run; use it in an 'async with' block"
            raise ClusterError(msg)

    def _run_container(self) -> Any:
        """Return our container, if the cluster can be used."""
        self._check_running()
        self._check_loop()
        return self._run.container

    def _check_loop(self) -> None:
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            msg = (
                "The cluster belongs to another event loop, the one it was started in; from other "
                "threads, use asyncio.run_coroutine_threadsafe()"
            )
            raise ClusterError(msg)

    def _check_several(self, what: str) -> None:
        if self._run.several:
            return
        msg = f"{what} needs a cluster that was started with hosts=, or a launcher that has them"
        raise ValueError(msg)

    async def _remake(
        self, formers: Sequence[Former], took: Callable[[dict[str, Any]], object]
    ) -> None:
        """Make agents again that were on a host which is gone; see :mod:`.remaking`."""
        told = self._took, took
        await remake(self._run, self._roster, formers, self._round_robin, *told)

    async def _spawn_all(
        self,
        target: Any,
        calls: Sequence[Arguments],
        placement: Placement,
        *,
        respawn: bool,
        name: str | None = None,
    ) -> list[Any]:
        target = target if isinstance(target, str) else importable_name(target)
        container = self._run_container()
        choose = chooser(placement, self.containers, self._round_robin)
        running = self._roster.running()
        if not running:
            msg = f"No container of this cluster runs: {self._roster.summary()}"
            raise SpawnError(msg)
        if placement == "least-loaded":
            for _, loads in await self._run.call_all("loads"):
                for index, load in loads.items():
                    self.containers[index].cpu_load = load
        with self._bar("Spawning agents") as bar:
            bar.started(len(calls))
            spawner = Spawner(container, container.portable_codec(), self._run.send, bar.advance)
            proxies = await spawner.spawn(target, calls, running, choose, respawn=respawn)
        if name is not None:
            [(index, pid)] = spawner.processes.items()
            self._roster.give(name, proxies[0], index, pid, respawn=respawn)
        return proxies

    def _bar(self, description: str) -> Progress:
        return Progress(description, shown=None if self._progress else False)

    def _took(self, event: ClusterEvent) -> None:
        """Take an event from the supervisor."""
        self._roster.take(event)
        if event.kind is EventKind.LOST:
            # How it is said in events and by calls that were under way.
            self._over = self._over or event.message.removeprefix("The cluster is gone: ")
            self._keeper.end(f"the cluster does not run any more: {self._over}")
        elif event.kind is EventKind.STARTED and self._starting is not None:
            self._starting.advance()
        self._listeners.tell(event)

    def _lost(self) -> None:
        """Note that the supervisor is gone."""
        if self._stopping:
            return
        self._keeper.end("the cluster is gone")
        self._telling = asyncio.ensure_future(self._tell_of_loss())

    async def _tell_of_loss(self) -> None:
        error = await self._run.lost()
        if self._over is None:  # or the supervisor has told why itself, before it ended
            self._took(ClusterEvent(kind=EventKind.LOST, message=str(error), error=error))
        await self._keeper.close()  # before others are given up, or they would be started again
        await self._run.abandon()


def _last_known(info: ContainerInfo) -> dict[str, Any]:
    """Return the status of a container whose supervisor cannot be asked."""
    names = ("index", "host", "pid", "url", "state", "restarts", "exit_code")
    return {name: getattr(info, name) for name in names} | {"agents": 0}


def _print_lines(index: int, lines: Sequence[str]) -> None:
    """Print lines of a log, in the thread of the control plane: the event loop may be busy."""
    with contextlib.suppress(OSError, ValueError):  # nobody reads them, or the stream is closed
        sys.stderr.write("".join(f"[{index}] {line}\n" for line in lines))
