"""Starts programs in other environments, and talks with them in lines of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from .environments import clean_environment

PROGRAMS = Path(__file__).parent / "peers"
PATIENCE = 20.0
"""Seconds that a peer may take for anything."""


class Nursery:
    """A process of another interpreter, from which the programs are forked (`nursery.py`)."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders

    @classmethod
    @contextmanager
    def run(cls, python: Path, *modules: str) -> Iterator[Self]:
        """Run one that has imported these modules."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                number = theirs.fileno()
                process = subprocess.Popen(
                    [python, "-u", "-W", "ignore", PROGRAMS / "nursery.py", str(number), *modules],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[number],
                    env={**clean_environment(), "PYTHONPATH": str(PROGRAMS)},
                )
            ours.settimeout(PATIENCE)
            with process:
                try:
                    yield cls(ours)
                finally:
                    process.kill()

    def fork(self, program: str, *args: str) -> tuple[socket.socket, int]:
        """Run one of the programs beside this file; return its input and output, and its number."""
        ours, theirs = socket.socketpair()
        with theirs:
            order = json.dumps([str(PROGRAMS / program), *args]).encode()
            socket.send_fds(self._orders, [order], [theirs.fileno()])
        return ours, int(self._orders.recv(100))


class Peer:
    """A program that says on its standard output what it does, and is told on its input what to do.

    It ends when its input does, so it cannot outlive the test.
    """

    def __init__(
        self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._pid = pid
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def run(cls, nursery: Nursery, program: str, *args: str) -> AsyncIterator[Peer]:
        """Run one of the programs beside this file."""
        stream, pid = nursery.fork(program, *args)
        peer = cls(pid, *await asyncio.open_connection(sock=stream))
        try:
            yield peer
        finally:
            await peer.end()

    async def says(self) -> Any:
        """Wait for what the program says next."""
        async with asyncio.timeout(PATIENCE):
            line = await self._reader.readline()
        if not line:
            msg = "the program has ended; what it wrote to its standard error says why"
            raise EOFError(msg)
        return json.loads(line)

    async def do(self, what: str, *args: Any) -> Any:
        """Tell the program to do something and return what came of it.

        Returns:
            The result; or, if an exception was raised over there, a dictionary with the names of
            its class and of all base classes (`"types"`) and its text (`"text"`).
        """
        await self.start(what, *args)
        return await self.says()

    async def start(self, what: str, *args: Any) -> None:
        """Tell the program to do something."""
        self._writer.write(json.dumps([what, *args]).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            await self._writer.drain()

    async def kill(self) -> None:
        """End the program without giving it a chance to say goodbye."""
        if not self._reader.at_eof():
            os.kill(self._pid, signal.SIGKILL)
            await self._reader.read()

    async def end(self) -> None:
        """Let the program end; kill it if it does not."""
        with suppress(OSError):  # it has ended
            self._writer.write_eof()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._reader.read()
        except TimeoutError:
            await self.kill()
        except ConnectionError:  # what it was told last it has not read
            pass
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()
