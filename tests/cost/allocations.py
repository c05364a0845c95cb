"""Counts what is asked of the allocator, with what the C library of Linux has for that: mtrace(3).

It works in a process with the environment that :func:`environment` returns, where Python takes
every block from ``malloc``, and the C library writes each of them down.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from pathlib import Path

from tests.cost.cases import Round

LIBRARY = "libc_malloc_debug.so.0"
VERSIONS = (b"GLIBC_2.2.5", b"GLIBC_2.17")  # of the symbols, on x86-64 and on aarch64


def environment(log: Path) -> dict[str, str]:
    """Return the variables of a process that writes to *log*; none if it could not."""
    if platform.libc_ver()[0] != "glibc":
        return {}
    return {"PYTHONMALLOC": "malloc", "LD_PRELOAD": LIBRARY, "MALLOC_TRACE": str(log)}


class Tracing:
    """Lets the C library write to the log.

    Raises:
        OSError: it does not, in this process.
    """

    def __init__(self) -> None:
        self._log = Path(os.environ.get("MALLOC_TRACE", "/nowhere"))
        library = ctypes.CDLL(LIBRARY)
        self._start = _function(library, b"mtrace")
        self._stop = _function(library, b"muntrace")
        self._start()
        self._stop()
        self._log.read_bytes()  # it is there, if it works

    async def count(self, round_: Round) -> dict[str, int]:
        """Return what one round comes to."""
        self._start()
        try:
            await round_()
        finally:
            self._stop()
        return read(self._log.read_text())


def _function(library: ctypes.CDLL, name: bytes) -> Callable[[], None]:
    # `mtrace` of the C library itself does nothing; the one that does has an old version.
    find = ctypes.CDLL(None).dlvsym
    find.restype = ctypes.c_void_p
    find.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p)
    for version in VERSIONS:
        if address := find(library._handle, name, version):
            return ctypes.CFUNCTYPE(None)(address)
    msg = f"{LIBRARY} has no {name.decode()}"
    raise OSError(msg)


def read(log: str) -> dict[str, int]:
    """Return how many blocks, and of how many bytes together, a log tells of.

    A line ends with ``+ ADDRESS SIZE``, or ``> ADDRESS SIZE`` for a block whose size has changed.
    """
    sizes = [
        int(words[-1], 16)
        for words in map(str.split, log.splitlines())
        if len(words) > 3 and words[-3] in {"+", ">"}
    ]
    return {"allocations": len(sizes), "bytes": sum(sizes)}
