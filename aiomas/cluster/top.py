"""A table of a run's containers that is drawn again and again: ``aiomas cluster top``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aiomas.cluster.overview import heading, hosts_in_trouble, with_host
from aiomas.cluster.rundir import Run
from aiomas.cluster.terminal import printable, size
from aiomas.cluster.watch import Rates, RunGone, Watch, rates

TITLES = ("#", "pid", "state", "CPU %", "memory", "agents", "in/s", "out/s", "restarts")
_STYLES = {
    "running": "green",
    "starting": "cyan",
    "stopped": "dim",
    "restarting": "yellow",
    "hung": "bold yellow",
    "died": "bold red",
    "failed": "bold red",
    "lost": "bold red",
}
_WORDS = {"host", "state"}  # other columns have numbers
_OTHER_LINES = 3  # the heading, the titles, and what is said of containers that do not fit


class Look(NamedTuple):
    """What is known of a run at some moment."""

    status: dict[str, Any]
    rates: dict[int, Rates]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """The statuses of the containers."""
        containers: list[dict[str, Any]] = self.status["containers"]
        return containers


class Watcher:
    """Asks a run for its status, and compares it with the one before."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._before: tuple[float, list[dict[str, Any]]] = (0.0, [])

    async def look(self) -> Look:
        """Return what is known now.

        Raises:
            ClusterError: the supervisor does not answer, or has ended.
        """
        status = await self._watch.status()
        now = time.monotonic()
        then, before = self._before
        self._before = now, status["containers"]
        return Look(status, rates(before, status["containers"], now - then))


async def once(run: Run, interval: float) -> Look:
    """Look at a run twice, *interval* seconds apart, so that there are rates.

    Raises:
        ClusterError: the supervisor does not answer, or has ended.
    """
    async with Watch(run) as watch:
        watcher = Watcher(watch)
        await watcher.look()
        await asyncio.sleep(interval)
        return await watcher.look()


async def live(run: Run, interval: float, console: Console) -> bool:
    """Show a table until somebody types q; return whether the run is still there.

    Raises:
        ClusterError: the supervisor does not answer.
    """
    try:
        async with Watch(run) as watch:
            watcher = Watcher(watch)
            with keys() as end, Live(console=console, screen=True, auto_refresh=False) as screen:
                while not end.is_set():
                    look = await watcher.look()
                    screen.update(view(look, console.height), refresh=True)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(interval):
                            await end.wait()
    except RunGone:
        return False
    return True


@contextlib.contextmanager
def keys() -> Iterator[asyncio.Event]:
    """Give an event that is set when somebody types q; what is typed is not shown."""
    typed = asyncio.Event()
    if not sys.stdin.isatty():
        yield typed
        return
    descriptor = sys.stdin.fileno()
    loop = asyncio.get_running_loop()

    def read() -> None:
        data = os.read(descriptor, 1024)
        if b"q" in data.lower() or not data:
            typed.set()

    settings = termios.tcgetattr(descriptor)
    # Ctrl-C stays a signal there.
    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield typed
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, settings)


def cells(status: Mapping[str, Any], rate: Rates | None) -> list[str]:
    """Return a container's row."""
    return [
        str(status["index"]),
        str(status["pid"]),
        status["state"],
        f"{rate.cpu:.0f}" if rate else "-",
        size(status.get("rss")),
        str(status.get("agents", "-")),
        f"{rate.calls_in:.0f}" if rate else "-",
        f"{rate.calls_out:.0f}" if rate else "-",
        str(status.get("restarts", "-")),
    ]


def columns(look: Look) -> tuple[list[str], list[list[str]]]:
    """Return the titles, and a row for each container."""
    titles, found = with_host(look.status["facts"], look.containers, TITLES)
    return titles, [
        [*start, *cells(status, look.rates.get(status["index"]))] for start, status in found
    ]


def view(look: Look, height: int) -> Group:
    """Return what fits into *height* lines."""
    titles, every = columns(look)
    trouble = hosts_in_trouble(look.status["facts"])
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="left" if title in _WORDS else "right", no_wrap=True)
    shown = every[: max(height - _OTHER_LINES - len(trouble), 1)]
    for row in shown:
        texts = [Text(printable(cell)) for cell in row]
        state = texts[titles.index("state")]
        state.stylize(_STYLES.get(state.plain, ""))
        table.add_row(*texts)
    first = f"{heading(look.status['facts'], look.containers)} (q ends)"
    hidden = len(every) - len(shown)
    last = f"and {hidden} more, for which this terminal is too small" if hidden else ""
    return Group(
        Text(first, "bold", no_wrap=True, overflow="ellipsis"),
        *(Text(line, "bold red", no_wrap=True, overflow="ellipsis") for line in trouble),
        table,
        Text(last, "dim", no_wrap=True, overflow="ellipsis"),
    )
