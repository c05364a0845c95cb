"""The event loops that are measured, and the cores on which."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

LOOPS = ("asyncio", "uvloop") if importlib.util.find_spec("uvloop") else ("asyncio",)
"""The names of those that are installed."""


def run(loop_name: str, main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the event loop with this name."""
    factory = None
    if loop_name == "uvloop":
        import uvloop  # noqa: PLC0415 - not there on every system

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


@contextlib.contextmanager
def pinned(*, to_one_core: bool) -> Iterator[None]:
    """Stay on one core, and so do processes that are started meanwhile.

    Where the system cannot do that, nothing happens (see :func:`can_pin`).
    """
    if not (to_one_core and can_pin()):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})  # the first one serves interrupts, as a rule
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def can_pin() -> bool:
    """Return whether processes can be kept on one core here."""
    return hasattr(os, "sched_setaffinity")
