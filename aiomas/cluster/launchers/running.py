"""A command that runs: the stream to it, what it says, and how it ends, with all it has started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

from aiomas.cluster.launchers.base import Link
from aiomas.cluster.reaping import end_of

_MOST_KEPT = 4096  # bytes of what was said
_MOST_LINES = 20
_CHUNK = 65536  # bytes
_MOST_CHUNKS = 16  # a pipe has room for less
_KILL_TIMEOUT = 5.0  # seconds that the system may take to end a killed process


class Running:
    """A command whose standard input and output are a stream to us.

    It has a process group of its own, so that it does not see Ctrl-C, and no terminal.

    Args:
        command: its words.
        env: its environment variables.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.sock, theirs = socket.socketpair()
        try:
            with theirs:
                # Not by asyncio, which leaves waiting for children to the policy of the program.
                self._process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - it is the user's command
                    command,
                    env=env,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
        except BaseException:
            self.sock.close()
            raise
        self.sock.setblocking(False)
        self._handed_over = False
        self._lock = threading.Lock()
        assert self._process.stderr is not None  # noqa: S101 - it is a pipe
        self.said = Said(self._process.stderr)
        """Returns the last lines that it has written on its standard error stream."""
        self.ended = end_of(self._wait)
        """Its exit code, when it has ended."""
        self.ended.add_done_callback(lambda _: self.said.close())

    def hand_over(self, facts: Mapping[str, Any]) -> Link:
        """Let somebody else decide from now on when it ends."""
        self._handed_over = True
        return Link(self.sock, self.ended, self.kill, self.said, facts)

    async def how_it_ended(self, timeout: float) -> int | None:
        """Return its exit code, or ``None`` if it has none within *timeout* seconds."""
        await asyncio.wait({self.ended}, timeout=timeout)
        return self.ended.result() if self.ended.done() else None

    def kill(self) -> None:
        """End it at once, and what it has started, if it has not ended yet."""
        with self._lock:
            if self._process.returncode is None:
                self._kill_group()

    async def end(self) -> None:
        """Close the stream, and end it at once, unless somebody else decides about that."""
        if self._handed_over:
            return
        self.sock.close()
        self.kill()
        await asyncio.wait({self.ended}, timeout=_KILL_TIMEOUT)

    def _wait(self) -> int:
        if hasattr(os, "waitid"):
            # Nobody else gets its number before we have waited for it, so that of its group is
            # still good: what ssh has started to connect may run on without it.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            with self._lock:
                self._kill_group()
                return self._process.wait()
        return self._process.wait()

    def _kill_group(self) -> None:
        # It has ended, or belongs to another user, as with sudo; then it ends with its stream.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


class Said:
    """Reads what a command says, so that it can go on, and keeps the last lines.

    Args:
        stream: a pipe; it is closed when it has ended, or by :meth:`close`.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept = b""
        self._loop = asyncio.get_running_loop()
        os.set_blocking(stream.fileno(), False)
        self._loop.add_reader(stream.fileno(), self._read)

    def __call__(self) -> str:
        """Return the last lines."""
        self._read()
        lines = self._kept.decode(errors="replace").splitlines()
        return "\n".join(lines[-_MOST_LINES:])

    def close(self) -> None:
        """Read what is there, and no more: others may have the other end for much longer."""
        self._read()
        if not self._stream.closed:
            self._loop.remove_reader(self._stream.fileno())
            self._stream.close()

    def _read(self) -> None:
        for _ in range(_MOST_CHUNKS):
            if self._stream.closed:
                return
            try:
                data = os.read(self._stream.fileno(), _CHUNK)
            except BlockingIOError:
                return
            if not data:
                self._loop.remove_reader(self._stream.fileno())
                self._stream.close()
            self._kept = (self._kept + data)[-_MOST_KEPT:]
