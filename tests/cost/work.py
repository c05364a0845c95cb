"""Counts what is done: tasks, functions, system calls and callbacks.

The interpreter itself tells of each function that begins (:func:`sys.setprofile`).  That neither
disturbs nor is disturbed by coverage and debuggers, which ask to be told of lines.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter
from types import FrameType
from typing import Any

from tests.cost.cases import Round

SENDS = {"send", "sendmsg", "sendto"}
RECEIVES = {"recv", "recv_into"}
POLLS = {"poll", "control"}  # of epoll and of kqueue
CALLBACKS = {asyncio.BaseEventLoop.call_soon.__code__}
TIMERS = {asyncio.BaseEventLoop.call_at.__code__}
FIGURES = (
    "tasks",
    "functions",
    "builtins",
    "sends",
    "receives",
    "polls",
    "callbacks",
    "timers",
)


class CountedTask(asyncio.Task):
    """A task that can be counted, whoever makes it."""

    __slots__ = ()
    made = 0

    def __init__(self, *args: Any, **kwds: Any) -> None:
        CountedTask.made += 1
        super().__init__(*args, **kwds)


def count_tasks() -> None:
    """Let each task be a :class:`CountedTask`; only before others have looked at ``Task``."""
    asyncio.Task = asyncio.tasks.Task = CountedTask  # type: ignore[misc]
    if sys.version_info >= (3, 12):
        factory = asyncio.create_eager_task_factory(CountedTask)
        asyncio.eager_task_factory = asyncio.tasks.eager_task_factory = factory


async def count(round_: Round) -> dict[str, int]:
    """Return what one round comes to, by the names in :data:`FIGURES`."""
    counts: Counter[str] = Counter()

    def event(frame: FrameType, kind: str, arg: Any) -> None:
        if kind == "call":
            if frame.f_code in CALLBACKS:
                counts["callbacks"] += 1
            elif frame.f_code in TIMERS:
                counts["timers"] += 1
            # The functions of others, called by others, differ from one patch release of
            # Python to the next, and nobody here can do anything about them.
            if is_ours(frame) or (frame.f_back is not None and is_ours(frame.f_back)):
                counts["functions"] += 1
        elif kind == "c_call":
            if is_ours(frame):
                counts["builtins"] += 1
            counts[system_call(arg)] += 1

    tasks = CountedTask.made
    sys.setprofile(event)
    try:
        await round_()
    finally:
        sys.setprofile(None)
    counts["tasks"] = CountedTask.made - tasks
    return {figure: counts[figure] for figure in FIGURES}


def is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "aiomas"


def system_call(function: Any) -> str:
    """Return by which name a builtin function is counted, if it asks something of the system."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, socket.socket):
        if function.__name__ in SENDS:
            return "sends"
        if function.__name__ in RECEIVES:
            return "receives"
    elif type(owner).__module__ == "select" and function.__name__ in POLLS:
        return "polls"
    return ""
