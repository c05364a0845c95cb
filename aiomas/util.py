"""Small helpers around the event loop, and a serializer for dates.

The functions that make SSL contexts live in :mod:`aiomas.tls` and are re-exported here under
their historic names.
"""

from __future__ import annotations

import asyncio
import atexit
import datetime
import importlib
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, overload

from aiomas.tls import make_ssl_client_context, make_ssl_server_context

if TYPE_CHECKING:
    import arrow

__all__ = [
    "arrow_serializer",
    "create_task",
    "current_loop",
    "make_ssl_client_context",
    "make_ssl_server_context",
    "obj_from_str",
    "run",
]

T = TypeVar("T")


def current_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop, or else this thread's current one; make it if need be.

    A loop that this function had to make becomes the current one, is used again by the next call,
    and is closed when the interpreter exits.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    try:
        # Some Python versions make a missing loop with a warning, others refuse: treat them alike.
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            loop = asyncio.get_event_loop()
    except (RuntimeError, DeprecationWarning):
        loop = None
    if loop is None or loop.is_closed():
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        atexit.register(_close_loop, loop)
    return loop


def _close_loop(loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_running():
        loop.close()


@overload
def run(until: None = None, loop: asyncio.AbstractEventLoop | None = None) -> None: ...
@overload
def run(until: Awaitable[T], loop: asyncio.AbstractEventLoop | None = None) -> T: ...
def run(
    until: Awaitable[T] | None = None, loop: asyncio.AbstractEventLoop | None = None
) -> T | None:
    """Run the event loop until *until* is done and return its result, or run forever.

    Unlike :func:`asyncio.run` it leaves the loop open, so that servers and containers live on
    between two calls.

    Args:
        until: a coroutine, task or future; ``None`` runs until :meth:`loop.stop` is called.
        loop: the event loop to use instead of the current one.

    Raises:
        RuntimeError: an event loop is already running in this thread (use ``await``).
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:  # not all loops look before they start the task
        msg = "An event loop is running in this thread already; use await instead of run()"
        raise RuntimeError(msg)
    loop = loop or current_loop()
    if until is None:
        loop.run_forever()
        return None
    return loop.run_until_complete(until)


def create_task(
    coro: Coroutine[Any, Any, T] | asyncio.Future[T],
    ignore_cancel: bool = True,  # noqa: FBT001, FBT002 - the signature that aiomas users know
    loop: asyncio.AbstractEventLoop | None = None,
) -> asyncio.Future[T]:
    """Start *coro* as a task whose exception is reported the moment it happens.

    An ordinary task keeps its exception to itself until somebody awaits it or the garbage
    collector finds it, so a task that an agent stores in an attribute can die unnoticed.  This
    one tells the loop's exception handler at once (by default, it logs the traceback).

    Args:
        coro: a coroutine, or a future that exists already.
        ignore_cancel: if false, a cancellation is reported as well.
        loop: the event loop to use instead of the current one.

    Returns:
        The :class:`asyncio.Task` (or the future that was passed).
    """
    task = asyncio.ensure_future(coro, loop=loop or current_loop())

    def report(task: asyncio.Future[T]) -> None:
        _tasks.discard(task)
        if task.cancelled():
            error: BaseException | None = None if ignore_cancel else asyncio.CancelledError()
        else:
            error = task.exception()
        if error is not None:
            task.get_loop().call_exception_handler(
                {"message": f"{task!r} failed", "exception": error, "future": task}
            )

    # The event loop itself would let go of a task that nobody else holds.
    _tasks.add(task)
    task.add_done_callback(report)
    return task


_tasks: set[asyncio.Future[Any]] = set()

# "async" was an ordinary name until Python 3.7; it is reached with getattr() today.
globals()["async"] = create_task


def arrow_serializer() -> tuple[type, Callable[[arrow.Arrow], str], Callable[[str], arrow.Arrow]]:
    """Return the serializer for :class:`arrow.arrow.Arrow` dates, which travel in ISO 8601.

    The result is an argument tuple for :meth:`aiomas.codecs.Codec.add_serializer`.
    """
    import arrow  # noqa: PLC0415 - 27 ms that programs without dates need not spend

    def deserialize(text: str) -> arrow.Arrow:
        # arrow.get() takes a hundred times as long, which a hostile peer could make use of.
        return arrow.Arrow.fromdatetime(datetime.datetime.fromisoformat(text))

    return arrow.Arrow, str, deserialize


def obj_from_str(obj_path: str) -> Any:
    """Import and return the object that *obj_path* stands for.

    Args:
        obj_path: ``"package.module:attribute"``; the attribute may have dots, as in
            ``"package.module:Class.method"``.

    Raises:
        ValueError: *obj_path* does not have this form.
        ImportError: the module cannot be imported.
        AttributeError: the module has no such attribute.
    """
    module_name, colon, qualname = obj_path.partition(":")
    if not (module_name and colon and qualname) or ":" in qualname:
        msg = f"{obj_path!r} is no 'package.module:attribute'"
        raise ValueError(msg)
    obj: Any = importlib.import_module(module_name)
    for part in qualname.split("."):
        obj = getattr(obj, part)
    return obj
