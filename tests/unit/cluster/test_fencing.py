"""The end of a process that finds out that its host was taken for lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import aiomas
from aiomas.cluster import fencing, streams
from aiomas.cluster.container import ClusterContainer
from aiomas.cluster.environment import Environment
from aiomas.cluster.fencing import FENCED, Fence, first_generation
from aiomas.exceptions import HandshakeError

BOUND = 10.0


class Ends:
    """Keeps with which codes the process would have ended."""

    def __init__(self):
        self.codes: list[int] = []
        self.first = threading.Event()

    def exit(self, code):
        self.codes.append(code)
        self.first.set()


@pytest.fixture
def ends(monkeypatch):
    ends = Ends()
    monkeypatch.setattr(os, "_exit", ends.exit)
    monkeypatch.setattr(fencing, "OUTDATED_GRACE", 0.05)
    monkeypatch.setattr(fencing, "END_TIMEOUT", 0.3)
    yield ends
    for thread in threading.enumerate():
        if thread.name == "fence" or isinstance(thread, threading.Timer):
            thread.join(BOUND)


async def until(condition):
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110 - it happens in another thread
            await asyncio.sleep(0.005)


class TestFence:
    async def test_the_process_ends_when_it_has_shut_down(self, ends, caplog):
        done: list[str] = []

        async def shut_down():
            done.append("shut down")

        Fence(shut_down).outdated(3)
        await until(lambda: ends.codes)
        assert (ends.codes[0], done) == (FENCED, ["shut down"])
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert "host was taken for lost" in record.getMessage()
        assert "generation 3" in record.getMessage()

    async def test_it_ends_although_that_never_ends(self, ends):
        task = asyncio.current_task()

        async def shut_down():
            await asyncio.Event().wait()

        fence = Fence(shut_down)
        fence.outdated(1)
        await until(lambda: ends.codes)
        assert ends.codes == [FENCED]
        assert task is not None
        assert fence._task is not None
        fence._task.cancel()
        await asyncio.wait({fence._task})

    async def test_it_ends_although_shutting_down_fails(self, ends):
        async def shut_down():
            raise OSError("no more room")

        fence = Fence(shut_down)
        fence.outdated(1)
        await until(lambda: ends.codes)
        assert fence._task is not None
        with pytest.raises(OSError, match="no more room"):
            await fence._task

    async def test_it_ends_although_the_loop_is_busy(self, ends):
        async def shut_down():
            pass

        Fence(shut_down).outdated(1)
        assert ends.first.wait(BOUND)
        assert ends.codes == [FENCED]

    async def test_who_is_told_in_time_goes_on(self, ends, monkeypatch):
        monkeypatch.setattr(fencing, "OUTDATED_GRACE", BOUND)
        fence = Fence(pytest.fail)
        fence.outdated(2)
        fence.outdated(3)
        thread = fence._thread
        assert thread is not None
        fence.told(2)
        assert thread.is_alive()
        fence.told(3)
        thread.join(BOUND)
        assert not thread.is_alive()
        assert ends.codes == []

    async def test_it_is_noticed_again(self, ends):
        async def shut_down():
            pass

        fence = Fence(shut_down)
        fence.outdated(2)
        fence.told(2)
        fence.outdated(3)
        await until(lambda: ends.codes)

    async def test_many_who_say_so_are_one_reason(self, ends, caplog):
        async def shut_down():
            pass

        fence = Fence(shut_down)
        before = threading.active_count()
        for _ in range(100):
            fence.outdated(2)
        assert threading.active_count() == before + 1
        await until(lambda: ends.codes)
        assert len(caplog.records) == 1


class TestFirstGeneration:
    def test_is_the_first_one_of_all_if_nothing_is_said(self):
        assert first_generation({}) == {"accept": 0, "known": 0, "use": 0, "lost": ()}

    def test_is_the_only_one_that_is_known(self):
        assert first_generation({"generation": 2}) == {
            "accept": 2,
            "known": 2,
            "use": 2,
            "lost": (),
        }

    def test_may_be_between_two_rounds(self):
        fields: dict[str, Any] = {"generation": 2, "accept": 1, "known": 3, "lost": ["tcp://x:1/"]}
        assert first_generation(fields) == {
            "accept": 1,
            "known": 3,
            "use": 2,
            "lost": ["tcp://x:1/"],
        }


PROGRAM = """
import json
import sys
import time

import aiomas
from aiomas.cluster import fencing, worker


class Busy(aiomas.Agent):
    @aiomas.expose
    def block(self):
        time.sleep(600)


if __name__ == "__main__":
    sys.modules["program"] = sys.modules["__main__"]
    fencing.OUTDATED_GRACE = 0.2
    *fds, job = map(json.loads, sys.argv[1:])
    worker.main(job, fds[:2], fds[2])
"""
FIELDS: dict[str, Any] = {
    "codec": "aiomas.codecs:MsgPack",
    "extra_serializers": (),
    "clock": None,
    "time": 0,
    "token": "secret",
    "tls": False,
    "limits": {},
    "urls": [],
    "life": 0,
    "awaited": [],
    "chosen": [],
}


class Supervisor:
    router = aiomas.rpc.Service()


class Process:
    """A container process, as a supervisor starts it, with one agent."""

    def __init__(self, path: str, directory: Path) -> None:
        program = directory / "program.py"
        program.write_text(PROGRAM)
        self.path = path
        with contextlib.ExitStack() as stack:
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(path)
            listening.listen()
            self.control, theirs = socket.socketpair()
            stack.enter_context(theirs)
            read, self.guard = os.pipe()
            stack.callback(os.close, read)
            fds = [theirs.fileno(), listening.fileno(), read]
            job = {
                "environment": Environment().to_job(),
                "directory": str(directory / "run"),
                "uvloop": False,
            }
            self.process = subprocess.Popen(
                [sys.executable, str(program), *map(json.dumps, [*fds, job])],
                pass_fds=fds,
                stderr=subprocess.PIPE,
                text=True,
            )

    async def start(self) -> str:
        self.client = await streams.dial(self.control, Supervisor(), timeout=BOUND)
        url: str = await self.client.remote.start(FIELDS | {"addr": self.path})
        arguments = aiomas.MsgPack().encode([[[], {}]])
        made, failure = await self.client.remote.spawn("program:Busy", arguments)
        assert (len(made), failure) == (1, None)
        return url

    async def close(self) -> None:
        await self.client.close()
        self.process.kill()
        self.process.communicate()
        os.close(self.guard)


@contextlib.asynccontextmanager
async def of_generation(path: str, generation: int) -> AsyncIterator[ClusterContainer]:
    async with ClusterContainer.open(path, token="secret", codec=aiomas.MsgPack) as container:
        container.set_generation(accept=generation, known=generation, use=generation)
        yield container


@pytest.fixture
async def process(unix_path, tmp_path):
    process = Process(unix_path, tmp_path)
    yield process
    await process.close()


class TestProcess:
    @pytest.mark.parametrize("busy", [False, True])
    async def test_it_ends_with_a_code_and_a_line_of_its_own(self, process, unix_path, busy):
        url = await process.start()
        async with (
            of_generation(unix_path + "new", 1) as new,
            of_generation(unix_path + "old", 0) as old,
        ):
            there = await old.connect(url + "0")
            with pytest.raises(HandshakeError, match="older generation"):
                await new.connect(url + "0")
            if busy:
                await aiomas.with_options(there.block, one_way=True)()
            code = await asyncio.to_thread(process.process.wait, BOUND)
        assert code == FENCED
        [line] = process.process.stderr.read().splitlines()[-1:]
        assert "WARNING aiomas.cluster: This container's host was taken for lost" in line

    async def test_it_lives_on_if_it_is_told_in_time(self, process, unix_path):
        url = await process.start()
        async with of_generation(unix_path + "new", 1) as new:
            with pytest.raises(HandshakeError, match="older generation"):
                await new.connect(url + "0")
            await process.client.remote.set_generation(accept=0, known=1, use=0)
            await asyncio.sleep(0.5)  # more than the grace
            assert process.process.poll() is None
            assert await new.connect(url + "0")
