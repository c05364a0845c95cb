"""What is shown while the agents negotiate: a bar on a terminal, a few lines anywhere else."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@dataclass(frozen=True)
class Snapshot:
    """How far the agents were when they were asked, one after the other, while going on."""

    seconds: float
    messages: int
    informed: int
    """How many agents have heard of all others."""
    agents: int
    distance_kwh: float
    """Distance of the best candidate among those that include all agents known by then."""

    def __str__(self) -> str:
        if self.informed == 0:
            state = "no agent has heard of all others yet"
        elif self.informed < self.agents:
            state = f"{self.informed} of {self.agents} agents have heard of all others"
        else:
            state = f"{self.distance_kwh:,.1f} kWh from the target"
        return f"{self.messages:,} messages, {state}"


class Display(Protocol):
    """Somewhere to show progress."""

    interval: float
    """Seconds between two snapshots."""

    def stage(self, text: str) -> None:
        """Say what is being done."""

    def show(self, snapshot: Snapshot) -> None:
        """Show how far the negotiation is."""


class Lines:
    """A line every other second, for logs and pipes."""

    interval = 2.0

    def stage(self, text: str) -> None:
        print(f"{text} ...", flush=True)

    def show(self, snapshot: Snapshot) -> None:
        print(f"{snapshot.seconds:6.1f} s  {snapshot}", flush=True)


class Bar:
    """A bar that shows which share of the first distance is gone."""

    interval = 0.25

    def __init__(self, progress: Progress, distance_kwh: float) -> None:
        self._progress = progress
        self._distance = distance_kwh
        self._task = progress.add_task("", total=max(distance_kwh, 1e-9), detail="")

    def stage(self, text: str) -> None:
        self._progress.update(self._task, description=text, detail="")

    def show(self, snapshot: Snapshot) -> None:
        known = snapshot.informed > 0
        gone = self._distance - snapshot.distance_kwh if known else 0.0
        self._progress.update(self._task, completed=max(gone, 0.0), detail=str(snapshot))


def display(distance_kwh: float) -> AbstractContextManager[Display]:
    """Return the display that suits standard output, to be used in a ``with`` block.

    Args:
        distance_kwh: distance to the target before the negotiation.
    """
    if not sys.stdout.isatty():
        return nullcontext(Lines())
    return _BarDisplay(distance_kwh)


class _BarDisplay(AbstractContextManager[Display]):
    def __init__(self, distance_kwh: float) -> None:
        self._distance = distance_kwh
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>4.1f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=Console(),
            transient=True,
        )

    def __enter__(self) -> Display:
        self._progress.start()
        return Bar(self._progress, self._distance)

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()
