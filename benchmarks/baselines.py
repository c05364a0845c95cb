"""What asyncio and a codec alone reach with the same frames and no features: the baselines.

A 4-byte header, `[type, id, content]`, one future for each call, one write for each turn of the
event loop.  There are four pairs of client and server:

- P, on a plain :class:`asyncio.Protocol`,
- B, the same on :class:`asyncio.BufferedProtocol`, which saves stock asyncio a large allocation
  for each chunk that it reads,
- "P on json", as P, with the standard library's json,
- tuned, for large payloads: nothing of a payload is copied but by the codec and the system.

They trust whoever they talk to, and know no errors: so much may a library cost at least.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from typing import Any

import msgpack

HEADER = struct.Struct("!L")
CHUNK = 256 * 1024
"""Bytes that are read at once, as by asyncio itself."""


class Plain(asyncio.Protocol):
    """Cuts what arrives into messages, and collects those to be sent until the turn ends."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._buffer = b""
        self._out: list[bytes] = []
        self._pack, self._unpack = self.codec()
        self._transport: Any

    def codec(self) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
        return msgpack.Packer().pack, msgpack.unpackb

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        position, size = 0, len(data)
        while size - position >= HEADER.size:
            (length,) = HEADER.unpack_from(data, position)
            start = position + HEADER.size
            if start + length > size:
                break
            position = start + length
            self.message(self._unpack(data[start:position]))
        self._buffer = data[position:]

    def send(self, message: Any) -> None:
        payload = self._pack(message)
        self._out.append(HEADER.pack(len(payload)) + payload)
        if len(self._out) == 1:
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._transport.write(b"".join(self._out))
        self._out.clear()

    def message(self, message: Any) -> None:
        raise NotImplementedError


class Buffered(asyncio.BufferedProtocol, Plain):
    """Reads into one buffer, again and again."""

    def __init__(self) -> None:
        super().__init__()
        self._view = memoryview(bytearray(CHUNK))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - fixed by asyncio
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._view[:nbytes]))


class OnJson(Plain):
    """Uses json as most programs do."""

    def codec(self) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
        return lambda message: json.dumps(message).encode(), json.loads


class Tuned(asyncio.BufferedProtocol):
    """Reads into a buffer that grows to the size of a message, which is decoded where it lies.

    Header and body are written apart, so that they are not copied into one.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._view = memoryview(bytearray(CHUNK))
        self._filled = 0
        self._packer = msgpack.Packer(autoreset=False)
        self._transport: Any

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - fixed by asyncio
        return self._view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        filled = self._filled + nbytes
        position = 0
        while filled - position >= HEADER.size:
            (length,) = HEADER.unpack_from(self._view, position)
            start = position + HEADER.size
            if start + length > filled:
                self._make_room(position, filled, HEADER.size + length)
                self._filled = filled - position
                return
            position = start + length
            self.message(msgpack.unpackb(self._view[start:position], use_list=False))
        self._make_room(position, filled, 0)
        self._filled = filled - position

    def _make_room(self, position: int, filled: int, needed: int) -> None:
        """Move the unfinished message to the front of a buffer in which it has room."""
        view = self._view
        if needed > len(view):
            self._view = memoryview(bytearray(needed))
        if position or view is not self._view:
            self._view[: filled - position] = bytes(view[position:filled])

    def send(self, message: Any) -> None:
        packer = self._packer
        try:
            packer.reset()
        except BufferError:  # the transport has not sent all of the last message yet
            packer = self._packer = msgpack.Packer(autoreset=False)
        packer.pack(message)
        payload = packer.getbuffer()
        self._transport.write(HEADER.pack(len(payload)))
        self._transport.write(payload)

    def message(self, message: Any) -> None:
        raise NotImplementedError


class _Server:
    """Echoes the first argument of each request."""

    send: Callable[[Any], None]

    def message(self, message: Any) -> None:
        _, message_id, (_, args, _) = message
        self.send((1, message_id, args[0]))


class _Client:
    """Sends requests and gives their replies to futures."""

    loop: asyncio.AbstractEventLoop
    send: Callable[[Any], None]

    def __init__(self) -> None:
        super().__init__()
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 0

    def call(self, value: Any) -> asyncio.Future[Any]:
        """Send *value* and return the future of its echo."""
        future = self.loop.create_future()
        self._pending[self._next_id] = future
        self.send((0, self._next_id, ("agents/0/echo", (value,), {})))
        self._next_id += 1
        return future

    def message(self, message: Any) -> None:
        _, message_id, content = message
        self._pending.pop(message_id).set_result(content)


class PlainServer(_Server, Plain): ...


class PlainClient(_Client, Plain): ...


class BufferedServer(_Server, Buffered): ...


class BufferedClient(_Client, Buffered): ...


class OnJsonServer(_Server, OnJson): ...


class OnJsonClient(_Client, OnJson): ...


class TunedServer(_Server, Tuned): ...


class TunedClient(_Client, Tuned): ...


PAIRS: dict[str, tuple[type[Any], type[Any]]] = {
    "P": (PlainServer, PlainClient),
    "B": (BufferedServer, BufferedClient),
    "P on json": (OnJsonServer, OnJsonClient),
    "tuned": (TunedServer, TunedClient),
}
"""The class of the server and that of the client, by the name of the baseline."""
