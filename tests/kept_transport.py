"""A transport for tests that need no socket."""

from __future__ import annotations

import asyncio
from typing import Any


class KeptTransport(asyncio.Transport):
    """Keeps what was written."""

    def __init__(self) -> None:
        super().__init__({"peername": "peer"})
        self.data = b""
        self.closing = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: Any) -> None:
        self.data += bytes(data)

    def close(self) -> None:
        self.closing = True

    abort = close
