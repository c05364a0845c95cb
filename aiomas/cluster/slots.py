"""How many calls may be under way at the same time."""

from __future__ import annotations

import asyncio
import collections


class Slots:
    """Places for calls that are under way; who comes first is served first.

    Args:
        count: how many there are.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: collections.deque[tuple[int, asyncio.Future[None]]] = collections.deque()

    async def take(self, count: int) -> None:
        """Wait until there are *count* free ones, and take them."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, future))
        self._serve()
        # All that wait here are cancelled together, so nobody has to hand back what he got.
        await future

    def give(self, count: int) -> None:
        """Give *count* of them back."""
        self._free += count
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            count, future = self._waiting.popleft()
            if not future.done():
                self._free -= count
                future.set_result(None)
