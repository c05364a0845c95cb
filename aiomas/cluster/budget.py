"""How much may be under way at the same time."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Budget:
    """A number of bytes that may be under way; what is larger than that goes alone.

    Args:
        most: the number.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def spending(self, size: int) -> AsyncIterator[None]:
        """Wait until there is room for *size* bytes, and keep it for as long as the block runs."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        self._go_on()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._used -= size
            self._go_on()

    def _go_on(self) -> None:
        """Let those go for whom there is room, in the order in which they came."""
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.done():
                if self._used and self._used + size > self._most:
                    return
                self._used += size
                turn.set_result(None)
            self._waiting.popleft()
