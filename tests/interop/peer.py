"""Starts programs in other environments, and talks with them in lines of JSON."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from .environments import clean_environment

PROGRAMS = Path(__file__).parent / "peers"
PATIENCE = 20.0
"""Seconds that a peer may take for anything."""


class Peer:
    """A program that says on its standard output what it does, and is told on its input what to do.

    It ends when its input does, so it cannot outlive the test.
    """

    def __init__(self, process: Process) -> None:
        assert process.stdin
        assert process.stdout
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout

    @classmethod
    @asynccontextmanager
    async def run(cls, python: Path, program: str, *args: str) -> AsyncIterator[Peer]:
        """Run one of the programs beside this file."""
        process = await asyncio.create_subprocess_exec(
            python,
            "-u",
            "-W",
            "ignore",
            PROGRAMS / program,
            *args,
            stdin=PIPE,
            stdout=PIPE,
            env={**clean_environment(), "PYTHONPATH": str(PROGRAMS)},
        )
        peer = cls(process)
        try:
            yield peer
        finally:
            await peer.end()

    async def says(self) -> Any:
        """Wait for what the program says next."""
        async with asyncio.timeout(PATIENCE):
            line = await self._stdout.readline()
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
        self._stdin.write(json.dumps([what, *args]).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            await self._stdin.drain()

    async def kill(self) -> None:
        """End the program without giving it a chance to say goodbye."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def end(self) -> None:
        """Let the program end; kill it if it does not."""
        self._stdin.close()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._process.wait()
        except TimeoutError:
            await self.kill()
        # Its pipes are closed when their end was seen.
        await self._stdout.read()
        with suppress(ConnectionError):
            await self._stdin.wait_closed()
