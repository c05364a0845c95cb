"""The energy units of the plant and the day schedules each of them can run.

Everything here is made from the profiles in ``data/profiles.csv`` and a random generator that the
caller seeds. Nothing here knows about agents, messages or other units.

A schedule is the power of a unit in each of the 24 hours of a day, in whole watts, as drawn from
the grid: consumption is positive, feed-in is negative. Whole watts, because sums of integers are
exact: they do not depend on the order in which agents heard of each other.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from math import sqrt
from operator import add, sub
from pathlib import Path
from random import Random
from typing import Protocol

HOURS = 24
MAX_SCHEDULES = 40
PARTS = (0.125, 0.25, 0.375, 0.5)
PROFILES = Path(__file__).parent / "data" / "profiles.csv"

Schedule = tuple[int, ...]


class Unit(Protocol):
    """What all energy units have in common."""

    @property
    def kind(self) -> str:
        """Return the kind of unit, for people to read."""

    def schedules(self, rng: Random) -> list[Schedule]:
        """Return feasible schedules, all different; the first one is what runs uncontrolled."""


@dataclass(frozen=True)
class Profiles:
    """Standard profiles of one day, one value per hour; see `make_data.py` for their sources."""

    household_kw: tuple[float, ...]
    """Household of 1 MWh a year."""
    heat_kw: tuple[float, ...]
    """Thermal power for a house of 1 MWh of heat a year."""
    cop: tuple[float, ...]
    """Heat delivered by a heat pump per unit of electricity."""
    pv_kw: dict[str, tuple[float, ...]]
    """Clear-sky generation of 1 kWp, by the side it faces."""


def read_profiles(day: str, path: Path = PROFILES) -> Profiles:
    """Read the profiles of a `day` ("winter", "spring" or "summer").

    Raises:
        ValueError: if the file does not have 24 hours of that day.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["day"] == day]
    if [int(row["hour"]) for row in rows] != list(range(HOURS)):
        msg = f"{path}: no 24 hours of a day {day!r}"
        raise ValueError(msg)

    def column(name: str) -> tuple[float, ...]:
        return tuple(float(row[name]) for row in rows)

    sides = ("east", "south", "west")
    return Profiles(
        household_kw=column("household_kw"),
        heat_kw=column("heat_kw"),
        cop=column("cop"),
        pv_kw={side: column(f"pv_{side}_kw") for side in sides},
    )


def watts(powers: Sequence[float]) -> Schedule:
    """Round powers in watts to a schedule."""
    return tuple(round(power) for power in powers)


def total(schedules: Sequence[Schedule]) -> Schedule:
    """Add schedules hour by hour."""
    return tuple(map(sum, zip(*schedules, strict=True)))


def some_of(schedules: Sequence[Schedule], rng: Random) -> list[Schedule]:
    """Keep the first schedule and a random choice of the others, at most `MAX_SCHEDULES`."""
    first, *others = dict.fromkeys(schedules)
    if len(others) >= MAX_SCHEDULES:
        others = rng.sample(others, MAX_SCHEDULES - 1)
    return [first, *others]


@dataclass(frozen=True)
class Appliance:
    """A device that runs once a day, in one go, and whose start can be chosen."""

    name: str
    run_w: tuple[int, ...]
    """Power in watts in each hour after the start."""
    starts: tuple[int, ...]
    """Hours of the day in which it may start; the first one is when people would start it."""

    def schedule(self, start: int) -> Schedule:
        """Return the appliance's schedule when it starts in the hour `start`."""
        powers = [0] * HOURS
        powers[start : start + len(self.run_w)] = self.run_w
        return tuple(powers)


# Energy per run as on current EU energy labels; the wallbox charges at 3.7 kW on one phase.
DISHWASHER = Appliance("dishwasher", (650, 250), (20, *range(7, 20), 21, 22))
WASHING_MACHINE = Appliance("washing machine", (600, 150), (9, 7, 8, *range(10, 20)))
TUMBLE_DRYER = Appliance("tumble dryer", (1000, 500), (15, *range(11, 15), *range(16, 22)))
WALLBOX = Appliance("wallbox", (3700, 3700), (18, *range(6), *range(10, 18), 19, 20, 21, 22))


@dataclass(frozen=True)
class Household:
    """A household: a load nobody controls, and appliances whose start can be moved."""

    base_w: Schedule
    appliances: tuple[Appliance, ...]
    kind: str = "household"

    def schedules(self, rng: Random) -> list[Schedule]:
        """Return schedules for some combinations of start hours."""
        usual = [appliance.starts[0] for appliance in self.appliances]
        others = (
            [rng.choice(appliance.starts) for appliance in self.appliances]
            for _ in range(MAX_SCHEDULES - 1)
        )
        return list(dict.fromkeys(self.schedule(starts) for starts in (usual, *others)))

    def schedule(self, starts: Sequence[int]) -> Schedule:
        """Return the schedule for given start hours, one per appliance."""
        runs = [
            appliance.schedule(start)
            for appliance, start in zip(self.appliances, starts, strict=True)
        ]
        return total([self.base_w, *runs])


@dataclass(frozen=True)
class Photovoltaics:
    """A photovoltaic array whose feed-in can be capped, as inverters do on request."""

    available_w: tuple[float, ...]
    """What the sun would allow, as a positive power."""
    kind: str = "photovoltaics"

    def schedules(self, rng: Random) -> list[Schedule]:
        """Return what remains below some caps, and some shares of what is available.

        Both in steps of 4 %, down to nothing fed in.
        """
        peak = max(self.available_w)
        shares = [step / 25 for step in range(25, -1, -1)]
        capped = [[-min(share * peak, w) for w in self.available_w] for share in shares]
        scaled = [[-share * w for w in self.available_w] for share in shares]
        return some_of([watts(powers) for powers in (*capped, *scaled)], rng)


@dataclass(frozen=True)
class Store:
    """Something that holds energy; it starts the day half full and ends it no emptier."""

    capacity_wh: float
    max_in_w: tuple[float, ...]
    """The most it can take up in each hour."""
    max_out_w: tuple[float, ...]
    """The most it can give in each hour."""

    def levels(self, flow_w: Sequence[float]) -> list[float]:
        """Return the energy held, in Wh, at the start and after each hour of a flow into it."""
        return list(accumulate(flow_w, initial=self.capacity_wh / 2))

    def allows(self, flow_w: Sequence[float]) -> bool:
        """Tell whether the store can run that flow, in watts per hour of the day."""
        slack = 1e-6  # rounding of floats, in W and Wh
        levels = self.levels(flow_w)
        return (
            all(-slack <= level <= self.capacity_wh + slack for level in levels)
            and levels[-1] >= levels[0] - slack
            and all(
                -low - slack <= flow <= high + slack
                for flow, low, high in zip(flow_w, self.max_out_w, self.max_in_w, strict=True)
            )
        )

    def blocks(self, energy_wh: float, most_w: Sequence[float]) -> list[tuple[float, ...]]:
        """Return all ways to move that energy evenly in one to six hours on end."""
        found = []
        for length in range(1, 7):
            power = energy_wh / length
            for start in range(HOURS - length + 1):
                if power <= min(most_w[start : start + length]):
                    before, after = (0.0,) * start, (0.0,) * (HOURS - start - length)
                    found.append((*before, *(power,) * length, *after))
        return found

    def cycles(self, rng: Random) -> Iterator[tuple[float, ...]]:
        """Yield flows, without end, that fill up in one block of hours and give in another.

        At most half of the capacity is moved, which is feasible in either order.
        """
        pairs = []
        for part in PARTS:
            energy = self.capacity_wh * part
            fills = self.blocks(energy, self.max_in_w)
            empties = self.blocks(energy, self.max_out_w)
            if fills and empties:
                pairs.append((fills, empties))
        while pairs:
            fills, empties = rng.choice(pairs)
            yield tuple(map(sub, rng.choice(fills), rng.choice(empties)))

    def some_flows(self, rng: Random) -> list[tuple[float, ...]]:
        """Return feasible flows, the first without any; the others have one or two cycles."""
        flows = [(0.0,) * HOURS]
        cycles = self.cycles(rng)
        for once, more in islice(zip(cycles, cycles, strict=False), MAX_SCHEDULES - 1):
            twice = tuple(map(add, once, more))
            flows.append(twice if self.allows(twice) else once)
        return flows


@dataclass(frozen=True)
class Battery:
    """A home battery that follows the plant alone, not the house it stands in."""

    capacity_wh: float
    power_w: float
    """The most it can charge or discharge, within the battery."""
    efficiency: float
    """Energy that comes out again of what was put in, between 0 and 1."""
    kind: str = "battery"

    @property
    def store(self) -> Store:
        """Return the cells, as seen from within."""
        limit = (self.power_w,) * HOURS
        return Store(self.capacity_wh, limit, limit)

    def schedules(self, rng: Random) -> list[Schedule]:
        """Return charging and discharging plans; half of the losses occur on either way."""
        return some_of([self.schedule(flow) for flow in self.store.some_flows(rng)], rng)

    def schedule(self, flow_w: Sequence[float]) -> Schedule:
        """Return what the grid sees of a flow into the cells."""
        one_way = sqrt(self.efficiency)
        return watts([flow / one_way if flow > 0 else flow * one_way for flow in flow_w])


@dataclass(frozen=True)
class HeatPump:
    """A heat pump with a water tank, which lets it run earlier or later than heat is needed."""

    heat_w: tuple[float, ...]
    """Heat that the house needs in each hour."""
    max_heat_w: float
    """The most heat the pump delivers."""
    cop: tuple[float, ...]
    buffer_wh: float
    kind: str = "heat pump"

    @property
    def store(self) -> Store:
        """Return the tank; what it takes up or gives is heat that the pump makes or saves."""
        spare = tuple(self.max_heat_w - need for need in self.heat_w)
        return Store(self.buffer_wh, spare, self.heat_w)

    def schedules(self, rng: Random) -> list[Schedule]:
        """Return running plans that keep the house warm and the tank within its limits."""
        return some_of([self.schedule(flow) for flow in self.store.some_flows(rng)], rng)

    def schedule(self, flow_w: Sequence[float]) -> Schedule:
        """Return the electric power that a flow of heat into the tank takes."""
        hours = zip(self.heat_w, flow_w, self.cop, strict=True)
        return watts([(need + flow) / cop for need, flow, cop in hours])


def make_household(profiles: Profiles, rng: Random) -> Household:
    """Make a household of 1.5 to 5 MWh a year; its appliances come on top, some have a car."""
    yearly_mwh = rng.uniform(1.5, 5.0)
    owned = [
        appliance
        for appliance, share in (
            (DISHWASHER, 0.7),
            (WASHING_MACHINE, 0.9),
            (TUMBLE_DRYER, 0.4),
            (WALLBOX, 0.3),
        )
        if rng.random() < share
    ]
    # A fifth of H0 stands for the appliances that are modelled by themselves.
    base = watts([0.8 * 1000 * kw * yearly_mwh for kw in profiles.household_kw])
    return Household(base, tuple(owned or [WASHING_MACHINE]))


def make_photovoltaics(profiles: Profiles, rng: Random) -> Photovoltaics:
    """Make a roof array of 3 to 10 kWp; half of them face south."""
    side = rng.choice(("south", "south", "east", "west"))
    peak_kw = rng.uniform(3, 10)
    return Photovoltaics(tuple(1000 * kw * peak_kw for kw in profiles.pv_kw[side]))


def make_battery(_profiles: Profiles, rng: Random) -> Battery:
    """Make a battery of 5 to 15 kWh that takes two to three hours to fill."""
    capacity = rng.uniform(5000, 15000)
    return Battery(capacity, capacity / rng.uniform(2, 3), efficiency=0.9)


def make_heat_pump(profiles: Profiles, rng: Random) -> HeatPump:
    """Make a heat pump for 8 to 18 MWh of heat a year, its tank holds two hours of its power."""
    yearly_mwh = rng.uniform(8, 18)
    heat = tuple(1000 * kw * yearly_mwh for kw in profiles.heat_kw)
    most = 1.8 * max(heat)
    return HeatPump(heat, most, profiles.cop, buffer_wh=2 * most)


# Shares of the kinds of units in the plant, in percent.
MIX = (
    (make_household, 45),
    (make_photovoltaics, 20),
    (make_battery, 15),
    (make_heat_pump, 20),
)


def make_units(count: int, profiles: Profiles, rng: Random) -> list[Unit]:
    """Make `count` different units in the proportions of `MIX`, in random order."""
    makers = [maker for maker, share in MIX for _ in range(share)]
    rng.shuffle(makers)
    return [makers[i % len(makers)](profiles, rng) for i in range(count)]
