"""How fast something can be called: functions that call for some seconds and return a figure.

Each takes what calls the subject, and the seconds (roughly) that it may take.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

Call = Callable[[Any], Awaitable[Any]]
Measure = Callable[[Call, float], Awaitable[float]]

PAYLOAD = "x" * 16
MIB = 2**20


async def sequential(call: Call, seconds: float) -> float:
    """Return calls per second, one after the other."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(100):
            await call(PAYLOAD)
        count += 100
    return count / elapsed


def pipelined(in_flight: int) -> Measure:
    """Return what measures calls per second, made so many at once, all of which are awaited."""
    batches = max(1, 640 // in_flight)  # between two looks at the clock

    async def measure(call: Call, seconds: float) -> float:
        count, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            for _ in range(batches):
                await asyncio.gather(*[call(PAYLOAD) for _ in range(in_flight)])
            count += batches * in_flight
        return count / elapsed

    return measure


def echoed(size: int) -> Measure:
    """Return what measures the bytes per second of payloads of *size* bytes, there and back.

    Each echo counts as twice its payload, since that is what was sent and received.
    """

    async def measure(call: Call, seconds: float) -> float:
        value = b"x" * size
        count, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds or not count:
            assert len(await call(value)) == size
            count += 1
        return 2 * size * count / elapsed

    return measure
