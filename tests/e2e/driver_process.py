"""Drivers of clusters as processes of their own: to be killed, stopped, interrupted, closed in."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import termios
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
BOUND = 30.0
"""Seconds after which something will not happen any more, on a busy machine, too."""
GONE_WITHIN = 5.0
"""Seconds after which nothing of a run is left, whatever has ended it."""
_MARK = "AIOMAS_TEST_DRIVER"

AGENTS = '''
"""What the drivers of these tests spawn."""
import asyncio, os, time
import aiomas


class Worker(aiomas.Agent):
    @aiomas.expose
    def pid(self):
        return os.getpid()

    @aiomas.expose
    async def ask(self, other):
        return await other.pid()

    @aiomas.expose
    async def hang(self):
        await asyncio.get_running_loop().create_future()

    @aiomas.expose
    async def sleep(self, seconds):
        await asyncio.sleep(seconds)
        return seconds

    @aiomas.expose
    def busy(self, mark):
        open(mark, "x").close()
        while True:
            pass

    @aiomas.expose
    def touch(self, path):
        open(path, "x").close()


class Tidy(Worker):
    """Notes its end in the file *path*; it takes so many *seconds*."""

    def __init__(self, container, path, seconds=0):
        super().__init__(container)
        self.path, self.seconds = path, seconds

    async def on_stop(self):
        with open(self.path, "a") as file:
            file.write("stopping ")
        await asyncio.sleep(self.seconds)
        with open(self.path, "a") as file:
            file.write("stopped\\n")


class Stuck(aiomas.Agent):
    def __init__(self, container, mark):
        super().__init__(container)
        open(mark, "x").close()
        time.sleep(60)
'''
PRELUDE = """
import asyncio, os, signal, sys, threading, time
from aiomas.cluster import Cluster, ClusterError, ContainerDied, EventKind, SpawnError

FOLDER = os.environ["FOLDER"]
# Whoever runs the tests in the background may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


def say(*words):
    print(*words, flush=True)

"""


@dataclass
class Tree:
    """The processes of one run."""

    driver: psutil.Process
    supervisor: psutil.Process
    server: psutil.Process
    workers: list[psutil.Process]

    @property
    def below_driver(self) -> list[psutil.Process]:
        return [self.supervisor, self.server, *self.workers]


class DriverProcess:
    """A program that is a session of its own and has its temporary files in *base*.

    Args:
        arguments: of the interpreter.
        folder: where it runs, and finds its modules.
        base: a short path.
        options: of :class:`subprocess.Popen`; ``terminal``: whether it has one, to type into.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, base: Path, **options: Any) -> None:
        self.folder = folder
        self.base = base
        self._token = uuid.uuid4().hex
        self._terminal = -1
        self._errors = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed in close()
        self._read = b""
        env = os.environ | {
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "FOLDER": str(folder),
            "TMPDIR": str(base),
            _MARK: self._token,
        }
        for name in ("AIOMAS_RUN_DIR", "XDG_RUNTIME_DIR"):
            env.pop(name, None)
        defaults: dict[str, Any] = {
            "cwd": folder,
            "env": env | options.pop("env", {}),
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": self._errors,
            "start_new_session": True,
        }
        slave = -1
        if options.pop("terminal", False):
            self._terminal, slave = pty.openpty()
            options["stdin"] = slave
            options["preexec_fn"] = _take_terminal
        try:
            self.process = subprocess.Popen([sys.executable, *arguments], **defaults | options)
        finally:
            if slave >= 0:
                os.close(slave)

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self, timeout: float = BOUND) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, left))
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not data:
                why = "it closed its output" if ready else f"nothing came in {timeout} s"
                pytest.fail(f"the driver printed {self._read!r}, then {why}: {self.errors()}")
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def expect(self, line: str) -> None:
        """Make sure that it prints this next."""
        assert self.line() == line, self.errors()

    def type(self, keys: bytes) -> None:
        """Let it get *keys* from its terminal."""
        os.write(self._terminal, keys)

    def end(self, timeout: float = BOUND) -> tuple[int, str, str]:
        """Wait until it has ended; return its exit code, the rest of its output, its errors."""
        assert self.process.stdout is not None
        self.process.wait(timeout)
        # Not to the end: what it has forked may hold it open.
        while select.select([self.process.stdout], [], [], 0)[0]:
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                break
            self._read += data
        output, self._read = self._read, b""
        return self.process.returncode, output.decode(), self.errors()

    def errors(self) -> str:
        """Return what it, or its supervisor, has written on standard error."""
        self._errors.seek(0)
        return self._errors.read().decode()

    def tree(self, workers: int) -> Tree:
        """Return the processes of the one run that it has."""
        driver = psutil.Process(self.pid)
        [supervisor] = driver.children()
        [server] = supervisor.children()
        children = server.children()
        assert len(children) == workers
        return Tree(driver, supervisor, server, children)

    def processes(self) -> list[psutil.Process]:
        """Return all that have ever come from it, and live; but not itself."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self._token and process.pid != self.pid:
                    found.append(process)
        return found

    def left(self) -> list[str]:
        """Describe what is there of its runs: processes, zombies below it, files."""
        walk = os.walk(self.base)
        files = [f"{top}/{name}" for top, folders, names in walk for name in folders + names]
        return [*map(_describe, self._all()), *files]

    def wait_until_gone(self, within: float = GONE_WITHIN) -> None:
        """Make sure that soon nothing is left."""
        until(lambda: not self.left(), within, self.left)

    def close(self) -> list[str]:
        """Kill whatever is left, and return what that was."""
        left = []
        if self.process.poll() is None:
            left.append(f"the driver {self.pid}")
        for process in [*self.processes(), *([psutil.Process(self.pid)] if left else [])]:
            with contextlib.suppress(psutil.Error):
                left.append(_describe(process))
                process.kill()
        self.process.wait(BOUND)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._errors.close()
        if self._terminal >= 0:
            os.close(self._terminal)
        return left

    def _all(self) -> list[psutil.Process]:
        zombies: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            below = psutil.Process(self.pid).children(recursive=True)
            zombies += [child for child in below if child.status() == psutil.STATUS_ZOMBIE]
        return self.processes() + zombies


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid}: {process.status()} {' '.join(process.cmdline()).strip()}"
    except psutil.Error:
        return str(process.pid)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def until(
    condition: Callable[[], object],
    timeout: float = BOUND,
    describe: Callable[[], object] = lambda: "",
) -> None:
    """Wait for something that there is no event of."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"it did not happen within {timeout} s: {describe()}")
        time.sleep(0.01)


def ended(process: psutil.Process) -> bool:
    """Whether it has ended: there is at most a zombie that init has to bury."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE and process.ppid() == 1
    except psutil.NoSuchProcess:
        return True


Drive = Callable[..., DriverProcess]


@pytest.fixture
def base(temporary_folder: Path) -> Iterator[Path]:
    """A folder for what drivers leave, with a short path; gone with all that is in it."""
    with tempfile.TemporaryDirectory(dir=temporary_folder, prefix="d") as folder:
        yield Path(folder)


@pytest.fixture
def drive(tmp_path: Path, base: Path) -> Iterator[Drive]:
    """Start drivers; at the end, none of them, and nothing of their runs, may be left."""
    (tmp_path / "driver_agents.py").write_text(AGENTS)
    started: list[DriverProcess] = []

    def start(code: str, *arguments: str, **options: Any) -> DriverProcess:
        script = tmp_path / f"driver{len(started)}.py"
        script.write_text(PRELUDE + code)
        return start_interpreter(str(script), *arguments, **options)

    def start_interpreter(*arguments: str, **options: Any) -> DriverProcess:
        driver = DriverProcess(arguments, tmp_path, options.pop("base", base), **options)
        started.append(driver)
        return driver

    start.interpreter = start_interpreter  # type: ignore[attr-defined]
    try:
        yield start
        for driver in started:
            driver.process.wait(BOUND)
            driver.wait_until_gone()
    finally:
        left = [what for driver in started for what in driver.close()]
        assert left == []


def kill(*processes: psutil.Process) -> None:
    """Kill them as much at once as there is."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    for process in processes:
        process.kill()
