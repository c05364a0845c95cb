"""Runs to look at: their directories, and a thread that answers like a supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from aiomas.cluster import gathering, log_parts
from aiomas.cluster import keeper as keeper_module
from aiomas.cluster.rundir import RunDirectory
from aiomas.cluster.watch import SOCKET, serve_watch
from tests.unit.cluster.kept import N1, N2, Kept

BOUND = 10.0  # seconds


class FakeSupervisor:
    """A run without processes: each time it is asked, its containers have served 10 more calls."""

    def __init__(
        self, name: str | None = None, containers: int = 2, *, listens_after: float = 0.0
    ) -> None:
        self.directory = RunDirectory.create(name)
        self.facts: dict[str, Any] = {
            "name": self.directory.name,
            "pid": 4711,
            "driver_pid": 4710,
            "started": time.time() - 125,
            "transport": "unix",
            "containers": containers,
            "command": ["plant.py", "a b"],
            "host": "localhost",
            "log_dir": str(self.directory.path / "logs"),
        }
        self.directory.publish(self.facts)
        self.containers: list[dict[str, Any]] = [
            {
                "index": index,
                "host": "localhost",
                "pid": 5000 + index,
                "url": f"ipc://[{index}]/",
                "state": "running",
                "agents": 7,
                "cpu": 1.5,
                "rss": 20 * 2**20,
                "calls_in": 0,
                "calls_out": 0,
                "errors": 0,
                "bytes_in": 0,
                "bytes_out": 0,
                "restarts": 3,
                "uptime": 61.0,
                "exit_code": None,
            }
            for index in range(containers)
        ]
        self.asked = 0
        self.reads = 0
        """How often it was asked for a part of a log."""
        self.unreadable: dict[int, str] = {}
        """Why logs cannot be read, by their indices."""
        self.obeys = True
        self.listens_after = listens_after  # seconds
        self._end: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(BOUND)

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()

        def stop() -> None:
            if self.obeys:
                self._end.set()

        if self.listens_after:
            self._ready.set()
            await asyncio.sleep(self.listens_after)
        socket = self.directory.path / SOCKET
        async with await serve_watch(socket, self._status, stop, self._log_read):
            self._ready.set()
            await self._end.wait()
        self.directory.remove()

    async def _status(self):
        self.asked += 1
        for container in self.containers:
            container["calls_in"] += 10
        return {"facts": self.facts, "containers": self.containers}

    async def _log_read(self, index, position):
        self.reads += 1
        if index in self.unreadable:
            raise LookupError(self.unreadable[index])
        return log_parts.read_part(Path(self.facts["log_dir"], f"{index}.log"), position)

    def spread(self, *names: str) -> None:
        """Put containers on hosts in turns, all of which run."""
        self.facts["hosts"] = [
            {"name": name, "state": "running", "address": "", "problem": None, "since": time.time()}
            for name in names
        ]
        for container in self.containers:
            container["host"] = names[container["index"] % len(names)]
        self.directory.publish(self.facts)

    def log(self, index: int, text: str) -> Path:
        """Add to a log file."""
        file = Path(self.facts["log_dir"], f"{index}.log")
        file.parent.mkdir(exist_ok=True)
        with file.open("a") as log:
            log.write(text)
        return file

    def end(self) -> None:
        """End the run."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(BOUND)
        assert not self._thread.is_alive()


@pytest.fixture
def run_base(unix_path, monkeypatch):
    """The base directory of runs, for this test alone."""
    base = Path(unix_path).with_name("runs")
    monkeypatch.setenv("AIOMAS_RUN_DIR", str(base))
    return base


@pytest.fixture
def supervise(run_base):
    """Start a fake supervisor; all are ended with the test."""
    with contextlib.ExitStack() as stack:

        def start(*args, **kwargs):
            supervisor = FakeSupervisor(*args, **kwargs)
            stack.callback(supervisor.end)
            return supervisor

        yield start


@pytest.fixture
async def make_kept(monkeypatch):
    """Make a world of a keeper; its keeper is closed with the test."""
    monkeypatch.setattr(gathering, "usable_cores", lambda: 1)
    monkeypatch.setattr(gathering, "route_to", lambda _: None)
    worlds = []

    def make(**options):
        world = Kept(**options)
        monkeypatch.setattr(keeper_module, "now", world.now)
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        await world.keeper.close()


@pytest.fixture
async def kept(make_kept):
    """Two containers on each of two hosts; what is lost is made again."""
    kept = make_kept()
    await kept.begin(N1, N2, containers=4, on_host_loss="respawn")
    return kept
