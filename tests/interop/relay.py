"""A wire between a caller and a TCP server that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self


class Relay:
    """Passes on what it gets on its own port to another one of this machine, and back."""

    def __init__(self, target: int, tasks: asyncio.TaskGroup) -> None:
        self.port = 0
        self._target = target
        self._tasks = tasks
        self._writers: list[asyncio.StreamWriter] = []

    @classmethod
    @asynccontextmanager
    async def to(cls, target: int) -> AsyncIterator[Self]:
        """Relay connections to the port *target*."""
        async with asyncio.TaskGroup() as tasks:
            relay = cls(target, tasks)
            server = await asyncio.start_server(relay._connected, "127.0.0.1", 0)
            relay.port = server.sockets[0].getsockname()[1]
            try:
                yield relay
            finally:
                server.close()
                relay.cut()

    def cut(self) -> None:
        """Cut all connections, without a word to either end."""
        for writer in self._writers:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onwards = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, onwards[1]]
        self._tasks.create_task(_pump(reader, onwards[1]))
        self._tasks.create_task(_pump(onwards[0], writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
