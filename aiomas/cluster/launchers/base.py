"""What a launcher is: it puts a supervisor on a host and hands back the stream to it."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Callable
from typing import Protocol


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """A supervisor that was started."""

    sock: socket.socket
    """The duplex stream to it, connected."""
    ended: asyncio.Future[int]
    """Done when what was started here has ended; the exit code, negative for a signal."""
    kill: Callable[[], None]
    """Ends it at once, if it has not ended yet."""


class Launcher(Protocol):
    """Puts supervisors on hosts."""

    async def launch(self) -> Link:
        """Start a supervisor.

        Raises:
            OSError: it could not be started.
        """
