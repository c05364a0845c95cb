"""Container processes that are none: they live in the loop of a test and answer as told."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import signal
import socket
from pathlib import Path
from typing import Any

from aiomas import rpc
from aiomas.cluster import streams
from aiomas.cluster.launchers.base import Launcher, Link
from aiomas.cluster.supervisor import Supervisor
from aiomas.cluster.zygote import Process

BOUND = 10.0  # seconds


async def until(condition):
    """Wait for something that happens in this loop or in another process."""
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)


class FakeFork:
    """A fork server; ``answers`` has functions that take a process and the arguments of a call."""

    def __init__(self):
        self.answers = {}
        self.processes = []
        self.errors = []
        """What the next forks raise; ``None`` for nothing."""
        self.serving = True
        """Whether processes serve their control stream; or what they do instead."""
        self.deadly = {signal.SIGTERM, signal.SIGKILL}
        self.preloaded = []
        self.unloadable = None
        """What loading modules raises."""
        self.prepared = []
        self.modes = []
        """Those of the files that it was told to load."""
        self.directory = None
        self.closed = False
        self.lost = asyncio.get_running_loop().create_future()
        self._pids = itertools.count(1_000_001)

    async def fork(self, job, descriptors):
        await asyncio.sleep(0)
        if error := self.errors and self.errors.pop(0):
            raise error
        process = FakeProcess(self, next(self._pids), job, descriptors)
        self.processes.append(process)
        if callable(self.serving):
            self.serving(process)
        elif self.serving:
            process.client = await streams.accept(process.control, FakeWorker(process))
            process.client.channel.on_closed(process.control_closed)
        return process

    async def kill(self, process, sig=signal.SIGKILL):
        await asyncio.sleep(0)
        if process.exited.done():
            raise ProcessLookupError
        process.signals.append(sig)
        if sig in self.deadly:
            process.end(-sig)

    async def preload(self, modules):
        self.preloaded += modules
        if self.unloadable is not None:
            raise self.unloadable

    async def prepare(self, target, argument):
        self.prepared.append((target, argument))
        self.modes += [Path(path).stat().st_mode & 0o777 for path in argument if path is not None]

    async def tidy_up(self, directory):
        self.directory = directory

    async def close(self, timeout=None):
        self.closed = True
        for process in self.processes:
            process.end(-signal.SIGKILL)


class FakeProcess(Process):
    def __init__(self, fork, pid, job, descriptors):
        super().__init__(pid, asyncio.get_running_loop().create_future())
        self.fork = fork
        self.job = job
        self.output, control, self.listening = map(os.dup, descriptors)
        self.control = socket.socket(fileno=control)
        self.client = None
        self.calls = []
        self.signals = []
        self.ends_with_stream = True

    def write(self, text):
        os.write(self.output, text.encode())

    def calls_of(self, method):
        return [args for name, *args in self.calls if name == method]

    def control_closed(self):
        if self.ends_with_stream:
            self.end(0)

    def end(self, code):
        """End; *code* may be what the fork server says instead of an exit code."""
        self.close()
        if not self.exited.done():
            if isinstance(code, Exception):
                self.exited.set_exception(code)
                self.exited.exception()
            else:
                self.exited.set_result(code)

    def close(self):
        """Close all that a process closes when it ends."""
        self.ends_with_stream = False
        (self.client or self.control).close()
        for name in ("output", "listening"):
            fd = getattr(self, name)
            setattr(self, name, -1)
            if fd >= 0:
                os.close(fd)


class FakeWorker:
    router = rpc.Service()

    def __init__(self, process):
        self._process = process

    async def _answer(self, method, *args, default=None):
        self._process.calls.append((method, *args))
        answer = self._process.fork.answers.get(method)
        if answer is None:
            return default
        result = answer(self._process, *args)
        return await result if inspect.isawaitable(result) else result

    @rpc.expose
    async def start(self, fields):
        return await self._answer("start", fields, default="fake://container/")

    @rpc.expose
    async def spawn(self, target, arguments, *former):
        return await self._answer("spawn", target, arguments, *former, default=([], None))

    @rpc.expose
    async def take_states(self, states):
        return await self._answer("take_states", states)

    @rpc.expose
    async def restore(self, target, arguments, former, timeout):
        return await self._answer("restore", target, arguments, former, timeout, default=[])

    @rpc.expose
    async def set_generation(self, *terms):
        return await self._answer("set_generation", *terms)

    @rpc.expose
    async def checkpoint(self):
        return await self._answer("checkpoint", default=([], None))

    @rpc.expose
    async def retire(self, timeout):
        return await self._answer("retire", timeout, default=([], None))

    @rpc.expose
    async def set_time(self, time):
        return await self._answer("set_time", time)

    @rpc.expose
    async def status(self):
        return await self._answer("status", default={"agents": 7})

    @rpc.expose
    async def ping(self):
        return await self._answer("ping")

    @rpc.expose
    async def stop(self, timeout):
        return await self._answer("stop", timeout)


async def never(process, *_):
    """Answer to nothing, as a process that hangs."""
    await asyncio.wait([process.exited])


def fails(*_):
    """Fail, as code of a user does."""
    msg = "code of the user"
    raise LookupError(msg)


class FakeLauncher(Launcher):
    """Runs supervisors in the loop in which it is asked for them."""

    def __init__(self):
        self.program: Any = None
        self.supervisor: Any = None
        self.task: Any = None
        self.how = 0
        self.killed = 0

    async def launch(self, host, timeout):
        ours, theirs = socket.socketpair()
        self.supervisor = Supervisor(self.program)
        self.task = asyncio.create_task(self.supervisor.serve(theirs))
        ended = asyncio.get_running_loop().create_future()
        self.task.add_done_callback(lambda _: ended.set_result(self.how))
        return Link(ours, ended, self._kill)

    def _kill(self):
        if not self.task.done():
            self.killed += 1
            self.task.cancel()
