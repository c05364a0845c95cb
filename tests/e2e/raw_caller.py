"""A caller on a plain blocking socket: it reads and writes only when its test says so."""

from __future__ import annotations

import json
import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from tests.e2e.peer_process import AID

PATIENCE = 20.0
"""Seconds that each operation may take at the most, also on a machine that is busy."""
RESULT = 1
EXCEPTION = 2


def _dump_json(message: Any) -> bytes:
    return json.dumps(message).encode()


def frame(payload: bytes) -> bytes:
    """Return *payload* with its length before it."""
    return struct.pack("!L", len(payload)) + payload


def request(number: int, function: str, *args: Any) -> bytes:
    """Return the frame, in JSON, of a call to the servant of a `PeerProcess`."""
    return frame(_dump_json([0, number, [f"agents/{AID}/{function}", args, {}]]))


class RawCaller:
    """One end of a connection to a container."""

    def __init__(
        self,
        sock: socket.socket,
        dump: Callable[[Any], bytes] = _dump_json,
        load: Callable[[bytes], Any] = json.loads,
    ) -> None:
        self._socket = sock
        self._dump = dump
        self._load = load
        self._next_id = 1_000_000  # far from what tests number themselves

    @classmethod
    @contextmanager
    def dial(cls, path: str, **codec: Any) -> Iterator[Self]:
        """Connect to the Unix socket at *path*.

        Args:
            path: where the container listens.
            codec: `dump` and `load`, two functions, if its codec is not JSON.
        """
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)  # with a timeout, it would not wait for a place in the queue
            sock.settimeout(PATIENCE)
            yield cls(sock, **codec)

    def send(self, data: bytes) -> None:
        """Send *data* as it is."""
        self._socket.sendall(data)

    def read(self, size: int) -> bytes:
        """Return *size* bytes.

        Raises:
            EOFError: the connection has ended.
        """
        data = bytearray()
        while len(data) < size:
            try:
                part = self._socket.recv(size - len(data))
            except ConnectionResetError:  # it was closed before all that we had sent was read
                part = b""
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def message(self) -> list[Any]:
        """Return the next message, `[type, id, content]`; raises what :meth:`read` does."""
        (size,) = struct.unpack("!L", self.read(4))
        return list(self._load(self.read(size)))

    def message_or_end(self) -> list[Any] | None:
        """Wait for the next message, or for the end of the connection, for which this is `None`."""
        try:
            return self.message()
        except EOFError:
            return None

    def ask(self, content: Any) -> list[Any]:
        """Send a request with this content, which may be anything; return type and content."""
        self._next_id += 1
        self.send(frame(self._dump([0, self._next_id, content])))
        kind, number, answer = self.message()
        assert number == self._next_id
        return [kind, answer]

    def call(self, function: str, *args: Any) -> Any:
        """Call a function of the servant and return its result."""
        kind, answer = self.ask([f"agents/{AID}/{function}", args, {}])
        assert kind == RESULT, answer
        return answer

    def is_cut(self, within: float = 0.0) -> bool:
        """Whether the other end closes the connection within so many seconds; reads nothing."""
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return bool(poll.poll(within * 1000))
