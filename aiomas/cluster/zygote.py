"""The fork server as the supervisor sees it: makes it, asks it for processes, hears how they end.

What runs at the other end is :mod:`aiomas.cluster.forkserver`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import gc
import itertools
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from aiomas import rpc
from aiomas.cluster.endings import how_it_ended
from aiomas.cluster.forkserver import MAX_DESCRIPTORS, TICKET, keep_open, run
from aiomas.cluster.reaping import end_of
from aiomas.codecs import MsgPack
from aiomas.exceptions import ClusterError, ConnectionLost, RemoteException

_TIMEOUT = 10.0  # seconds
_PRELOAD_TIMEOUT = 60.0  # seconds; large libraries take long to import from a cold disk
_LAST_NEWS_TIMEOUT = 1.0  # seconds in which what an ended fork server had sent is read
_KILL_TIMEOUT = 5.0  # seconds that the system may take to end a killed process


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    """A fork server that runs, and our ends of its sockets."""

    pid: int
    """Its process id; it is a child of this process."""
    requests: socket.socket
    """A stream of requests and replies."""
    descriptors: socket.socket
    """What descriptors are sent over, in datagrams."""


def fork_program(guard_fd: int, target: str) -> Program:
    """Make a fork server of a copy of this process, which has imported most of what it needs.

    To be called before this process has an event loop or a second thread.

    Args:
        guard_fd: the read end of a pipe that ends when this process does.
        target: see :func:`aiomas.cluster.forkserver.serve`.
    """
    requests, their_requests = socket.socketpair()
    descriptors, their_descriptors = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    gc.freeze()  # a collection in the copy would else write to, and so copy, all of our pages
    pid = os.fork()
    if pid == 0:
        # Nothing that we hold open may live on in it, least of all the stream to our driver.
        keep_open({guard_fd, their_requests.fileno(), their_descriptors.fileno()})
        run(their_requests.detach(), their_descriptors.detach(), guard_fd, target)
    their_requests.close()
    their_descriptors.close()
    return Program(pid, requests, descriptors)


class Process:
    """A process that the fork server has made."""

    def __init__(self, pid: int, exited: asyncio.Future[int]) -> None:
        self.pid = pid
        """Its process id, and that of its process group."""
        self.exited = exited
        """Has its exit code as soon as it has ended; see :meth:`wait`, which does not cancel it."""

    async def wait(self) -> int:
        """Wait for its end, and return its exit code, which is negative for a signal.

        Raises:
            ClusterError: the fork server ended before it could tell; then it was killed as well.
        """
        await asyncio.wait([self.exited])
        return self.exited.result()

    def __repr__(self) -> str:
        return f"<Process {self.pid}{' (ended)' if self.exited.done() else ''}>"


class ForkServer:
    """A running fork server; made by :meth:`attach`.

    All of its calls are bounded by a time limit, after which they raise a
    :class:`~aiomas.exceptions.ClusterError`, as they do when it has ended.
    """

    router = rpc.Service()

    def __init__(self, program: Program, timeout: float) -> None:
        self.pid = program.pid
        """Its process id."""
        self.lost: asyncio.Future[ClusterError] = asyncio.get_running_loop().create_future()
        """Done if the fork server has ended by itself; its result says how."""
        self._end = end_of(lambda: os.waitstatus_to_exitcode(os.waitpid(program.pid, 0)[1]))
        self._descriptors = program.descriptors
        self._timeout = timeout
        self._client: rpc.RpcClient
        self._watcher: asyncio.Task[None]
        self._lock = asyncio.Lock()
        self._tickets = itertools.count()
        self._processes: dict[int, asyncio.Future[int]] = {}  # those that run
        self._unclaimed: dict[int, int] = {}  # exit codes of those whose fork() has not returned
        self._closing = False

    @classmethod
    async def attach(cls, program: Program, *, timeout: float = _TIMEOUT) -> ForkServer:
        """Connect to a fork server.

        Args:
            program: it runs already.
            timeout: seconds that a call may take.
        """
        program.requests.setblocking(False)
        program.descriptors.setblocking(False)
        self = cls(program, timeout)
        self._client = await rpc.open_connection(
            None, sock=program.requests, router=self, codec=MsgPack
        )
        self._client.on_connection_reset(lambda _: self._kill())
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def tidy_up(self, directory: Path) -> None:
        """Let it remove *directory*, that of the run, if this process dies."""
        await self._call("tidy_up", str(directory))

    async def prepare(self, function: str, *args: Any, timeout: float = _PRELOAD_TIMEOUT) -> None:
        """Let it call a function, for what all processes that are forked from then on shall share.

        Args:
            function: its name, ``"module:function"``.
            args: its arguments.
            timeout: seconds that it may take.

        Raises:
            ClusterError: it failed, or has started a thread.
        """
        await self._call("prepare", function, list(args), timeout=timeout)

    async def ping(self) -> None:
        """Wait until it answers.

        Raises:
            ClusterError: it does not.
        """
        await self._call("ping")

    async def preload(self, modules: Sequence[str], *, timeout: float = _PRELOAD_TIMEOUT) -> None:
        """Import modules there, so that all further processes have them.

        Args:
            modules: their names.
            timeout: seconds that this may take.

        Raises:
            ClusterError: one of them cannot be imported, or starts a thread; its name is there.
        """
        await self._call("preload", list(modules), timeout=timeout)

    async def fork(self, job: dict[str, Any], descriptors: Sequence[int] = ()) -> Process:
        """Make a process.

        Args:
            job: what the target gets; of plain values.
            descriptors: those that the process gets.  The first one becomes its standard output
                and error, the others are passed to the target.  Ours stay open.

        Raises:
            OSError: there are no more processes or descriptors to be had.
            SerializationError: *job* has something else than plain values.
            ClusterError: the target cannot be loaded, or a preloaded module started a thread.
        """
        async with self._within(self._timeout, "fork()"), self._lock:
            self._check_running()
            self._client.channel.codec.encode(job)  # descriptors of no request would stay there
            ticket = next(self._tickets)
            self._send_descriptors(ticket, descriptors)
            reply = self._client.remote.fork(ticket, job)
            try:
                pid = await _result(reply)
            finally:
                if not reply.done():
                    reply.add_done_callback(self._give_up)
            process = Process(pid, asyncio.get_running_loop().create_future())
            if pid in self._unclaimed:
                process.exited.set_result(self._unclaimed.pop(pid))
            else:
                self._processes[pid] = process.exited
            return process

    async def kill(self, process: Process, sig: int = signal.SIGKILL) -> None:
        """Send a signal to a process; SIGKILL goes to all of its process group.

        Raises:
            ProcessLookupError: it has ended.
        """
        if self._processes.get(process.pid) is not process.exited:
            raise ProcessLookupError(errno.ESRCH, f"The process {process.pid} has ended")
        await self._call("kill", process.pid, int(sig))

    async def close(self, timeout: float | None = None) -> None:
        """Kill all processes, and end the fork server; the run's directory stays.

        Whatever state it is in, this ends soon after *timeout*; it can be repeated.

        Args:
            timeout: seconds that it has to end by itself, by default those of any other call.
        """
        patience = (self._timeout if timeout is None else timeout) / 2
        if not self._closing:
            self._closing = True
            try:
                # So we hear how each of them has ended.
                with contextlib.suppress(ClusterError):
                    await self._ask("stop", timeout=patience)
                self._client.close()
                await asyncio.wait([self._watcher], timeout=patience)
            finally:  # also if we are cancelled
                self._client.close()
                self._descriptors.close()
                self._kill()
        await asyncio.wait([self._watcher], timeout=_KILL_TIMEOUT)

    @rpc.expose
    def exited(self, pid: int, returncode: int) -> None:
        """Take note that a process has ended (called by the fork server)."""
        exited = self._processes.pop(pid, None)
        if exited is None:
            self._unclaimed[pid] = returncode
        elif not exited.done():  # somebody may have cancelled it
            exited.set_result(returncode)

    # --- calls ------------------------------------------------------------------------------------

    async def _call(self, name: str, *args: Any, timeout: float | None = None) -> Any:
        self._check_running()
        return await self._ask(name, *args, timeout=timeout or self._timeout)

    async def _ask(self, name: str, *args: Any, timeout: float) -> Any:
        async with self._within(timeout, f"{name}()"):
            reply = getattr(self._client.remote, name)(*args)
            try:
                return await _result(reply)
            finally:
                if not reply.done():
                    reply.add_done_callback(_take_note)

    @contextlib.asynccontextmanager
    async def _within(self, timeout: float, what: str) -> AsyncIterator[None]:
        bound = asyncio.timeout(timeout)
        try:
            async with bound:
                yield
        except TimeoutError as exc:
            if not bound.expired():
                raise
            msg = f"The fork server (process {self.pid}) did not answer {what} within {timeout} s"
            raise ClusterError(msg) from exc
        except RemoteException as exc:
            raise _error_of(exc) from None
        except ConnectionLost as exc:
            # The system tells a moment later how it has ended.
            await asyncio.wait([self._watcher], timeout=_LAST_NEWS_TIMEOUT)
            raise self._ended() from exc

    def _check_running(self) -> None:
        if self._closing or self.lost.done():
            raise self._ended()

    def _send_descriptors(self, ticket: int, descriptors: Sequence[int]) -> None:
        count = len(descriptors)
        text = None
        try:
            if count <= MAX_DESCRIPTORS:
                socket.send_fds(self._descriptors, [TICKET.pack(ticket, count)], descriptors)
                return
            number, text = errno.E2BIG, f"at most {MAX_DESCRIPTORS} can be passed to a process"
        except BlockingIOError:  # earlier ones wait there
            number, text = errno.EAGAIN, "the fork server does not take them"
        except ConnectionError:
            raise self._ended() from None
        except OSError as exc:
            if exc.errno != errno.ETOOMANYREFS:
                raise
            number, text = exc.errno, "too many are under way to other processes (see ulimit -n)"
        raise OSError(number, f"{os.strerror(number)}: {count} descriptors: {text}")

    def _give_up(self, reply: asyncio.Future[int]) -> None:
        """End a process that is there only now, when nobody waits for it any more."""
        if reply.cancelled() or reply.exception() is not None:
            return
        pid = reply.result()
        if self._unclaimed.pop(pid, None) is None:
            # What it is told to be its end is of no interest to anybody.
            self._processes[pid] = reply.get_loop().create_future()
            with contextlib.suppress(ConnectionLost):
                kill = self._client.remote.kill(pid, int(signal.SIGKILL))
                kill.add_done_callback(_take_note)

    # --- its end ----------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Wait for the end of the fork server, and tell everybody."""
        await asyncio.wait({self._end})
        # All news that it had sent are there before the end of the stream is.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_NEWS_TIMEOUT):
                await self._client.channel.wait_closed()
        self._client.close()
        self._descriptors.close()
        error = self._ended()
        processes, self._processes = self._processes, {}
        for pid, exited in processes.items():
            # Linux has killed them by now, but not what they have started.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            if not exited.done():
                exited.set_exception(error)
                exited.exception()  # nobody has to ask for it
        if not self._closing and not self.lost.done():
            self.lost.set_result(error)

    def _kill(self) -> None:
        if not self._end.done():
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                os.kill(self.pid, signal.SIGKILL)

    def _ended(self) -> ClusterError:
        code = self._end.result() if self._end.done() else None
        if self._closing:
            how = "was closed"
        elif code is None:
            how = "has closed its connection"
        else:
            how = how_it_ended(code)
        return ClusterError(f"The fork server (process {self.pid}) {how}")


async def _result(reply: asyncio.Future[Any]) -> Any:
    """Wait for *reply* without cancelling it: what it stands for happens anyway."""
    await asyncio.wait([reply])
    return reply.result()


def _take_note(reply: asyncio.Future[Any]) -> None:
    if not reply.cancelled():
        reply.exception()


def _error_of(exc: RemoteException) -> Exception:
    """Return the exception that the fork server has described."""
    match exc.remote_traceback:
        case ["OSError", int(number), str(text)]:
            return OSError(number, text)
        case ["LookupError", _, str(text)]:
            return ProcessLookupError(errno.ESRCH, text)
        case [_, _, str(text)]:
            return ClusterError(text)
        case other:
            return ClusterError(str(other))
