"""A peer that knows nothing but a plain socket and the bytes it was told to send."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

PATIENCE = 10.0
"""Seconds that each operation may take at the most."""


class RawPeer:
    """One end of a connection, on a socket of its own."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._received = b""

    @classmethod
    @asynccontextmanager
    async def dial(cls, port: int) -> AsyncIterator[Self]:
        """Connect to *port* of this machine."""
        with socket.socket() as sock:
            peer = cls(sock)
            async with asyncio.timeout(PATIENCE):
                await peer._loop.sock_connect(sock, ("127.0.0.1", port))
            yield peer

    async def send(self, data: bytes) -> None:
        """Send *data* as it is."""
        async with asyncio.timeout(PATIENCE):
            await self._loop.sock_sendall(self._socket, data)

    async def frame(self) -> bytes:
        """Return the next frame, with its header."""
        header = await self._peek(4)
        size = 4 + struct.unpack("!L", header)[0]
        frame = await self._peek(size)
        self._received = self._received[size:]
        return frame

    async def at_end(self) -> bool:
        """Wait until the other end closes the connection, and return whether it sent no more."""
        async with asyncio.timeout(PATIENCE):
            return not (self._received or await self._loop.sock_recv(self._socket, 1))

    async def _peek(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE):
            while len(self._received) < size:
                data = await self._loop.sock_recv(self._socket, 65_536)
                if not data:
                    msg = f"the connection was closed after {self._received!r}"
                    raise ConnectionError(msg)
                self._received += data
        return self._received[:size]


class RawServer:
    """Listens on a free port of this machine."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.port: int = sock.getsockname()[1]

    @classmethod
    @asynccontextmanager
    async def listen(cls) -> AsyncIterator[Self]:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            sock.setblocking(False)
            yield cls(sock)

    @asynccontextmanager
    async def accept(self) -> AsyncIterator[RawPeer]:
        """Wait for the next connection."""
        async with asyncio.timeout(PATIENCE):
            sock, _ = await asyncio.get_running_loop().sock_accept(self._socket)
        with sock:
            yield RawPeer(sock)


class RawEnd(asyncio.Protocol):
    """One end of a connection of any kind, also in virtual time; keeps all that it was sent."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.lost = asyncio.Event()
        self._frames: asyncio.Queue[bytes] = asyncio.Queue()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= 4:
            size = 4 + struct.unpack("!L", self._received[:4])[0]
            if len(self._received) < size:
                break
            frame, self._received = self._received[:size], self._received[size:]
            self.frame_received(frame)

    def frame_received(self, frame: bytes) -> None:
        """Take the next frame, with its header."""
        self._frames.put_nowait(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def send(self, data: bytes) -> None:
        """Send *data* as it is."""
        self.transport.write(data)

    async def frame(self) -> bytes:
        """Return the next frame, with its header."""
        async with asyncio.timeout(PATIENCE):
            return await self._frames.get()

    def is_done(self) -> bool:
        """Whether all that came was taken."""
        return self._frames.empty() and not self._received
