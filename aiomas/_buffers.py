"""Memory into which the connections of one event loop receive.

A transport asks for it, fills it, and says so, all in one go: so no two connections use it at the
same time, and a thousand of them take no more memory than one.  It also saves setting memory aside
and giving it back for everything that is received.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import ClassVar

from aiomas._wire import Spare

CHUNK = 64 * 1024
"""Bytes that are received at once; what is longer is received where it will be read."""


class Buffers:
    """The memory of one event loop."""

    _of_loops: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Buffers]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self) -> None:
        self.small = memoryview(bytearray(CHUNK))
        """For what is copied out of it at once."""
        self.spare = Spare()
        """For large frames, which stay there until they are complete."""

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Buffers:
        """Return those of *loop*."""
        buffers = cls._of_loops.get(loop)
        if buffers is None:
            buffers = cls._of_loops[loop] = cls()
        return buffers
