"""Passes the lines of logs on to the driver: many at a time, and no more than it can take."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

MOST_LINES = 1000
"""How many lines of a container wait to be passed on; those beyond are left out."""

_PAUSE = 0.05  # seconds in which lines are gathered


class Echo:
    """Gathers lines, and sends them when what was sent before has arrived.

    Args:
        send: sends lines of the container with an index; returns when they have arrived, or raises
            :exc:`ConnectionError` if nobody is there.
    """

    def __init__(self, send: Callable[[int, list[str]], Awaitable[object]]) -> None:
        self._send = send
        self._lines: dict[int, list[str]] = {}  # by the index of the container
        self._left_out: dict[int, int] = {}
        self._sending: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    def take(self, index: int, line: str) -> None:
        """Take a line of the container with this index."""
        lines = self._lines.setdefault(index, [])
        if len(lines) < MOST_LINES:
            lines.append(line)
        else:
            self._left_out[index] = self._left_out.get(index, 0) + 1
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send_all())

    async def flush(self, timeout: float) -> None:
        """Wait until all lines have been sent, at most *timeout* seconds."""
        if self._sending is not None:
            self._hurry.set()
            await asyncio.wait({self._sending}, timeout=timeout)
            self._hurry.clear()

    def close(self) -> None:
        """Send nothing more."""
        if self._sending is not None:
            self._sending.cancel()

    async def _send_all(self) -> None:
        while self._lines:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE):
                    await self._hurry.wait()
            waiting, self._lines = self._lines, {}
            left_out, self._left_out = self._left_out, {}
            for index, lines in waiting.items():
                if index in left_out:
                    lines.append(f"[{left_out[index]} lines not shown]")
                with contextlib.suppress(ConnectionError):
                    await self._send(index, lines)
