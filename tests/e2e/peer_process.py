"""A container in a process of its own, for tests that kill it, stop it, or look at what it uses.

A test starts one with :meth:`PeerProcess.run`.  The process is this module, run as a program: it
serves one agent, a :class:`Servant`, says its URL on its standard output, and ends when its
standard input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psutil

import aiomas

ROOT = Path(__file__).parents[2]
AID = "0"


class PeerProcess:
    """The test's side of such a process."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.url = url
        """The URL of the servant."""
        self._process = process

    @classmethod
    @contextmanager
    def run(
        cls,
        path: str,
        *,
        codec: str = "JSON",
        limits: dict[str, Any] | None = None,
        descriptors: int | None = None,
    ) -> Iterator[Self]:
        """Run a process that listens on a Unix socket at *path*, and kill it at the end.

        Args:
            path: where it listens.
            codec: the name of its codec, a class of `aiomas`.
            limits: fields of its `aiomas.Limits`.
            descriptors: how many it may have open; by default as many as the system allows.
        """
        options = {"path": path, "codec": codec, "limits": limits, "descriptors": descriptors}
        with subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.peer_process", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as process:
            try:
                assert process.stdout is not None
                url = process.stdout.readline().strip()
                assert url, "the process has ended; its standard error says why"
                yield cls(process, url)
            finally:
                process.kill()

    def kill(self) -> None:
        """End the process with SIGKILL, and return when it has ended."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Send SIGSTOP, and return when no thread of the process runs any more."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Send SIGCONT, and return when the process runs again."""
        os.kill(self._process.pid, signal.SIGCONT)
        os.waitpid(self._process.pid, os.WCONTINUED)

    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def peak_memory(self) -> int:
        """Return the most memory that it ever held, in bytes; so nobody has to look in time."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def descriptors(self) -> int:
        """Return how many descriptors it has open."""
        return psutil.Process(self._process.pid).num_fds()


class Servant(aiomas.Agent):
    """The agent in such a process."""

    def __init__(self, container: aiomas.Container) -> None:
        super().__init__(container)
        self._notes: list[Any] = []
        self._released = asyncio.Event()

    @aiomas.expose
    def echo(self, value: Any) -> Any:
        return value

    @aiomas.expose
    async def echo_later(self, value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    @aiomas.expose
    async def echo_after(self, seconds: float, value: Any) -> Any:
        await asyncio.sleep(seconds)
        return value

    @aiomas.expose
    def large(self, size: int) -> str:
        return "x" * size

    @aiomas.expose
    async def large_later(self, size: int) -> str:
        await asyncio.sleep(0)
        return "x" * size

    @aiomas.expose
    def note(self, what: Any) -> None:
        self._notes.append(what)

    @aiomas.expose
    def notes(self) -> list[Any]:
        return self._notes

    @aiomas.expose
    async def hold(self) -> str:
        """Answer when somebody calls :meth:`release`."""
        await self._released.wait()
        return "released"

    @aiomas.expose
    def release(self) -> None:
        self._released.set()

    @aiomas.expose
    async def call_echo(self, other: Any, count: int, size: int) -> int:
        """Make *count* calls of `other.echo` at once; return how many came back right."""
        values = [f"{number:0{size}}" for number in range(count)]
        results = await asyncio.gather(*map(other.echo, values))
        return sum(result == value for result, value in zip(results, values, strict=True))

    @aiomas.expose
    async def call_block(self, other: Any, seconds: float) -> Any:
        return await other.block(seconds)

    @aiomas.expose
    async def connect(self, url: str) -> list[Any]:
        """Connect to an agent; return the error's number and text, or nothing."""
        try:
            await self.container.connect(url)
        except OSError as exc:
            return [exc.errno, str(exc)]
        return []

    @aiomas.expose
    async def cpu_time_of(self, seconds: float) -> float:
        """Return how much CPU time this process takes in so many seconds."""
        before = time.process_time()
        await asyncio.sleep(seconds)
        return time.process_time() - before


async def serve(options: dict[str, Any]) -> None:
    kwargs: dict[str, Any] = {"codec": getattr(aiomas, options["codec"])}
    if options["limits"] is not None:
        kwargs["limits"] = aiomas.Limits(**options["limits"])
    async with aiomas.Container.open(options["path"], **kwargs) as container:
        servant = Servant(container)
        print(servant.addr, flush=True)  # noqa: T201 - whoever started this process reads it
        await asyncio.Event().wait()


def main() -> None:
    options = json.loads(sys.argv[1])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (options["descriptors"] or hard, hard))
    # In a thread, so that no handler that blocks the loop keeps this process alive.
    threading.Thread(target=_end_with_input, daemon=True).start()
    asyncio.run(serve(options))


def _end_with_input() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)


if __name__ == "__main__":
    main()
