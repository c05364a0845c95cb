"""Logs that cannot be written: no worker notices it, and they go on when there is room again."""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import subprocess
from pathlib import Path

import psutil
import pytest

from aiomas.cluster import Cluster, ContainerDied, EventKind, RestartPolicy
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.launchers.base import Link
from aiomas.cluster.launchers.local import LocalLauncher
from tests.e2e.clusters import BOUND, Events, until
from tests.e2e.fault_agents import Faulty

pytestmark = pytest.mark.timeout(60)
LINE = "x" * 1000
LIMIT = 20_000  # bytes
NOTE = "bytes of the log were lost: "


class LimitedLauncher(LocalLauncher):
    """Starts supervisors that cannot write files with more than `LIMIT` bytes."""

    async def launch(self, host: HostSpec, timeout: float) -> Link:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
        try:
            return await super().launch(host, timeout)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def fill(agent: Faulty, log: Path) -> None:
    """Write more than the log can hold; return when all of it was tried."""
    await agent.write(LINE, 5)
    await until(lambda: log.stat().st_size >= 5000)
    async with asyncio.timeout(BOUND):  # a pipe that nobody reads from would hold it up
        for _ in range(10):
            await agent.write(LINE, 100)
        await agent.write("this is lost", 1)


async def check_that_it_recovers(agent: Faulty, log: Path, why: str) -> None:
    async def write_until(text):
        async with asyncio.timeout(BOUND):
            while text not in log.read_text():
                await agent.write("there is room again", 1)
                await asyncio.sleep(0.05)

    await write_until("there is room again")
    text = log.read_text()
    [lost] = re.findall(rf"^\[aiomas: (\d+) {NOTE}{why}\]$", text, re.MULTILINE)
    assert int(lost) > 900_000  # of more than a million
    assert text.count(NOTE) == 1
    assert "this is lost" not in text


async def test_files_of_a_limited_size(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # or there were half files of it
    options = {"launcher": LimitedLauncher(), "log_dir": tmp_path, "name": "logs"}
    policy = RestartPolicy(backoff=0.05)
    async with Cluster(1, loop="asyncio", restart=policy, **options) as cluster:
        events = Events(cluster)
        agent = await cluster.spawn(Faulty, respawn=True)
        log = tmp_path / "logs" / "0.log"
        await fill(agent, log)
        assert log.stat().st_size <= LIMIT
        # What has no room on the disk is still what the container has said last.
        await agent.write("these were its last words", 1)
        with pytest.raises(ConnectionError):
            await agent.exit(3)
        died = await events.get(EventKind.DIED)
        assert isinstance(died.error, ContainerDied)
        assert list(died.error.log[-2:]) == ["this is lost", "these were its last words"]
        await events.get(EventKind.RESTARTED)

        [supervisor] = psutil.Process().children()
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.prlimit(supervisor.pid, resource.RLIMIT_FSIZE, (hard, hard))
        await check_that_it_recovers(agent, log, "File too large")


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "aiomas-test", str(folder)]
    with contextlib.ExitStack() as stack:
        try:
            mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount here")
        if mounted.returncode != 0:
            pytest.skip(f"only the superuser can do that: {mounted.stderr}")
        stack.callback(subprocess.run, ["umount", str(folder)], check=True)
        yield folder


async def test_a_full_disk(small_disk):
    async with Cluster(2, loop="asyncio", log_dir=small_disk, name="full") as cluster:
        agent, other = await cluster.spawn_many(Faulty, 2)
        (small_disk / "filler").write_bytes(bytes(30_000))
        log = small_disk / "full" / "0.log"
        await fill(agent, log)
        await other.write("no room for this either", 1)
        assert [await a.add() for a in (agent, other)] == [1, 1]
        assert [info.state for info in cluster.containers] == ["running"] * 2
        (small_disk / "filler").unlink()
        await check_that_it_recovers(agent, log, "No space left on device")
    assert (small_disk / "full" / "1.log").exists()
