"""Memory into which large messages are encoded, again and again.

To get so much memory from the system takes longer than to fill it.
"""

from __future__ import annotations

import threading
from typing import Any

import msgpack

# Bytes of such memory that is kept for the next message: as large as Limits.max_frame allows by
# default, and a little more for what is around the content.
_KEPT = 17 * 1024 * 1024


class LargeMessages(threading.local):
    """Encodes large messages without objects, into memory that all codecs of a thread share."""

    def __init__(self) -> None:
        self._packer: msgpack.Packer | None = None

    def pack(self, data: Any) -> memoryview:
        """Encode *data*, or raise anything."""
        packer, self._packer = self._packer, None  # what is encoded may come here, too
        try:
            if packer is not None:
                packer.reset()
        except BufferError:  # somebody has not sent the last message yet
            packer = None
        if packer is None:
            packer = msgpack.Packer(autoreset=False)
        packer.pack(data)
        view: memoryview = packer.getbuffer()
        if len(view) <= _KEPT:
            self._packer = packer
        return view


large_messages = LargeMessages()
