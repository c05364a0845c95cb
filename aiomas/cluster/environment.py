"""What surrounds the program of a container process: variables, folder, core, limits, title, seed.

It is set within the fresh process, before anything of the user's runs there.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiomas.exceptions import ClusterError

if sys.platform != "win32":
    import resource

_PR_SET_PDEATHSIG = 1
_COMM_SIZE = 15  # bytes that the kernel keeps of a process's short name
_LEAST_FILES = 16  # its event loop, modules that are imported, and a few connections
_ARG_START, _ARG_END = 45, 46  # in /proc/self/stat, counted from the state (see proc(5))

STACK_DUMP = signal.SIGUSR1
"""Makes a container process write the stacks of all its threads into its log."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What a container process is started with."""

    env: dict[str, str] = field(default_factory=dict)
    """Variables that are added to those of the process that starts it."""
    cwd: str | None = None
    """Its working directory; ``None`` for that of the process that starts it."""
    cpu: int | None = None
    """The number of the core that it is pinned to, where the system can do that."""
    nice: int = 0
    """How much nicer it is than the process that starts it (0 to 19; less needs privileges)."""
    memory: int | None = None
    """Bytes of data (heap, private mappings, stacks of threads) that it may have."""
    open_files: int | None = None
    """How many descriptors it may have."""
    seed: int | str | None = None
    """What :mod:`random` and numpy's global generator begin with; ``None`` for chance."""
    title: str = ""
    """What tools like ``ps`` show; the name of the container in error messages, too."""

    @classmethod
    def from_job(cls, fields: dict[str, Any]) -> Self:
        """Return what :meth:`to_job` was called on."""
        return cls(**fields)

    def to_job(self) -> dict[str, Any]:
        """Return the values as a message can hold them."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def apply(self) -> None:
        """Make all of it true for this process; to be called in its main thread.

        Raises:
            ClusterError: something of it is not possible; the message names container and field.
        """
        if self.title:
            set_title(self.title)
        for name, setter in (
            ("env", self._set_variables),
            ("cwd", self._change_directory),
            ("cpu", self._pin),
            ("nice", self._be_nice),
            ("open_files", self._limit_open_files),
            ("seed", self._seed),
            ("memory", self._limit_memory),  # the last one, as the others take memory, too
        ):
            with self._explaining(name):
                setter()

    @contextlib.contextmanager
    def _explaining(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, TypeError, OverflowError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
            who = self.title or f"process {os.getpid()}"
            msg = f"{who}: {name}={getattr(self, name)!r} is not possible: {reason}"
            raise ClusterError(msg) from exc

    def _set_variables(self) -> None:
        os.environ.update(self.env)
        if "TZ" in self.env:
            time.tzset()

    def _change_directory(self) -> None:
        if self.cwd is not None:
            os.chdir(self.cwd)

    def _pin(self) -> None:
        if self.cpu is None or not hasattr(os, "sched_setaffinity"):
            return
        allowed = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {self.cpu})
        except (OSError, OverflowError, ValueError) as exc:
            msg = f"the cores that it may use are {sorted(allowed)}"
            raise ValueError(msg) from exc

    def _be_nice(self) -> None:
        if self.nice:
            os.nice(self.nice)

    def _limit_open_files(self) -> None:
        if self.open_files is None:
            return
        least = _first_free() + _LEAST_FILES
        if self.open_files < least:
            msg = f"a container needs {least} at least"
            raise ValueError(msg)
        _set_limit(resource.RLIMIT_NOFILE, self.open_files, "open files")

    def _limit_memory(self) -> None:
        if self.memory is None:
            return
        used = _data_size()
        if self.memory <= used:
            msg = f"an empty container takes {used} bytes already"
            raise ValueError(msg)
        # The address space would count what is only reserved, as the arenas of threads are.
        linux = sys.platform == "linux"
        kind = resource.RLIMIT_DATA if linux else resource.RLIMIT_AS
        _set_limit(kind, self.memory, "bytes")

    def _seed(self) -> None:
        if self.seed is not None:
            random.seed(self.seed)
        self.seed_numpy()

    def seed_numpy(self) -> None:
        """Seed the legacy functions of numpy, if that is loaded."""
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            # Without a seed it gets chance, too, or all that were forked would have the same.
            numpy.random.seed(None if self.seed is None else _number(self.seed))


def set_title(text: str) -> None:
    """Let tools like ``ps`` show *text* as the name of this process; never raises.

    On Linux it takes the place of the program's arguments, as much of it as they had room for.
    Elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return
    # Containers and hardened kernels may not let us; it is a convenience.
    with contextlib.suppress(OSError, ValueError, IndexError):
        data = text.encode(errors="replace").replace(b"\0", b" ")
        short = data[:_COMM_SIZE].decode(errors="ignore").encode()
        Path("/proc/self/comm").write_bytes(short)
        # The second field, a name in parentheses, may have spaces and parentheses itself.
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        room = end - start - 1  # without a zero at its end, the variables would be shown as well
        if start and room > 0:
            with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
                memory.seek(start)
                memory.write(data[:room].ljust(room + 1, b"\0"))


def ignore(_signum: int, _frame: object) -> None:
    """Handle a signal by doing nothing.

    Unlike ``signal.SIG_IGN``, this is not inherited by the programs that this process starts.
    """


def die_with_parent(parent: int | None = None) -> None:
    """Have the system kill this process when the thread that made it ends (Linux only).

    Args:
        parent: the process's id; if that has ended already, this one ends here and now.
    """
    prctl = _prctl()
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def outlive_parent() -> None:
    """Undo what :func:`die_with_parent` has done."""
    prctl = _prctl()
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)


def kernel_oom_kills() -> int:
    """Return how many processes the kernel has killed because memory ran out.

    Counted are those of our cgroup; where that does not tell, those of the machine; else 0.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                folder = Path("/sys/fs/cgroup", line[3:].lstrip("/"))
                found = _counter(folder / "memory.events", "oom_kill")
                if found is not None:
                    return found
    return _counter(Path("/proc/vmstat"), "oom_kill") or 0


def _counter(path: Path, name: str) -> int | None:
    """Return the number behind *name* in a file with lines of that kind."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            match line.split():
                case [key, number] if key == name:
                    return int(number)
    return None


@functools.cache
def _prctl() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    prctl: Callable[..., int] | None = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl


def _set_limit(kind: int, value: int, unit: str) -> None:
    """Set the soft limit.

    Raises:
        ValueError: it is above the hard one.
    """
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY and value > hard:
        msg = f"the hard limit of this process is {hard} {unit}"
        raise ValueError(msg)
    resource.setrlimit(kind, (value, hard))


def _data_size() -> int:
    """Return how many bytes of data this process has, or 0 where that is not known."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0


def _first_free() -> int:
    """Return a number that is above those of all open descriptors, or 0 if that is not known."""
    with contextlib.suppress(OSError):
        # The one that reads the directory counts as well.
        return 1 + max(int(path.name) for path in Path("/dev/fd").iterdir())
    return 0


def _number(seed: int | str) -> int:
    """Return 32 bits that follow from *seed* alone."""
    return random.Random(f"numpy {seed!r}").getrandbits(32)  # noqa: S311 - no secret
