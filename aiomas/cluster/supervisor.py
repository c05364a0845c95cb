"""The process that starts, watches, restarts and ends the containers of one host.

Its driver reaches it over a stream that it inherits.  It ends with that stream, and nothing that
it has started outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from aiomas import rpc
from aiomas.cluster import streams, watch
from aiomas.cluster.child import Child
from aiomas.cluster.echo import Echo
from aiomas.cluster.environment import set_title
from aiomas.cluster.events import ClusterEvent, EventKind, error_content
from aiomas.cluster.info import LOCALHOST
from aiomas.cluster.rundir import RunDirectory
from aiomas.cluster.spec import ClusterSpec
from aiomas.cluster.surroundings import Surroundings
from aiomas.cluster.zygote import ForkServer, Program
from aiomas.exceptions import AiomasError, ClusterError, ContainerDied

Credentials = tuple[bytes, bytes, bytes | None]
"""The certificate of a host, those that it trusts, and their revocation list (PEM)."""
P = ParamSpec("P")
T = TypeVar("T")

_SHARED = ("hmac",)  # what each container imports when it starts
_HURRY = 1.0  # seconds that containers have to end when the driver is gone
_ALL_TIMEOUT = 3.0  # seconds after which all that is left is killed then, all at once
_FORK_TIMEOUT = 0.5  # seconds that the fork server has to end when its children have ended
_LOAD_WINDOW = 0.5  # seconds over which loads are taken: the system counts in hundredths
_STATUS_TIMEOUT = 2.0  # seconds that a container has to say how it is
_PARENT_PAUSE = 1.0  # seconds between two looks whether the driver still lives


class _Load(NamedTuple):
    """What a process had used at some time."""

    pid: int
    used: float  # seconds of CPU
    time: float
    share: float  # of a core, before that


def _reporting(
    method: Callable[Concatenate[Supervisor, P], Awaitable[T]],
) -> Callable[Concatenate[Supervisor, P], Coroutine[Any, Any, dict[str, Any]]]:
    """Let *method* return its result or its error in a form that can travel."""

    async def report(self: Supervisor, /, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        try:
            return {"value": await method(self, *args, **kwargs)}
        except (ContainerDied, ClusterError) as exc:
            return {"error": error_content(exc)}
        except (AiomasError, OSError) as exc:
            return {"error": {"message": f"{type(exc).__name__}: {exc}"}}

    functools.update_wrapper(report, method)
    return report


class Supervisor:
    """The control service of a host."""

    router = rpc.Service()

    def __init__(self, program: Program) -> None:
        self._program = program
        self._driver: rpc.RpcClient
        self._spec: ClusterSpec
        self._run: RunDirectory | None = None
        self._facts: dict[str, Any] = {}
        self._fork: ForkServer
        self._prepared: asyncio.Future[Any]
        self._around: Surroundings
        self._children: list[Child] = []
        self._loads: dict[int, _Load] = {}
        self._watch: Any = None
        self._echo = Echo(self._log)
        self._end = asyncio.Event()
        self._tidy: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._why_ended: ClusterError | None = None  # if somebody has told us to stop

    @rpc.expose
    @_reporting
    async def prepare(self, fields: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
        """Make the directory of the run, and what certificates need.

        Args:
            fields: those of a :class:`ClusterSpec`.
            facts: what is told about the run to whoever looks for clusters.

        Returns:
            ``directory`` and ``name`` of the run; ``request``: the host's request for a
            certificate, or ``None`` if there is to be no TLS.
        """
        self._spec = ClusterSpec.of_fields(fields)
        self._run = RunDirectory.create(self._spec.name)
        self._facts = facts | {
            "name": self._run.name,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": time.time(),
            "log_dir": str(self._log_directory(self._run.path)),
        }
        # Who finds the run can ask it, however long it takes until there are containers.
        self._watch = await watch.serve_watch(
            self._run.path / watch.SOCKET, self._watched, self._stop_from_outside
        )
        self._run.publish(self._facts)
        set_title(f"aiomas {self._run.name}/supervisor")
        await self._fork.tidy_up(self._run.path)
        spec = self._spec
        dates = ["arrow"] * (spec.clock is not None)  # else it is imported by who has a date
        modules = [*_SHARED, *dates, *(["uvloop"] * spec.uses_uvloop), *spec.preload]
        # It imports while the driver does what it has to do.
        self._prepared = asyncio.ensure_future(self._fork.preload(modules))
        self._prepared.add_done_callback(_take_note)  # begin() may never be called
        request = None
        if self._spec.transport == "tls":
            from aiomas.cluster import certificates  # noqa: PLC0415 - only TLS pays for it

            self._key, request = certificates.make_key_and_request(LOCALHOST)
        return {"directory": str(self._run.path), "name": self._run.name, "request": request}

    @rpc.expose
    @_reporting
    async def begin(
        self, token: str, credentials: Credentials | None, *, echo: bool
    ) -> list[dict[str, Any]]:
        """Start all containers, and return when each of them answers.

        Args:
            token: what they show each other.
            credentials: the host's certificate, those it trusts, and their revocation list.
            echo: whether the driver wants the lines of their logs.

        Returns:
            ``index``, ``pid`` and ``url`` of each.
        """
        assert self._run is not None  # noqa: S101 - the driver has called prepare()
        spec = self._spec
        self._around = Surroundings(
            spec=spec,
            run=self._run.name,
            directory=self._run.path,
            logs=Path(self._facts["log_dir"]),
            fork=self._fork,
            token=token,
            tls=credentials is not None,
            emit=self._emit,
            echo=self._echo.take if echo else None,
        )
        self._starting = asyncio.create_task(self._start_all(credentials))
        try:
            await self._starting
        except (ClusterError, ContainerDied, asyncio.CancelledError) as exc:
            if self._why_ended is None:
                raise
            raise self._why_ended from exc
        return [{"index": c.index, "pid": c.pid, "url": c.url} for c in self._children]

    @rpc.expose
    @_reporting
    async def spawn(
        self,
        index: int,
        target: str,
        arguments: bytes,
        respawn: bool,  # noqa: FBT001 - travels
    ) -> tuple[list[Any], str | None, int]:
        """Make agents in a container; see :meth:`aiomas.cluster.worker.Worker.spawn`.

        Returns:
            What that does, and the id of the process in which they are.
        """
        child = self._children[index]
        made, failure = await child.spawn(target, arguments, respawn=respawn)
        return made, failure, child.pid

    @rpc.expose
    @_reporting
    async def set_time(self, time: float) -> list[dict[str, Any]]:
        """Set the clocks of all containers, and return the errors of those that have not got it."""
        self._around.time = time
        results = await asyncio.gather(
            *(child.set_time(time) for child in self._children), return_exceptions=True
        )
        return [error_content(r) for r in results if isinstance(r, ContainerDied | ClusterError)]

    @rpc.expose
    @_reporting
    async def checkpoint(self) -> None:
        """Save the states of all agents that can give them and will be made again."""
        results = await asyncio.gather(
            *(child.checkpoint() for child in self._children), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    @rpc.expose
    @_reporting
    async def status(self, timeout: float = _STATUS_TIMEOUT) -> list[dict[str, Any]]:
        """Return what is known of each container.

        Args:
            timeout: seconds that a container has to answer.
        """
        return await asyncio.gather(*(self._status(child, timeout) for child in self._children))

    @rpc.expose
    @_reporting
    async def loads(self) -> list[float]:
        """Return for each container the share of a core that it has used lately."""
        return [self._load(child) for child in self._children]

    @rpc.expose
    @_reporting
    async def stop(self, timeout: float) -> list[int | None]:
        """End all containers, and then the run.

        Args:
            timeout: seconds; see :meth:`aiomas.cluster.life.Life.stop`.

        Returns:
            How the last process of each container ended.
        """
        await self._stop_children(timeout)
        self._end.set()
        return [child.exit_code for child in self._children]

    async def serve(self, control: socket.socket) -> None:
        """Serve the driver until it is gone or has told us to stop."""
        self._fork = await ForkServer.attach(self._program)
        self._fork.lost.add_done_callback(lambda _: self._fork_server_lost())
        self._driver = await streams.accept(control, self, name="the driver")
        self._driver.channel.on_closed(self._end.set)
        parent = asyncio.create_task(self._watch_parent())
        try:
            await self._end.wait()
        finally:
            parent.cancel()
            await self._clean_up()
            self._driver.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HURRY):
                    await self._driver.channel.wait_closed()

    async def _start_all(self, credentials: Credentials | None) -> None:
        await self._prepared
        if credentials is not None:
            await self._load_tls(credentials)
        self._children = [Child(index, self._around) for index in range(self._spec.containers)]
        await _all_or_first_error([child.start() for child in self._children])

    async def _clean_up(self) -> None:
        hurry = min(_HURRY, self._spec.stop_timeout) if self._run else _HURRY
        stopping = asyncio.create_task(self._stop_children(hurry))
        try:
            # A fork server that does not answer keeps each of them waiting.
            await asyncio.wait({stopping}, timeout=_ALL_TIMEOUT)
        finally:
            if self._watch is not None:
                self._watch.close()
            # First the directory: if we are killed now, the fork server removes it, but only as
            # long as it has not been told to end.
            if self._run is not None:
                self._run.remove()
            await self._fork.close(_FORK_TIMEOUT)
            self._echo.close()
            await asyncio.wait({stopping}, timeout=_HURRY)

    async def _stop_children(self, timeout: float) -> None:
        await asyncio.gather(*(child.stop(timeout) for child in self._children))
        await self._echo.flush(_HURRY)

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

    async def _watched(self) -> dict[str, Any]:
        status = await self.status()
        return {"facts": self._facts, "containers": status["value"]}

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

    async def _load_tls(self, credentials: Credentials) -> None:
        """Let all containers that are started from now on have the host's certificate and key."""
        from aiomas.cluster import certificates  # noqa: PLC0415 - only TLS pays for it

        assert self._run is not None  # noqa: S101 - the driver has called prepare()
        certificate, trusted, crl = credentials
        directory = self._run.path / "tls"
        certs = certificates.write_credentials(directory, self._key, certificate, trusted, crl)
        paths = [None if path is None else os.fspath(path) for path in certs]
        try:
            await self._fork.prepare("aiomas.cluster.worker:load_tls", paths)
        finally:
            shutil.rmtree(directory, ignore_errors=True)  # nobody reads the files again

    async def _status(self, child: Child, timeout: float) -> dict[str, Any]:
        status: dict[str, Any] = {
            "index": child.index,
            "host": LOCALHOST,
            "pid": child.pid,
            "url": child.url,
            "state": child.state,
            "agents": 0,
            "restarts": child.restarts,
            "exit_code": child.exit_code,
        }
        if child.state in {"running", "hung"}:
            status["uptime"] = child.uptime
            status |= _used(child.running_pid)
            try:
                status |= await child.call("status", timeout=timeout)
            except (ClusterError, ContainerDied):
                status["state"] = "hung" if child.state == "running" else child.state
        return status

    def _load(self, child: Child) -> float:
        now = time.monotonic()
        last = self._loads.get(child.index)
        if last is None or last.pid != child.pid:
            last = _Load(child.pid, 0.0, now - child.uptime, 0.0)
        if now - last.time >= _LOAD_WINDOW:
            used: float = _used(child.running_pid).get("cpu", 0.0)
            last = _Load(child.pid, used, now, (used - last.used) / (now - last.time))
            self._loads[child.index] = last
        return last.share


def _take_note(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()


def _used(pid: int | None) -> dict[str, Any]:
    """Return what a process has used: seconds of CPU, bytes of memory."""
    if pid is None:
        return {}
    import psutil  # noqa: PLC0415 - 15 ms that a start need not spend

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return {"cpu": times.user + times.system, "rss": process.memory_info().rss}
    except psutil.Error:
        return {}


async def _all_or_first_error(coros: Sequence[Awaitable[Any]]) -> None:
    """Await all; when one fails, cancel the others and raise its error."""
    tasks = [asyncio.ensure_future(coro) for coro in coros]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise
