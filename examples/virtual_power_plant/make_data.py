"""Derive ``data/profiles.csv``, the input of the example, from published standard profiles.

The example itself needs only the CSV file that this script wrote. To make it anew::

    pip install demandlib==0.2.2 pvlib==0.16.1 pandas==2.3.3 numpy==2.4.6
    python examples/virtual_power_plant/make_data.py

(demandlib 0.2.2 does not work with pandas 3.) It reads nothing from the network. What each column
comes from:

``household_kw``
    BDEW standard load profile H0 with its dynamisation function ("H0 dynamic"), for a household
    that uses 1 MWh of electricity a year. From `demandlib.bdew.ElecSlp`. H0 is the mean of many
    households: one household alone is far spikier.
``heat_kw``
    Thermal power that a detached house needs for rooms and hot water, for 1 MWh of heat a year:
    BDEW standard load profile for gas, type EFH, building class 5, not windy. From
    `demandlib.bdew.HeatBuilding`, which wants a year of temperatures; see `temperatures`.
``temperature_c``
    That outdoor temperature, in degrees Celsius.
``cop``
    Coefficient of performance of an air-source heat pump that heats water to 45 °C: the regression
    over devices on the market by I. Staffell et al., "A review of domestic heat pumps", Energy &
    Environmental Science 5, 2012, doi:10.1039/c2ee22653g.
``pv_east_kw``, ``pv_south_kw``, ``pv_west_kw``
    AC power of a photovoltaic array of 1 kWp under a clear sky, tilted by 35°: Ineichen's
    clear-sky model with a Linke turbidity of 3, isotropic sky, Faiman's cell temperature, PVWatts
    with -0.37 %/K and 96 % inverter efficiency. From `pvlib`.

Each row is the mean of one hour, 0 to 23, of one of three ordinary Wednesdays. The place is
Oldenburg in northern Germany. Hours are Central European Time, without daylight saving.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pvlib
from demandlib import bdew

DAYS = {"winter": "2025-01-15", "spring": "2025-04-16", "summer": "2025-07-16"}
LATITUDE, LONGITUDE, ALTITUDE_M = 53.14, 8.21, 10
STANDARD_TIME = "Etc/GMT-1"  # POSIX sign: this is UTC+1
AZIMUTHS = {"east": 90, "south": 180, "west": 270}
COLUMNS = (
    "day",
    "hour",
    "household_kw",
    "heat_kw",
    "temperature_c",
    "cop",
    *(f"pv_{side}_kw" for side in AZIMUTHS),
)


def household() -> pd.Series:
    """Return the power in kW, quarter hour by quarter hour, of a household of 1 MWh a year."""
    profiles = bdew.ElecSlp(year=2025)
    return profiles.get_scaled_power_profiles({"h0_dyn": 1000.0})["h0_dyn"]


def temperatures() -> pd.Series:
    """Return a smooth year of outdoor temperatures in °C, hour by hour.

    Two cosines: the year with a mean of 10 °C and an amplitude of 8.5 K (coldest on 20 January),
    and the day with an amplitude of 3.5 K (coldest at 5:00). Close to the climate normal of
    Oldenburg, and free of any one year's weather.
    """
    index = pd.date_range("2025-01-01", periods=8760, freq="h")
    day = np.arange(8760) / 24
    hour = np.arange(8760) % 24
    year_part = -8.5 * np.cos(2 * np.pi * (day - 19) / 365)
    day_part = -3.5 * np.cos(2 * np.pi * (hour - 5) / 24)
    return pd.Series(10 + year_part + day_part, index=index)


def heat(temperature: pd.Series) -> pd.Series:
    """Return the thermal power in kW, hour by hour, of a house of 1 MWh of heat a year."""
    building = bdew.HeatBuilding(
        temperature.index,
        temperature=temperature,
        shlp_type="EFH",
        building_class=5,
        wind_class=0,
        annual_heat_demand=1000.0,
    )
    return building.get_bdew_profile()


def coefficient_of_performance(temperature: pd.Series) -> pd.Series:
    """Return the heat pump's electrical efficiency at an outdoor `temperature` in °C."""
    lift = 45 - temperature
    return 6.81 - 0.121 * lift + 0.000630 * lift**2


def photovoltaics(date: str, azimuth: float) -> pd.Series:
    """Return the AC power in kW, hour by hour, of 1 kWp that faces `azimuth` on a clear `date`."""
    site = pvlib.location.Location(LATITUDE, LONGITUDE, STANDARD_TIME, ALTITUDE_M)
    minutes = pd.date_range(date, periods=24 * 12, freq="5min", tz=STANDARD_TIME)
    middles = minutes + pd.Timedelta("150s")
    sun = site.get_solarposition(middles)
    sky = site.get_clearsky(middles, model="ineichen", linke_turbidity=3.0)
    plane = pvlib.irradiance.get_total_irradiance(
        35, azimuth, sun["apparent_zenith"], sun["azimuth"], sky["dni"], sky["ghi"], sky["dhi"]
    )["poa_global"].clip(lower=0)
    air = temperatures()[date].repeat(12).to_numpy()
    cell = pvlib.temperature.faiman(plane, air, wind_speed=3.0)
    direct = pvlib.pvsystem.pvwatts_dc(plane, cell, pdc0=1.0, gamma_pdc=-0.0037)
    return 0.96 * direct.resample("h").mean()


def rows() -> list[tuple[object, ...]]:
    """Return the rows of the table, in the order of `COLUMNS`."""
    temperature = temperatures()
    load = household().resample("h").mean()
    thermal = heat(temperature)
    efficiency = coefficient_of_performance(temperature)
    table: list[tuple[object, ...]] = []
    for name, date in DAYS.items():
        sides = [photovoltaics(date, azimuth).to_numpy() for azimuth in AZIMUTHS.values()]
        columns = [series[date].to_numpy() for series in (load, thermal, temperature, efficiency)]
        for hour in range(24):
            values = [column[hour] for column in (*columns, *sides)]
            table.append((name, hour, *(f"{value:.4f}" for value in values)))
    return table


def main() -> None:
    """Write the table beside this script."""
    path = Path(__file__).parent / "data" / "profiles.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows())
    print(path)


if __name__ == "__main__":
    main()
