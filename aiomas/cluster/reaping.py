"""Waiting for child processes without the help of an event loop, which may watch none."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable


def end_of(wait: Callable[[], int]) -> asyncio.Future[int]:
    """Return a future that is done when *wait* has returned an exit code, in a thread of its own.

    The thread keeps nobody from ending.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def tell(code: int) -> None:
        if not ended.done():
            ended.set_result(code)

    def run() -> None:
        code = wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
            loop.call_soon_threadsafe(tell, code)

    threading.Thread(target=run, name="aiomas-reaper", daemon=True).start()
    return ended
