"""What runs on a node of a Ray cluster: it starts a program there and relays its stream.

It is sent there by value, as the aiomas that may be there need not be ours.  So it imports only the
standard library.
"""

from __future__ import annotations

import collections
import os
import socket
import subprocess
import sys
import threading

CHUNK = 65536
"""Bytes that are relayed at once; Ray sends so few with the call itself."""

_LINES = 20  # that are kept of what the program says
_TAIL_TIMEOUT = 1.0  # seconds in which what it has said last is there


class Relay:
    """An actor; its methods block, and each one has a thread.  :meth:`start` comes first."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes]
        self._sock: socket.socket
        self._said: collections.deque[str] = collections.deque(maxlen=_LINES)
        self._listening: threading.Thread

    def start(
        self, python: str | None, arguments: list[str], secret: str, threads: tuple[str, str]
    ) -> None:
        """Start an interpreter with our path, its standard input and output being the stream.

        Args:
            python: which one; ``None`` for ours.
            arguments: those of the interpreter.
            secret: an environment variable that it does not get.
            threads: what Ray makes of our CPUs in ``OMP_NUM_THREADS``, and what that is to be.

        Raises:
            OSError: it cannot be started.
        """
        env = {name: value for name, value in os.environ.items() if name != secret}
        env["PYTHONPATH"] = os.pathsep.join(_path())
        ray_says, better = threads
        if env.get("OMP_NUM_THREADS") == ray_says:
            env["OMP_NUM_THREADS"] = better
        self._sock, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    [python or sys.executable, *arguments],
                    env=env,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.PIPE,
                    start_new_session=True,  # it ends with its stream, not with our signals
                )
        except BaseException:
            self._sock.close()
            raise
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def read(self) -> bytes:
        """Return what comes next from the program; nothing at its end."""
        try:
            return self._sock.recv(CHUNK)
        except ConnectionError:
            return b""

    def write(self, data: bytes) -> bool:
        """Let the program have *data*; nothing is the end.  Whether it still takes any."""
        try:
            if data:
                self._sock.sendall(data)
            else:
                self._sock.shutdown(socket.SHUT_WR)
        except OSError:  # it has ended
            return False
        return True

    def wait(self) -> tuple[int, str]:
        """Return the exit code of the program, and what it has said last, when it has ended."""
        code = self._process.wait()
        self._listening.join(_TAIL_TIMEOUT)  # others may still have its standard error
        return code, "".join(self._said)

    def _listen(self) -> None:
        stream = self._process.stderr
        assert stream is not None  # noqa: S101 - it is a pipe
        for line in stream:
            text = line.decode(errors="replace")
            self._said.append(text)
            sys.stderr.write(text)  # goes to Ray's log of us


def _path() -> list[str]:
    """Return our ``sys.path`` without what Ray has added for itself."""
    ray = os.path.dirname(sys.modules["ray"].__file__ or "") + os.sep  # noqa: PTH120 - text, not files
    return [
        entry
        for entry in sys.path
        if os.path.isabs(entry) and not (entry + os.sep).startswith(ray)  # noqa: PTH117 - as above
    ]
