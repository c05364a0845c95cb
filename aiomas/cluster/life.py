"""One process of a container, from its fork to its end, as its supervisor sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import Any

from aiomas import rpc
from aiomas.cluster import streams
from aiomas.cluster.endings import how_it_ended
from aiomas.cluster.environment import kernel_oom_kills
from aiomas.cluster.forkserver import OUT_OF_MEMORY
from aiomas.cluster.logs import Log
from aiomas.cluster.zygote import ForkServer, Process
from aiomas.exceptions import (
    ClusterError,
    ConnectionLost,
    ContainerDied,
    DeadlineExceeded,
    RemoteException,
)

_EXIT_TIMEOUT = 1.0  # seconds to learn how a process ended that has closed its control stream
_DEATH_TIMEOUT = 30.0  # seconds for that if the fork server is slow to kill it
_LOG_TIMEOUT = 0.5  # seconds to read what a process has written that has ended
_LATE = 1.0  # seconds that an answer may be late to what it promised
_READ = 65_536  # bytes of a log


class LogPipe:
    """Reads what a process writes, so that a full disk cannot hold it up.

    A slow one can: the log is written in the event loop of the supervisor, which waits for the
    disk, and with it those processes that have filled their pipes.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._read, self.write_end = os.pipe()
        os.set_blocking(self._read, False)
        self._ended = asyncio.Event()
        self._heard = asyncio.Event()
        self._loop.add_reader(self._read, self._readable)

    def close_write_end(self) -> None:
        """Leave writing to the process."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    async def drain(self) -> None:
        """Read what is left; not for long, as others may hold the pipe open."""
        self.close_write_end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOG_TIMEOUT):
                await self._ended.wait()
        self._close()

    async def quiet(self, pause: float, within: float) -> None:
        """Wait until something was written, and then nothing for *pause* seconds.

        Returns *within* so many seconds in any case.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                self._heard.clear()
                await self._heard.wait()
                while self._heard.is_set():
                    self._heard.clear()
                    await asyncio.sleep(pause)

    def _readable(self) -> None:
        try:
            data = os.read(self._read, _READ)
        except BlockingIOError:
            return
        self._heard.set()
        if data:
            self._log.write(data)
        else:
            self._close()

    def _close(self) -> None:
        if self._read >= 0:
            self._loop.remove_reader(self._read)
            os.close(self._read)
            self._read = -1
            self._ended.set()


class StillThereError(ClusterError):
    """A process was killed, and does not end: the system holds it up."""


class Life:
    """A process of a container; use :meth:`begin` to start one.

    Args:
        index: the container's index, for messages.
        process: the process.
        fork: what has forked it.
        log: keeps what it writes.
        pipe: brings it.
    """

    def __init__(
        self, index: int, process: Process, fork: ForkServer, log: Log, pipe: LogPipe
    ) -> None:
        self.pid = process.pid
        self.ended: asyncio.Task[ContainerDied]
        """Done when the process has ended, with what a call to it would raise."""
        self.index = index
        self._process = process
        self._fork = fork
        self._log = log
        self._pipe = pipe
        self._client: rpc.RpcClient
        self._why_killed: str | None = None
        self._stopping = False
        self._oom_kills = kernel_oom_kills()

    @classmethod
    async def begin(
        cls,
        index: int,
        fork: ForkServer,
        job: dict[str, Any],
        listening: socket.socket,
        log: Log,
        router: Any,
        timeout: float,
    ) -> Life:
        """Fork a process, and return when it answers on its control stream.

        Args:
            index: the container's index.
            fork: forks it.
            job: see :func:`aiomas.cluster.worker.main`.
            listening: what the container listens on.
            log: takes what the process writes.
            router: what it may call here.
            timeout: seconds until it has to answer.

        Raises:
            ContainerDied: it ended before it answered.
            ClusterError: it could not be forked, or did not answer.
        """
        ours, theirs = socket.socketpair()
        pipe = LogPipe(log)
        try:
            process = await fork.fork(job, [pipe.write_end, theirs.fileno(), listening.fileno()])
        except BaseException:
            ours.close()
            await pipe.drain()
            raise
        finally:
            theirs.close()
            pipe.close_write_end()
        life = cls(index, process, fork, log, pipe)
        life.ended = asyncio.create_task(life._end())
        try:
            life._client = await streams.dial(
                ours, router, timeout=timeout, name=f"container {index}"
            )
        except OSError as exc:
            ours.close()
            if not isinstance(exc, TimeoutError):  # it has ended, or is about to
                await life._has_ended(_EXIT_TIMEOUT)
            await life.kill(f"did not answer within {timeout} s")
            raise await life._death() from exc
        except BaseException:
            ours.close()
            await life.kill("was not wanted any more")
            raise
        life._client.channel.on_closed(life._control_closed)
        return life

    async def call(self, method: str, *args: Any, timeout: float | None = None) -> Any:
        """Call a method of the worker.

        Args:
            method: its name.
            args: its arguments.
            timeout: seconds; ``None`` for no limit.

        Raises:
            ContainerDied: the process has ended.
            ClusterError: the method failed, or took too long; the message has the traceback.
        """
        try:
            function = rpc.with_options(getattr(self._client.remote, method), timeout=timeout)
            return await function(*args)
        except ConnectionError as exc:
            raise await self._death() from exc
        except DeadlineExceeded:
            msg = f"{self._name} has not answered {method}() within {timeout} s"
            raise ClusterError(msg) from None
        except RemoteException as exc:
            msg = f"{self._name}: {exc.remote_traceback}"
            raise ClusterError(msg) from None

    async def answers(self, timeout: float) -> bool:
        """Whether its event loop answers within *timeout* seconds, or it has ended."""
        try:
            await rpc.with_options(self._client.remote.ping, timeout=timeout)()
        except DeadlineExceeded:
            return False
        except (ConnectionLost, RemoteException):
            pass  # that it has ended is noticed elsewhere
        return True

    async def dump_stacks(self, signum: int) -> None:
        """Let it write the stacks of its threads into its log, if it still can."""
        await self._signal(signum)
        await self._pipe.quiet(0.1, within=1.0)

    async def kill(self, why: str) -> None:
        """End it at once; *why* is what :attr:`ended` will say of it."""
        if not self._process.exited.done():
            self._why_killed = self._why_killed or why
            await self._signal(signal.SIGKILL)

    async def end(self, why: str) -> None:
        """End it at once, and wait until it has ended.

        Raises:
            StillThereError: it does not end.
        """
        await self.kill(why)
        await self._has_ended(_DEATH_TIMEOUT)
        if not self.ended.done():
            msg = f"{self._name} {why}, and was killed, but does not end"
            raise StillThereError(msg)

    async def stop(self, timeout: float) -> int | None:
        """End it: ask it, then SIGTERM, then SIGKILL.

        Args:
            timeout: seconds that calls have which are being served, and that it has after each of
                the two former.

        Returns:
            Its exit code; ``None`` if nobody could tell.
        """
        self._stopping = True
        try:
            with contextlib.suppress(ClusterError, ContainerDied):
                await self.call("stop", timeout, timeout=timeout + _LATE)
                self._client.close()
                await self._has_ended(timeout)
            await self._signal(signal.SIGTERM)
            await self._has_ended(timeout)
        finally:  # also if we are cancelled
            await self.kill(f"did not end within {timeout} s")
            await self._has_ended(_EXIT_TIMEOUT)
        return self.ended.result().exit_code if self.ended.done() else None

    @property
    def is_over(self) -> bool:
        """Whether its process has ended, so that another one may have its pid."""
        return self._process.exited.done()

    @property
    def _name(self) -> str:
        return f"Container {self.index} (pid {self.pid})"

    async def _death(self) -> ContainerDied | ClusterError:
        """Return what to raise because the control stream is closed."""
        await self._has_ended(_DEATH_TIMEOUT)
        if self.ended.done():
            return self.ended.result()
        return StillThereError(f"{self._name} has closed its control stream, but does not end")

    async def _has_ended(self, timeout: float) -> None:
        await asyncio.wait({self.ended}, timeout=timeout)

    async def _signal(self, signum: int) -> None:
        if not self._process.exited.done():
            # It may end by itself just now; or the fork server has, and all its children with it.
            with contextlib.suppress(ClusterError, OSError):
                await self._fork.kill(self._process, signum)

    def _control_closed(self) -> None:
        # One that is being stopped has more time to end.
        if not self._process.exited.done() and not self._stopping:
            self._closing = asyncio.ensure_future(self._kill_if_alive())

    async def _kill_if_alive(self) -> None:
        """End a process that cannot be controlled any more."""
        await asyncio.wait({self._process.exited}, timeout=_EXIT_TIMEOUT)
        await self.kill("closed its control stream")

    async def _end(self) -> ContainerDied:
        try:
            code: int | None = await self._process.exited
        except ClusterError:  # the fork server is gone
            code = None
        if hasattr(self, "_client"):
            self._client.close()
        await self._pipe.drain()
        killed_by_system = code == -signal.SIGKILL and self._why_killed is None
        out_of_memory = code == OUT_OF_MEMORY or (
            killed_by_system and kernel_oom_kills() > self._oom_kills
        )
        log = self._log.last_lines
        message = f"{self._name} {_how(code, self._why_killed)}"
        if out_of_memory:
            message += ": out of memory"
        return ContainerDied(message, self.index, code, out_of_memory=out_of_memory, log=log)


def _how(code: int | None, why_killed: str | None) -> str:
    if code is None:
        return "ended together with the fork server"
    if why_killed is not None:
        return f"{why_killed}, and was killed"
    return how_it_ended(code)
