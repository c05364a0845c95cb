"""The energy units of the example: whatever schedule an agent may choose can really be run."""

from __future__ import annotations

from itertools import accumulate
from math import sqrt
from random import Random

import pytest

from examples.virtual_power_plant.units import (
    DISHWASHER,
    HOURS,
    MAX_SCHEDULES,
    TUMBLE_DRYER,
    WALLBOX,
    WASHING_MACHINE,
    Battery,
    HeatPump,
    Household,
    Photovoltaics,
    Store,
    make_battery,
    make_heat_pump,
    make_household,
    make_photovoltaics,
    make_units,
    read_profiles,
    total,
)

DAYS = ("winter", "spring", "summer")
ROUNDING = 0.5  # W, of each hour of a schedule


@pytest.fixture(params=[(day, seed) for day in DAYS for seed in (1, 2)], ids=str)
def day_and_rng(request):
    day, seed = request.param
    return read_profiles(day), Random(seed)


def test_the_profiles_have_24_hours_of_each_day():
    for day in DAYS:
        profiles = read_profiles(day)
        columns = (profiles.household_kw, profiles.heat_kw, profiles.cop, *profiles.pv_kw.values())
        assert all(len(column) == HOURS for column in columns)
        assert all(value >= 0 for column in columns for value in column)


def test_a_day_without_profiles_is_refused():
    with pytest.raises(ValueError, match="no 24 hours of a day 'autumn'"):
        read_profiles("autumn")


def test_the_sun_shines_longest_in_summer_and_the_house_needs_most_heat_in_winter():
    winter, summer = read_profiles("winter"), read_profiles("summer")
    assert sum(winter.pv_kw["south"]) < sum(summer.pv_kw["south"])
    assert sum(winter.heat_kw) > sum(summer.heat_kw)
    assert winter.pv_kw["south"][0] == summer.pv_kw["south"][0] == 0  # midnight


def test_east_faces_the_morning_sun_and_west_that_of_the_evening():
    sides = read_profiles("summer").pv_kw
    peaks = [sides[side].index(max(sides[side])) for side in ("east", "south", "west")]
    assert peaks == sorted(peaks)
    assert peaks[0] < 12 < peaks[2]


@pytest.mark.parametrize("make", [make_household, make_photovoltaics, make_battery, make_heat_pump])
def test_each_unit_has_several_schedules_which_all_differ(day_and_rng, make):
    profiles, rng = day_and_rng
    for _ in range(10):
        schedules = make(profiles, rng).schedules(rng)
        assert 2 <= len(schedules) <= MAX_SCHEDULES
        assert len(set(schedules)) == len(schedules)
        assert all(len(schedule) == HOURS for schedule in schedules)
        assert all(type(power) is int for schedule in schedules for power in schedule)


def test_a_household_uses_the_same_energy_whenever_its_appliances_run(day_and_rng):
    profiles, rng = day_and_rng
    for _ in range(10):
        household = make_household(profiles, rng)
        schedules = household.schedules(rng)
        assert len({sum(schedule) for schedule in schedules}) == 1
        for schedule in schedules:
            assert all(p >= base for p, base in zip(schedule, household.base_w, strict=True))


def test_the_first_schedule_of_a_household_starts_everything_when_people_would():
    household = Household((100,) * HOURS, (DISHWASHER,))
    usual = household.schedules(Random(1))[0]
    assert usual == (100,) * 20 + (750, 350) + (100,) * 2


@pytest.mark.parametrize("appliance", [DISHWASHER, WASHING_MACHINE, TUMBLE_DRYER, WALLBOX])
def test_an_appliance_ends_before_midnight_and_its_starts_differ(appliance):
    assert len(set(appliance.starts)) == len(appliance.starts)
    for start in appliance.starts:
        assert len(appliance.schedule(start)) == HOURS
        assert sum(appliance.schedule(start)) == sum(appliance.run_w)


def test_an_array_feeds_in_no_more_than_the_sun_allows_and_never_consumes(day_and_rng):
    profiles, rng = day_and_rng
    array = make_photovoltaics(profiles, rng)
    first, *others = array.schedules(rng)
    assert first == tuple(-round(available) for available in array.available_w)
    for schedule in others:
        for power, available in zip(schedule, array.available_w, strict=True):
            assert -available - ROUNDING <= power <= 0


def test_an_array_can_be_capped_so_that_only_the_peak_is_lost():
    array = Photovoltaics((0.0,) * 8 + (1000.0, 2000.0, 4000.0, 2000.0, 1000.0) + (0.0,) * 11)
    capped = (0,) * 8 + (-1000, -1920, -1920, -1920, -1000) + (0,) * 11
    assert capped in [s for seed in range(30) for s in array.schedules(Random(seed))]


def test_a_battery_stays_within_its_capacity_and_power_and_ends_no_emptier(day_and_rng):
    profiles, rng = day_and_rng
    for _ in range(10):
        battery = make_battery(profiles, rng)
        one_way = sqrt(battery.efficiency)
        first, *others = battery.schedules(rng)
        assert set(first) == {0}
        for schedule in others:
            flow = [power * one_way if power > 0 else power / one_way for power in schedule]
            error = HOURS * ROUNDING / one_way
            levels = list(accumulate(flow, initial=battery.capacity_wh / 2))
            assert all(abs(power) <= battery.power_w + ROUNDING / one_way for power in flow)
            assert all(-error <= level <= battery.capacity_wh + error for level in levels)
            assert levels[-1] >= levels[0] - error


def test_a_battery_loses_energy_in_each_cycle():
    battery = Battery(10_000, 5_000, efficiency=0.81)
    cycle = battery.schedule([900.0, -900.0, *(0.0,) * 22])
    assert cycle[:2] == (1000, -810)
    assert all(sum(schedule) > 0 for schedule in battery.schedules(Random(1))[1:])


def test_a_heat_pump_keeps_the_house_warm_and_its_tank_within_limits(day_and_rng):
    profiles, rng = day_and_rng
    for _ in range(10):
        pump = make_heat_pump(profiles, rng)
        error = HOURS * ROUNDING * max(pump.cop)
        for schedule in pump.schedules(rng):
            heat = [power * cop for power, cop in zip(schedule, pump.cop, strict=True)]
            surplus = [made - need for made, need in zip(heat, pump.heat_w, strict=True)]
            levels = list(accumulate(surplus, initial=pump.buffer_wh / 2))
            assert all(-error <= made <= pump.max_heat_w + error for made in heat)
            assert all(-error <= level <= pump.buffer_wh + error for level in levels)
            assert levels[-1] >= levels[0] - error


def test_the_first_schedule_of_a_heat_pump_makes_heat_when_it_is_needed():
    pump = HeatPump((3000.0,) * HOURS, 6000.0, (3.0,) * HOURS, 12_000.0)
    assert pump.schedules(Random(1))[0] == (1000,) * HOURS


@pytest.mark.parametrize(
    ("flow", "why"),
    [
        ([600.0], "more than it takes up in an hour"),
        ([-600.0, 600.0], "more than it gives in an hour"),
        ([500.0, 500.0, 500.0], "more than it holds"),
        ([-500.0, -500.0, -500.0, 500.0, 500.0, 500.0], "more than is in it"),
        ([-500.0], "emptier in the end"),
    ],
)
def test_a_store_refuses_what_it_cannot_do(flow, why):
    store = Store(2000.0, (500.0,) * HOURS, (500.0,) * HOURS)
    assert not store.allows([*flow, *(0.0,) * (HOURS - len(flow))]), why


def test_a_store_allows_going_to_its_limits():
    store = Store(2000.0, (500.0,) * HOURS, (500.0,) * HOURS)
    assert store.allows([500.0, 500.0, -500.0, -500.0, *(0.0,) * 20])
    assert store.allows([-500.0, -500.0, 500.0, 500.0, *(0.0,) * 20])


def test_a_store_that_can_move_nothing_has_one_flow():
    store = Store(2000.0, (0.0,) * HOURS, (0.0,) * HOURS)
    assert store.some_flows(Random(1)) == [(0.0,) * HOURS]


def test_a_plant_has_all_kinds_of_units_in_fixed_shares():
    units = make_units(200, read_profiles("winter"), Random(1))
    kinds = [unit.kind for unit in units]
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert counts == {"household": 90, "photovoltaics": 40, "battery": 30, "heat pump": 40}


def test_the_same_seed_makes_the_same_units():
    def schedules(seed):
        rng = Random(seed)
        return [u.schedules(rng) for u in make_units(20, read_profiles("spring"), rng)]

    assert schedules(1) == schedules(1)
    assert schedules(1) != schedules(2)


def test_schedules_add_up_hour_by_hour():
    assert total([(1, -2, 3), (10, 20, 30)]) == (11, 18, 33)
