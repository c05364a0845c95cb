"""Agents that do to their container what tests want to see."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiomas
from aiomas.cluster import checkpoint


class Worker(aiomas.Agent):
    """Does well; what it has counted is kept when it is asked for."""

    def __init__(self, container, *args):
        super().__init__(container)
        self.args = list(args)
        self.count = 0

    @aiomas.expose
    def pid(self):
        return os.getpid()

    @aiomas.expose
    def kill(self):
        """Kill the container when the call has been answered."""
        self.container.loop.call_later(0.1, os.kill, os.getpid(), signal.SIGKILL)

    @aiomas.expose
    def get(self):
        return self.args, self.count

    @aiomas.expose
    def add(self):
        self.count += 1
        return self.count

    @aiomas.expose
    async def save(self):
        await checkpoint(self)

    def get_state(self):
        return {"count": self.count}

    async def set_state(self, state):
        await asyncio.sleep(0)
        self.count = state["count"]

    @aiomas.expose
    async def hang(self):
        await asyncio.get_running_loop().create_future()

    @aiomas.expose
    def make_another(self, *args):
        return Worker(self.container, *args)

    @aiomas.expose
    async def end(self):
        await self.stop()

    @aiomas.expose
    def ids(self):
        return sorted(self.container.agents.dict)

    @aiomas.expose
    def time(self):
        return self.container.clock.time()


class Heavy(Worker):
    """Has a state of *size* bytes, and knows whether it got that back."""

    def __init__(self, container, size):
        super().__init__(container, size)
        self.size = size

    def get_state(self):
        return bytes(self.size)

    async def set_state(self, state):
        self.count = len(state)


class Stateless(aiomas.Agent):
    @aiomas.expose
    def pid(self):
        return os.getpid()


class Faulty(Worker):
    """Does what a container can hardly stand."""

    @aiomas.expose
    def exit(self, code):
        os._exit(code)

    @aiomas.expose
    def allocate(self, size):
        return len(bytearray(size))

    @aiomas.expose
    def hoard(self):
        """Take all memory that can be had, down to the smallest pieces, and keep it."""
        self.pieces: tuple = ()
        size = 2**24
        while size > 16:
            try:
                self.pieces = self.pieces, bytes(size)
            except MemoryError:
                size //= 2
        raise MemoryError

    @aiomas.expose
    def allocate_in_a_handler(self, size):
        # What is raised in there is raised where the event loop waits, and ends it.
        signal.signal(signal.SIGALRM, lambda *_: bytearray(size))
        signal.setitimer(signal.ITIMER_REAL, 0.2)

    @aiomas.expose
    def block_the_loop(self):
        while True:
            time.sleep(0.1)

    @aiomas.expose
    def limits(self):
        return repr(self.container._terms.limits)

    @aiomas.expose
    def block_for(self, seconds):
        time.sleep(seconds)

    @aiomas.expose
    async def call(self, agent, method, *args):
        try:
            return await getattr(agent, method)(*args)
        except ConnectionError as exc:
            return type(exc).__name__

    @aiomas.expose
    def ignore_all_and_block(self, mark):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(mark).touch()
        self.block_the_loop()

    @aiomas.expose
    def close_control(self):
        """Close the descriptor of the stream over which the container is controlled."""
        [fd] = [fd for fd in range(3, 100) if _is_control(fd)]
        os.close(fd)

    @aiomas.expose
    def write(self, text, times):
        for _ in range(times):
            print(text)  # noqa: T201 - it is for the log

    @aiomas.expose
    def surroundings(self, *names):
        # What is ignored here would be ignored by all programs that are started here.
        program = ["sh", "-c", "kill -INT $$; echo is ignored"]
        shell = subprocess.run(program, capture_output=True, text=True, check=False)
        return {
            "ctrl_c": shell.stdout.strip() or "ends it",
            "env": [os.environ.get(name) for name in names],
            "cwd": str(Path.cwd()),
            "cores": sorted(os.sched_getaffinity(0)),
            "nice": os.nice(0),
            "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "random": random.random(),
            "title": Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode(),
        }


def _is_control(fd: int) -> bool:
    """Whether *fd* is one of a pair of sockets which the supervisor, not we, has made."""
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid = int.from_bytes(credentials[:4], sys.byteorder)
            return not sock.getsockname() and pid not in {0, os.getpid()}
    except OSError:
        return False


class Picky(Worker):
    """Cannot be made with some arguments."""

    def __init__(self, container, number, mark=""):
        super().__init__(container, number)
        if number == "raise" or (number == "raise later" and Path(mark).exists()):
            raise ValueError("this one is not wanted")
        if number == "exit":
            sys.exit(3)
        if number == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if number == "wait":
            Path(mark).touch()
            while True:
                time.sleep(0.1)
        if mark and number == "once" and Path(mark).exists():
            os._exit(3)


async def hanging(container, started, cancelled):
    Path(started).touch()
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        Path(cancelled).touch()
        raise
