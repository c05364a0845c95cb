"""Looking at a run from outside: a small service in its run directory, and the client for it.

The supervisor serves it with :func:`serve_watch`; ``aiomas cluster status`` and its like are
clients.  What a status says is the supervisor's matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from aiomas import rpc
from aiomas.channel import Server
from aiomas.cluster import rundir
from aiomas.cluster.rundir import Run
from aiomas.codecs import MsgPack
from aiomas.exceptions import ClusterError, RemoteException

SOCKET = "watch.sock"
"""The name of the service's socket in a run directory."""
TIMEOUT = 5.0
"""Seconds that a supervisor has to answer."""
_CLOSE_TIMEOUT = 1.0  # seconds
_PAUSE = 0.05  # seconds between two looks whether a run is still there

Status = Mapping[str, Any]
LogRead = Callable[[int, Any], Awaitable[tuple[Any, bytes]]]
"""Reads a part of a container's log: gets its index and a position, and returns the next position
and the part; see :meth:`Watch.log_read`."""


class RunGone(ClusterError):  # noqa: N818 - says what happened
    """Nothing listens in the run directory: the run has ended, or has only begun."""


class _Service:
    router = rpc.Service()

    def __init__(
        self,
        status: Callable[[], Awaitable[dict[str, Any]]],
        stop: Callable[[], None],
        log_read: LogRead | None,
    ) -> None:
        self._status = status
        self._stop = stop
        self._log_read = log_read

    @rpc.expose(idempotent=True)
    async def status(self) -> dict[str, Any]:
        """Return what is known of the run."""
        return await self._status()

    @rpc.expose(idempotent=True)
    def stop(self) -> None:
        """Let the run end."""
        self._stop()

    @rpc.expose(idempotent=True)
    async def log_read(self, index: int, position: Any) -> tuple[Any, bytes]:
        """Return a part of a container's log."""
        if self._log_read is None:
            msg = "logs are read in their files"
            raise LookupError(msg)
        return await self._log_read(index, position)


class WatchServer:
    """What :func:`serve_watch` returns; also an asynchronous context manager."""

    def __init__(self) -> None:
        self._clients: set[rpc.RpcClient] = set()
        self._server: Server

    @classmethod
    async def start(cls, service: _Service, sock: socket.socket) -> Self:
        """Serve *service* on a socket that is bound, and belongs to the server from now on."""
        server = cls()
        try:
            server._server = await rpc.start_server(
                None,
                service,
                server._connected,
                codec=MsgPack,
                sock=sock,
            )
        except BaseException:
            sock.close()
            raise
        return server

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()
        await self.wait_closed()

    def close(self) -> None:
        """Stop listening, and close all connections after what has been answered."""
        self._server.close()
        for client in tuple(self._clients):
            client.close()

    async def wait_closed(self) -> None:
        """Wait until all is closed, at most a second."""
        await self._server.wait_closed()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                for client in tuple(self._clients):
                    await client.close()

    def _connected(self, client: rpc.RpcClient) -> None:
        self._clients.add(client)
        client.channel.on_closed(lambda: self._clients.discard(client))


async def serve_watch(
    path: Path,
    status: Callable[[], Awaitable[dict[str, Any]]],
    stop: Callable[[], None],
    log_read: LogRead | None = None,
) -> WatchServer:
    """Serve those who watch a run, on a Unix socket that only this user can connect to.

    The socket's file is removed with the directory, not when the server is closed.

    Args:
        path: of the socket: :data:`SOCKET` in the run directory.
        status: returns ``{"facts": {...}, "containers": [...]}``; called for each question.
        stop: begins to end the run, and returns before that is done, so that there is an answer.
        log_read: reads logs of containers, those of other hosts included; ``None`` if all logs are
            files on this machine.

    Raises:
        OSError: the socket cannot be made.
    """
    # Not by its path: to bind that would lock the directory, which a living run keeps locked.
    return await WatchServer.start(_Service(status, stop, log_read), _bind(path))


def _bind(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(str(path))
        # Nobody can connect before it listens, so there is no moment at which others could.
        path.chmod(0o600)
    except BaseException:
        sock.close()
        raise
    return sock


class Watch:
    """A connection to the supervisor of a run, an asynchronous context manager.

    Args:
        run: the run.
        timeout: seconds that connecting and each answer may take.

    Raises:
        RunGone: the run has ended.
        ClusterError: the supervisor does not answer in time.
    """

    def __init__(self, run: Run, *, timeout: float = TIMEOUT) -> None:
        self.run = run
        self._timeout = timeout
        self._client: rpc.RpcClient

    async def __aenter__(self) -> Self:
        async with self._bounded():
            self._client = await rpc.open_connection(str(self.run.path / SOCKET), codec=MsgPack)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._client.close()

    async def status(self) -> dict[str, Any]:
        """Return ``{"facts": {...}, "containers": [...]}``.

        Raises:
            RunGone: the run has ended.
            ClusterError: the supervisor does not answer in time, or failed.
        """
        async with self._bounded():
            status = await self._client.remote.status()
        return {**status, "containers": list(status["containers"])}  # the codec makes tuples

    async def stop(self) -> None:
        """Ask the run to end; :func:`wait_until_gone` waits until it has.

        Raises:
            RunGone: it has ended.
            ClusterError: the supervisor does not answer in time, or failed.
        """
        async with self._bounded():
            await self._client.remote.stop()

    async def log_read(self, index: int, position: Any) -> tuple[Any, bytes]:
        """Return a part of the log of a container, wherever that runs.

        Args:
            index: the number of the container.
            position: ``-n`` for the last *n* lines, ``None`` for what there is of the line that is
                not complete yet; after that, what the answer before has said.

        Returns:
            The position after this part, and the part, which is empty if there is no more.

        Raises:
            RunGone: the run has ended.
            ClusterError: the log cannot be read: there is no such container, say, or its host is
                lost.
        """
        async with self._bounded():
            position, data = await self._client.remote.log_read(index, position)
        return position, data

    @contextlib.asynccontextmanager
    async def _bounded(self) -> Any:
        """Bound what is done inside, and say of which run an error is."""
        who = f"{self.run.name!r} (pid {self.run.facts.get('pid', 'not known')})"
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except RemoteException as exc:
            reason = str(exc).strip().splitlines()[-1]
            msg = f"the supervisor of cluster {who} failed: {reason}"
            raise ClusterError(msg) from exc
        except TimeoutError as exc:
            msg = f"the supervisor of cluster {who} did not answer within {self._timeout:g} s"
            raise ClusterError(msg) from exc
        except (ConnectionError, FileNotFoundError) as exc:
            msg = f"cluster {who} starts or ends just now: {SOCKET} in {self.run.path} is not open"
            raise RunGone(msg) from exc


def wait_until_gone(run: Run, timeout: float) -> bool:
    """Wait until *run* has ended, at most *timeout* seconds; return whether it has."""
    deadline = time.monotonic() + timeout
    while any(other.path == run.path and _same(other, run) for other in rundir.running()):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_PAUSE)
    return True


def _same(one: Run, other: Run) -> bool:
    # Another run may have got the name of the one that has ended.
    return all(one.facts.get(fact) == other.facts.get(fact) for fact in ("pid", "started"))


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """What a container did between two looks at it."""

    cpu: float
    """Percent of a core."""
    calls_in: float
    """Calls per second that it served."""
    calls_out: float
    """Calls per second that it made."""
    bytes_in: float
    """Bytes per second."""
    bytes_out: float
    """Bytes per second."""


def rates(before: Sequence[Status], after: Sequence[Status], seconds: float) -> dict[int, Rates]:
    """Return what containers did between two statuses of a run, by their indices.

    Args:
        before: the containers of the first status.
        after: those of the second one.
        seconds: the time between the two.

    Returns:
        Rates of each container that was the same process both times.
    """
    earlier = {status["index"]: status for status in before}
    return {
        now["index"]: Rates(100 * cpu, *others)
        for now in after
        for cpu, *others in _differences(earlier.get(now["index"], {}), now, seconds)
    }


def _differences(before: Status, now: Status, seconds: float) -> Iterator[list[float]]:
    """Yield the rates once, or not at all."""
    if seconds <= 0 or before.get("pid") != now["pid"]:
        return
    names = [field.name for field in dataclasses.fields(Rates)]
    # Counters of a process that does not run are not there.
    if any(status.get(name) is None for status in (before, now) for name in names):
        return
    yield [(now[name] - before[name]) / seconds for name in names]
