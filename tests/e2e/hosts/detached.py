"""Processes of a lab: nobody's children, and gone as soon as the lab's owner is.

They read from the lab's guard, a pipe that only its owner can write to, and end when it is closed:
however the owner ends, the kernel closes it.  They are no children of the owner because tests look
at its children for what they have left, while a host may start anew in the middle of a test.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BOUND = 20.0
"""Seconds in which something on this machine happens, however busy it is."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root"}
"""All variables of these processes: those of a test would make them look like its own."""


class LabError(RuntimeError):
    """A lab, or a part of it, cannot be made or changed."""


@dataclass(frozen=True)
class Process:
    """A process that may have ended, so that somebody else may have its number now."""

    pid: int
    started: int
    """In clock ticks since the machine has started."""

    @classmethod
    def of(cls, pid: int) -> Process:
        return cls(pid, _stat(pid).started)

    @property
    def parent(self) -> Process:
        return Process.of(_stat(self.pid).parent)

    @property
    def is_alive(self) -> bool:
        try:
            now = _stat(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return now.started == self.started and now.state not in {"Z", "X"}

    def kill(self) -> None:
        """Kill it, and return when it has ended: for the first of a pid namespace, all in there."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.is_alive:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                self._wait(handle)
        finally:
            os.close(handle)

    def wait(self) -> None:
        """Return when it has ended, which something else makes it do."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.is_alive:
                self._wait(handle)
        finally:
            os.close(handle)

    def _wait(self, handle: int) -> None:
        if not select.select([handle], [], [], BOUND)[0]:
            raise LabError(f"process {self.pid} has not ended after {BOUND:g} s")


class Starting:
    """A program that was started, and has not said yet that it is ready."""

    def __init__(self, command: Sequence[str], *, guard: int, log: Path) -> None:
        """Start *command*, which says its process id on a line when it is ready.

        Args:
            guard: the end of a pipe that it reads from.
            log: the file that what it prints as an error is added to.
        """
        self._command, self._log = command, log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                ["setsid", "--fork", *command],
                stdin=guard,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd="/",
                env=ENVIRONMENT,
            )

    def ready(self) -> Process:
        """Wait until it is ready.

        Raises:
            LabError: it has ended instead, or is not ready in time; the message has its errors.
        """
        assert self._process.stdout is not None
        deadline = time.monotonic() + BOUND
        line = b""
        with self._process, self._process.stdout as output:
            while not line.endswith(b"\n"):
                if not select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    raise self._failed(f"is not ready after {BOUND:g} s")
                if not (more := os.read(output.fileno(), 100)):
                    raise self._failed("has ended before it was ready")
                line += more
        return Process.of(int(line))

    def _failed(self, what: str) -> LabError:
        log = self._log.read_text(errors="replace")[-1000:]
        return LabError(f"{' '.join(self._command)} {what}; its errors: {log or 'none'}")


@dataclass(frozen=True)
class _Stat:
    state: str
    parent: int
    started: int


def _stat(pid: int) -> _Stat:
    # See proc_pid_stat(5); the name before the last parenthesis may have anything in it.
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return _Stat(fields[0], int(fields[1]), int(fields[19]))
