"""Shows on a terminal how far the start of a cluster has come."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

__all__ = ["Progress"]


class Progress:
    """A progress bar on the standard error stream, in a ``with`` block; it vanishes at its end.

    ::

        with Progress("Starting containers") as progress:
            progress.started(8)
            progress.advance()

    Args:
        description: what is under way.
        shown: whether to show it; ``None`` for where the stream is a terminal.
    """

    def __init__(self, description: str, *, shown: bool | None = None) -> None:
        self._description = description
        self._shown = _is_terminal() if shown is None else shown
        self._forced = shown is True
        self._bars: Bars | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._shown:
            self._bars = _make_bars(forced=self._forced)
            self._bars.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        bars, self._bars, self._task = self._bars, None, None
        if bars is not None:
            bars.stop()

    def started(self, total: int) -> None:
        """Begin to count; what was counted before is over.

        Args:
            total: how many steps there will be.
        """
        if self._bars is None:
            return
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(self._description, total=total)

    def advance(self, steps: int = 1) -> None:
        """Say that so many further *steps* are done."""
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, steps)


def _is_terminal() -> bool:
    # There is no stream at all in programs without a console.
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def _make_bars(*, forced: bool) -> Bars:
    from rich.console import Console  # noqa: PLC0415 - only who sees it should wait for it
    from rich.progress import (  # noqa: PLC0415 - as above
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bars  # noqa: PLC0415 - as above

    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True, force_terminal=True if forced else None),
        transient=True,
        # The user's own output stays as it is.
        redirect_stdout=False,
        redirect_stderr=False,
    )
