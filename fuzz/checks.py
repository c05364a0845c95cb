"""What a target says when something does not hold, and the bound for memory."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable


class Finding(AssertionError):  # noqa: N818 - it is found, not made
    """An input showed something that must never be."""


def check(condition: object, message: str) -> None:
    """Raise a :class:`Finding` unless *condition* holds."""
    if not condition:
        raise Finding(message)


SAMPLE = 8
"""One of so many inputs is measured, always the same ones, so that a finding can be repeated."""

MIB = 1024 * 1024


def within_memory(
    run: Callable[[bytes], None], data: bytes, *, base: int, factor: int, always: bool = False
) -> None:
    """Run *data*, and see how much memory is held meanwhile.

    Args:
        run: takes the input.
        data: the input.
        base: bytes that are always allowed.
        factor: bytes that are allowed for each byte of the input.
        always: measure, even if this input is not in the sample.
    """
    if not always and zlib.crc32(data) % SAMPLE:
        run(data)
        return
    tracemalloc.start()
    try:
        run(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    bound = base + factor * len(data)
    check(peak <= bound, f"{peak} bytes of memory for {len(data)} bytes, more than {bound}")
