"""Running a program in a cluster: its ``main`` is found, gets the cluster, and gives the exit code.

Nothing of the command line is known here but the form of a target.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

from aiomas.cluster.cluster import Cluster
from aiomas.cluster.events import ClusterEvent, EventKind
from aiomas.cluster.loading import load
from aiomas.cluster.terminal import INTERRUPTED, describe
from aiomas.exceptions import ClusterError

Main = Callable[..., Coroutine[Any, Any, Any]]

_LARGEST_EXIT_CODE = 255
_SIGNALLED = 128  # and the number of the signal, as shells have it


class BadTarget(ValueError):  # noqa: N818 - says what is bad
    """What was asked for cannot be run as it was asked for."""


class ProgramFailed(ClusterError):  # noqa: N818 - says what happened
    """The program raised an exception, which is the cause of this one."""


def find_main(target: str, arguments: Sequence[str]) -> Main:
    """Import and return the function that *target* names.

    The directory of a file, or the current one for a module, comes first in ``sys.path``, as with
    ``python file.py`` and ``python -m module``.

    Args:
        target: ``"module:main"`` or ``"file.py:main"``.
        arguments: what it will get after the cluster.

    Raises:
        BadTarget: there is no such file, module or function, or it does not take these arguments.
        ProgramFailed: the module raised an exception.
    """
    module, _, name = target.rpartition(":")
    if not (module and name):
        msg = f"TARGET is module:main or file.py:main, got {target!r}"
        raise BadTarget(msg)
    if module.endswith(".py"):
        file = Path(module).resolve()
        if not file.is_file():
            msg = f"there is no file {module}"
            raise BadTarget(msg)
        sys.path.insert(0, str(file.parent))
        target = f"{file}:{name}"
    else:
        sys.path.insert(0, str(Path.cwd()))
    _import(target.rpartition(":")[0])
    try:
        main = load(target)
    except AttributeError as exc:
        msg = f"there is no {name} in {module}"
        raise BadTarget(msg) from exc
    _check(main, f"{name} in {module}", arguments)
    return main  # type: ignore[no-any-return] # it was checked


def _import(module: str) -> None:
    try:
        load(f"{module}:__name__")
    except Exception as exc:
        missing = exc.name if isinstance(exc, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            msg = f"there is no module {module}"
            raise BadTarget(msg) from exc
        msg = f"{os.path.relpath(module) if module.endswith('.py') else module}: {_reason(exc)}"
        raise ProgramFailed(msg) from exc


def _check(main: Any, what: str, arguments: Sequence[str]) -> None:
    if not inspect.iscoroutinefunction(main):
        msg = f"{what} is no coroutine function (async def)"
        raise BadTarget(msg)
    signature = inspect.signature(main)
    try:
        signature.bind(None, *arguments)
    except TypeError as exc:
        msg = f"{what}, which takes {signature}: {exc}"
        raise BadTarget(msg) from exc


def run(
    main: Main,
    arguments: Sequence[str],
    options: Mapping[str, Any],
    hosts: Path | None = None,
) -> int:
    """Run *main* in a cluster.

    Args:
        main: gets the cluster and the arguments.
        arguments: further arguments of it.
        options: those of the :class:`Cluster`.
        hosts: a file with further ones; see :func:`aiomas.cluster.hosts_file.read_hosts`.

    Returns:
        The exit code: what *main* returned if that is an integer, else 0; 130 after Ctrl-C, 143
        after SIGTERM.

    Raises:
        BadTarget: an option, or something in the file, is what it cannot be.
        OSError: the file cannot be read.
        ProgramFailed: *main* raised an exception, or the cluster did not start.
    """
    make = _cluster(options, hosts)
    interruption = Interruption()
    try:
        with interruption:
            result = asyncio.run(_run(main, arguments, make, interruption))
    except KeyboardInterrupt:
        return interruption.exit_code or INTERRUPTED
    except BadTarget:
        raise
    except (Exception, asyncio.CancelledError) as exc:
        if isinstance(exc, asyncio.CancelledError) and interruption.exit_code is not None:
            return interruption.exit_code
        raise ProgramFailed(_reason(exc)) from exc
    if not isinstance(result, int) or isinstance(result, bool):
        return 0
    # The system keeps eight bits: 256 errors would be none.
    return result if 0 <= result <= _LARGEST_EXIT_CODE else _LARGEST_EXIT_CODE


class Interruption:
    """A context manager, in whose block Ctrl-C and SIGTERM cancel a task.

    That may take its time; a second one ends everything at once.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        """How shells say what the first signal was."""
        self._former: dict[int, Any] = {}
        self._cancel: Callable[[], object] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            # Not what is ignored, as Ctrl-C is in the background, or handled by somebody else.
            for number, usual in (
                (signal.SIGINT, signal.default_int_handler),
                (signal.SIGTERM, signal.SIG_DFL),
            ):
                if signal.getsignal(number) is usual:
                    self._former[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)

    def watch_over(self, task: asyncio.Task[Any] | None) -> None:
        """Cancel *task*, the current one, at the first signal."""
        assert task is not None  # noqa: S101 - somebody calls us
        loop = task.get_loop()

        def cancel() -> None:
            if not task.done():
                sys.stderr.write("stopping; press Ctrl-C again to end at once\n")
                sys.stderr.flush()
                task.cancel()

        # From a handler, nothing else wakes a loop that waits.
        self._cancel = functools.partial(loop.call_soon_threadsafe, cancel)

    def _interrupt(self, number: int, _: FrameType | None) -> None:
        first, self.exit_code = self.exit_code is None, self.exit_code or _SIGNALLED + number
        if not first or self._cancel is None:
            raise KeyboardInterrupt
        self._cancel()


def _cluster(options: Mapping[str, Any], hosts: Path | None) -> Callable[[], Cluster]:
    """Return what makes the cluster."""
    found = None
    if hosts is not None:
        from aiomas.cluster.hosts_file import read_hosts  # noqa: PLC0415 - most have none

        try:
            found = read_hosts(hosts)
        except ValueError as exc:
            raise BadTarget(str(exc)) from exc

    def make() -> Cluster:
        try:
            return Cluster(**(found.keywords(**options) if found else options))
        except ValueError as exc:
            msg = found.located(str(exc), options) if found else str(exc)
            raise BadTarget(msg) from exc

    return make


async def _run(
    main: Main, arguments: Sequence[str], make: Callable[[], Cluster], interruption: Interruption
) -> Any:
    interruption.watch_over(asyncio.current_task())
    async with make() as cluster:
        running = asyncio.ensure_future(main(cluster, *arguments))
        ended: list[ClusterEvent] = []

        def end(event: ClusterEvent) -> None:
            # Nobody else would tell a program that waits for something else.
            if event.kind is EventKind.LOST and not ended:
                ended.append(event)
                running.cancel()

        cluster.on_event(end)
        try:
            return await running
        except asyncio.CancelledError:
            if not ended:
                raise
            raise ended[0].error or ClusterError(ended[0].message) from None
        finally:
            running.cancel()  # it lives on if it was we who were interrupted


def _reason(exc: BaseException) -> str:
    """Return the kind of an exception and what it says."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return f"{type(exc).__name__}: {describe(exc)}".removesuffix(": ")
