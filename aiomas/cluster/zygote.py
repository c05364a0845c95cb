"""The fork server as the supervisor sees it: starts it, asks it for processes, hears how they end.

What runs at the other end is :mod:`aiomas.cluster.forkserver`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from aiomas import rpc
from aiomas.cluster.forkserver import MAX_DESCRIPTORS, TICKET
from aiomas.codecs import MsgPack
from aiomas.exceptions import ClusterError, ConnectionLost, RemoteException

_TIMEOUT = 10.0  # seconds
_PRELOAD_TIMEOUT = 60.0  # seconds; large libraries take long to import from a cold disk
_LAST_NEWS_TIMEOUT = 1.0  # seconds in which what an ended fork server had sent is read
_KILL_TIMEOUT = 5.0  # seconds that the system may take to end a killed process

# The new process gets our sys.path before it imports anything of ours.
_BOOT = """\
import gc, json, sys
gc.disable()
requests, descriptors, guard, target, directory, sys.path[:] = json.loads(sys.argv.pop())
from aiomas.cluster.forkserver import serve
serve(requests, descriptors, guard, target, directory)
"""


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
    """A running fork server; made by :meth:`start`.

    All of its calls are bounded by a time limit, after which they raise a
    :class:`~aiomas.exceptions.ClusterError`, as they do when it has ended.
    """

    router = rpc.Service()

    def __init__(
        self, process: asyncio.subprocess.Process, descriptors: socket.socket, timeout: float
    ) -> None:
        self.pid = process.pid
        """Its process id."""
        self.lost: asyncio.Future[ClusterError] = asyncio.get_running_loop().create_future()
        """Done if the fork server has ended by itself; its result says how."""
        self._process = process
        self._descriptors = descriptors
        self._timeout = timeout
        self._client: rpc.RpcClient
        self._watcher: asyncio.Task[None]
        self._lock = asyncio.Lock()
        self._tickets = itertools.count()
        self._processes: dict[int, asyncio.Future[int]] = {}  # those that run
        self._unclaimed: dict[int, int] = {}  # exit codes of those whose fork() has not returned
        self._closing = False

    @classmethod
    async def start(
        cls,
        directory: Path,
        guard_fd: int,
        *,
        target: str = "aiomas.cluster.worker:main",
        sys_path: Sequence[str] | None = None,
        timeout: float = _TIMEOUT,
    ) -> ForkServer:
        """Start a fork server; the first call waits until it has imported what it needs.

        Args:
            directory: that of the run, which it removes if this process dies.
            guard_fd: the read end of a pipe that ends when this process does; it stays ours.
            target: the name of the function that is the program of the processes; it is called
                with the job, the list of descriptors and a guard, a descriptor like *guard_fd*.
            sys_path: where it looks for modules; by default where this process does.
            timeout: seconds that a call may take.

        Raises:
            OSError: it cannot be started.
        """
        path = list(sys.path if sys_path is None else sys_path)
        with contextlib.ExitStack() as stack, contextlib.ExitStack() as on_error:
            requests, their_requests = map(on_error.enter_context, socket.socketpair())
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            descriptors, their_descriptors = map(on_error.enter_context, pair)
            stack.callback(their_requests.close)
            stack.callback(their_descriptors.close)
            fds = their_requests.fileno(), their_descriptors.fileno(), guard_fd
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-c", _BOOT, json.dumps([*fds, target, str(directory), path])),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=2,  # our own standard output may be what somebody reads by program
                pass_fds=fds,
                start_new_session=True,  # so that it does not see Ctrl-C
            )
            on_error.callback(_kill, process)
            requests.setblocking(False)
            descriptors.setblocking(False)
            self = cls(process, descriptors, timeout)
            self._client = await rpc.open_connection(
                None, sock=requests, router=self, codec=MsgPack
            )
            on_error.pop_all()
        later = asyncio.get_running_loop().call_later
        # Most likely it is about to end by itself, and its exit code tells more.
        self._client.on_connection_reset(lambda _: later(_LAST_NEWS_TIMEOUT, _kill, process))
        self._watcher = asyncio.create_task(self._watch())
        return self

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
                _kill(self._process)
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
        await self._process.wait()
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

    def _ended(self) -> ClusterError:
        code = self._process.returncode
        if self._closing:
            how = "was closed"
        elif code is None:
            how = "has closed its connection"
        elif code < 0:
            how = f"was killed by signal {-code}"
        else:
            how = f"ended with exit code {code}"
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


def _kill(process: asyncio.subprocess.Process) -> None:
    # Its own kill() may reap it, and whoever watches it would not learn its exit code.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
