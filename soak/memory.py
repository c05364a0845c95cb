"""Whether the memory of processes grows."""

from __future__ import annotations

import statistics
from typing import NamedTuple

BOUND = 1024.0
"""KiB/min by which a process may grow in the second half of a run, as the line of best fit says."""

MEANINGFUL = 120.0
"""Seconds of a run below which that is not checked: caches and free lists are still being filled."""


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
    if len(half) < 3:  # noqa: PLR2004 - less is no line
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
