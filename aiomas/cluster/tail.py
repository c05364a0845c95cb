"""Printing log files of containers, of several at the same time if need be."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click

from aiomas.cluster import logs


def show(files: Mapping[int, Path], *, lines: int, wait: bool) -> None:
    """Print log files.

    Args:
        files: by the containers' indices; if there are several, each line begins with one.
        lines: how many of the last lines to begin with.
        wait: whether to go on with what is added, until the run ends.

    Raises:
        FileNotFoundError: there is one file to print, and it is not there.
    """
    if len(files) == 1:
        for file in files.values():
            _print(logs.follow(file, lines=lines, wait=wait))
    elif wait:
        _print(_all(files, lines))
    else:
        for index, file in files.items():
            _print(_with_index(index, file, lines=lines, wait=False))


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _with_index(index: int, file: Path, *, lines: int, wait: bool) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):  # this container has not begun
        for line in logs.follow(file, lines=lines, wait=wait):
            yield f"[{index}] {line}"


def _all(files: Mapping[int, Path], lines: int) -> Iterator[str]:
    """Yield the lines of several files as they come."""
    found: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read(index: int, file: Path) -> None:
        try:
            for line in _with_index(index, file, lines=lines, wait=True):
                found.put(line)
        finally:
            found.put(None)

    for index, file in files.items():
        # Daemons: Ctrl-C, or a reader of our output that ends, ends them.
        threading.Thread(target=read, args=(index, file), daemon=True).start()
    left = len(files)
    while left:
        line = found.get()
        if line is None:
            left -= 1
        else:
            yield line
