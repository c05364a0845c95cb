"""The plant as a whole: its units, what it has sold, and what came of the negotiation."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from random import Random
from typing import Self

from .cohda import Goal, distance_wh, small_world
from .units import HOURS, Schedule, make_units, read_profiles, total

BLOCK_HOURS = 4
SWING = 0.5
SHORTCUTS = 0.5
GAIN = 0.0003
"""Share of the first distance by which a candidate must be better than the last one."""


@dataclass(frozen=True)
class Plant:
    """Units with their feasible schedules, who talks to whom, and the schedule wanted of all."""

    kinds: list[str]
    schedules: list[list[Schedule]]
    neighbours: list[list[int]]
    target: Schedule

    @classmethod
    def make(cls, count: int, seed: int, day: str, target: Schedule | None = None) -> Self:
        """Make a plant of `count` units; the same arguments make the same plant.

        Args:
            count: how many units.
            seed: for everything that is random.
            day: "winter", "spring" or "summer".
            target: in watts; by default see `block_product`.
        """
        rng = Random(seed)
        units = make_units(count, read_profiles(day), rng)
        schedules = [unit.schedules(rng) for unit in units]
        neighbours = small_world(count, SHORTCUTS, rng)
        if target is None:
            target = block_product(total([options[0] for options in schedules]))
        return cls([unit.kind for unit in units], schedules, neighbours, target)

    @property
    def uncontrolled(self) -> Schedule:
        """What all units do together when nobody asks them for anything, in watts."""
        return total([options[0] for options in self.schedules])

    @property
    def goal(self) -> Goal:
        """Return what the agents are told."""
        distance = distance_wh(self.target, self.uncontrolled)
        return Goal(self.target, max(1, round(GAIN * distance)))


def block_product(powers: Schedule) -> Schedule:
    """Return a target: constant power in blocks of four hours, with half of the ups and downs.

    The plant sells its day in blocks, as they are traded, and is as even as its flexibility lets
    it be. It uses as much energy as without control.
    """
    mean = sum(powers) / HOURS
    starts = range(0, HOURS, BLOCK_HOURS)
    blocks = [sum(powers[start : start + BLOCK_HOURS]) / BLOCK_HOURS for start in starts]
    levels = [round(mean + SWING * (block - mean)) for block in blocks]
    return tuple(chain.from_iterable(repeat(level, BLOCK_HOURS) for level in levels))


def read_target(path: Path) -> Schedule:
    """Read a target from a CSV file with the columns ``hour`` and ``kw`` and 24 rows.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has something else in it; the message says what.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        hours = [int(row["hour"]) for row in rows]
        watts = tuple(round(1000 * float(row["kw"])) for row in rows)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        msg = f"{path}: needs columns 'hour' and 'kw' with a number in each row ({error!r})"
        raise ValueError(msg) from error
    if hours != list(range(HOURS)):
        msg = f"{path}: needs one row for each hour from 0 to {HOURS - 1}, in this order"
        raise ValueError(msg)
    return watts


@dataclass(frozen=True)
class Outcome:
    """What a negotiation led to. Powers in watts."""

    target: Schedule
    before: Schedule
    after: Schedule

    @property
    def distance_before_wh(self) -> int:
        """By how much the uncontrolled units would miss the target."""
        return distance_wh(self.target, self.before)

    @property
    def distance_after_wh(self) -> int:
        """By how much they miss it now."""
        return distance_wh(self.target, self.after)

    @property
    def improvement(self) -> float:
        """Share of the distance that is gone, 1 when the target is met."""
        before = self.distance_before_wh
        return 1 - self.distance_after_wh / before if before else 0.0

    def write_csv(self, path: Path) -> None:
        """Write the three schedules in kW, one row per hour."""
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("hour", "target_kw", "before_kw", "after_kw"))
            hours = zip(self.target, self.before, self.after, strict=True)
            for hour, powers in enumerate(hours):
                writer.writerow((hour, *(f"{power / 1000:.3f}" for power in powers)))
