"""Whether the memory of processes grows."""

from __future__ import annotations

import statistics
from typing import NamedTuple

BOUND = 4096.0
"""KiB/min by which a process may grow in the second half of a run (line of best fit).

Messages that are under way let the memory go up and down by some 12 MiB, which gives the slope over
five minutes (60 samples) a standard error of about 1 MiB/min.  With 30,000 calls a minute, a leak
of 150 bytes for each of them is found.
"""

MEANINGFUL = 300.0
"""Seconds of a run below which that is only printed, as chance has too much to say."""


class Sample(NamedTuple):
    seconds: float
    calls: int
    kib: dict[str, float]  # by name and life of the process


class Slope(NamedTuple):
    per_minute: float
    per_100k_calls: float


def slopes(samples: list[Sample], until: float) -> dict[str, Slope]:
    """Return by how many KiB each process grows that has lived through the second half."""
    half = [sample for sample in samples if sample.seconds >= until / 2]
    if len(half) < 3:
        return {}
    names = set.intersection(*[set(sample.kib) for sample in half])
    found = {}
    for name in sorted(names):
        kib = [sample.kib[name] for sample in half]
        minutes = [sample.seconds / 60 for sample in half]
        calls = [sample.calls / 1e5 for sample in half]
        found[name] = Slope(
            statistics.linear_regression(minutes, kib).slope,
            statistics.linear_regression(calls, kib).slope,
        )
    return found
