"""Printing logs of containers on several hosts, part by part, as the supervisor hands them out."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from aiomas.cluster.rundir import Run
from aiomas.cluster.terminal import describe
from aiomas.cluster.watch import RunGone, Watch
from aiomas.exceptions import ClusterError

_PAUSE = 0.5  # seconds between two looks when there was nothing new
_UNBROKEN = 2**20  # bytes after which a line without an end is passed on


async def show(run: Run, index: int | None, *, lines: int, wait: bool) -> None:
    """Print logs.

    Args:
        run: whose.
        index: the number of a container; ``None`` for all, and then each line begins with one.
        lines: how many of the last lines to begin with.
        wait: whether to go on with what is added, until the run ends.  Containers that are added
            later are not among them, and what cannot be read now is tried again.

    Raises:
        ClusterError: there is no such container, or logs cannot be read.
    """
    async with Watch(run) as watch:
        found = sorted(container["index"] for container in (await watch.status())["containers"])
        if index is not None and index not in found:
            count = f"{len(found)} containers"
            msg = f"cluster {run.name!r} has {count} ({_ranges(found)}), there is no {index}"
            raise ClusterError(msg)
        indices = found if index is None else [index]
        logs = [_Log(watch, i, lines, f"[{i}] " if index is None else "") for i in indices]
        if wait:
            await _follow(logs)
        else:
            await _print_all(logs)


async def _follow(logs: list[_Log]) -> None:
    try:
        while True:
            # One after the other: all answers come over the same, perhaps slow, connection.
            if not any([await log.read() for log in logs]):
                await asyncio.sleep(_PAUSE)
    except RunGone:
        for log in logs:
            log.print_rest()


async def _print_all(logs: list[_Log]) -> None:
    for log in logs:
        while await log.read():
            pass
        log.print_rest()
    if failed := [log.error for log in logs if log.error is not None]:
        msg = failed[0] if len(logs) == 1 else f"{len(failed)} of {len(logs)} logs cannot be read"
        raise ClusterError(msg)


class _Log:
    """The log of a container, as far as it was printed."""

    def __init__(self, watch: Watch, index: int, lines: int, prefix: str) -> None:
        self.error: str | None = None
        """Why it cannot be read now."""
        self._watch = watch
        self._index = index
        self._prefix = prefix
        self._position: Any = -lines or None
        self._rest = b""

    async def read(self) -> bool:
        """Print the next part; return whether there was one."""
        try:
            self._position, data = await self._watch.log_read(self._index, self._position)
        except RunGone:
            raise
        except ClusterError as exc:
            error = describe(exc)
            if error != self.error and self._prefix:
                click.echo(f"{self._prefix}cannot be read: {error}", err=True)
            self.error = error
            return False
        self.error = None
        *complete, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _UNBROKEN:
            complete, self._rest = [*complete, self._rest], b""
        for line in complete:
            self._print(line)
        return bool(data)

    def print_rest(self) -> None:
        """Print a line that is not complete."""
        if self._rest:
            self._print(self._rest)
            self._rest = b""

    def _print(self, line: bytes) -> None:
        click.echo(f"{self._prefix}{line.decode(errors='replace').removesuffix(chr(13))}")


def _ranges(numbers: list[int]) -> str:
    """Return numbers for people: ``0-3, 6``."""
    texts: list[str] = []
    for number in numbers:
        first, _, last = texts[-1].partition("-") if texts else ("", "", "")
        if texts and int(last or first) == number - 1:
            texts[-1] = f"{first}-{number}"
        else:
            texts.append(str(number))
    return ", ".join(texts)
