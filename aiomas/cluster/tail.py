"""Printing log files of containers, of several at the same time if need be."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from pathlib import Path

import click

from aiomas.cluster import logs


def show(files: Mapping[int, Path], *, lines: int, wait: bool) -> None:
    """Print log files.

    Args:
        files: by the containers' indices; if there are several, each line begins with one.
        lines: how many of the last lines to begin with.
        wait: whether to go on with what is added, until the run ends.
    """
    if wait and len(files) > 1:
        _follow_all(files, lines)
        return
    for index, file in files.items():
        prefix = f"[{index}] " if len(files) > 1 else ""
        for line in logs.follow(file, lines=lines, wait=wait):
            click.echo(prefix + line)


def _follow_all(files: Mapping[int, Path], lines: int) -> None:
    found: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read(index: int, file: Path) -> None:
        try:
            for line in logs.follow(file, lines=lines, wait=True):
                found.put(f"[{index}] {line}")
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
            click.echo(line)
