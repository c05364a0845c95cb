"""The baseline: what asyncio and msgpack alone reach with the same frames and no features.

A 4-byte header, msgpack ``[type, id, content]``, one future for each call, one write for each turn
of the event loop.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgpack

_HEADER = struct.Struct("!L")


class _Framed(asyncio.Protocol):
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._out: list[bytes] = []
        self._pack = msgpack.Packer().pack
        self._transport: Any

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        position, size = 0, len(data)
        while size - position >= _HEADER.size:
            (length,) = _HEADER.unpack_from(data, position)
            start = position + _HEADER.size
            if start + length > size:
                break
            position = start + length
            self.message(msgpack.unpackb(data[start:position], use_list=False))
        self._buffer = data[position:]

    def send(self, message: Any) -> None:
        payload = self._pack(message)
        self._out.append(_HEADER.pack(len(payload)) + payload)
        if len(self._out) == 1:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._transport.write(b"".join(self._out))
        self._out.clear()

    def message(self, message: Any) -> None:
        raise NotImplementedError


class Server(_Framed):
    """Echoes the first argument of each request."""

    def message(self, message: Any) -> None:
        _, message_id, (_, args, _) = message
        self.send((1, message_id, args[0]))


class Client(_Framed):
    """Sends requests and gives their replies to futures."""

    def __init__(self) -> None:
        super().__init__()
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 0

    def call(self, value: Any) -> asyncio.Future[Any]:
        """Send *value* and return the future of its echo."""
        future = self._loop.create_future()
        self._pending[self._next_id] = future
        self.send((0, self._next_id, ("agents/0/echo", (value,), {})))
        self._next_id += 1
        return future

    def message(self, message: Any) -> None:
        _, message_id, content = message
        self._pending.pop(message_id).set_result(content)
