"""A transport without a socket, and an event loop without a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from fuzz.checks import Finding, check

HIGH_WATER = 64 * 1024
MAX_TURNS = 2000
"""Turns of the loop after which something is taken to go in circles."""


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until it is told to go on."""

    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__()
        self.complaints: list[str] = []
        """What nobody but the loop could be told, such as an exception in a callback."""
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        """Return the time, in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        self._now += seconds

    async def settle(self) -> None:
        """Let everything run that can run now."""
        for _ in range(MAX_TURNS):
            await asyncio.sleep(0)
            if not self._ready:  # type: ignore[attr-defined]
                return
        msg = f"something still runs after {MAX_TURNS} turns of the loop"
        raise Finding(msg)

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        """What will be called at some time."""
        return [handle for handle in self._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]

    def _complain(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context['message']}: {context.get('exception')!r}")


class Transport(asyncio.Transport):
    """Keeps what is written, and behaves as the transport of a socket otherwise.

    Args:
        loop: calls ``connection_lost`` of the protocol.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"peername": ("peer", 5555)})
        self.protocol: asyncio.BaseProtocol
        self.written = bytearray()
        self.reading = True
        self.buffered = 0
        """Bytes that the other side has not taken yet."""
        self._loop = loop
        self._closing = False

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        check(not self._closing, "something was written to a transport that is closed")
        self.written += data

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 0, HIGH_WATER

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.lose(None)

    def abort(self) -> None:
        self.lose(None)

    def lose(self, exc: Exception | None) -> None:
        """End the connection, because of *exc* or in peace."""
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self.protocol.connection_lost, exc)
