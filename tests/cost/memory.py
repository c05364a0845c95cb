"""Counts the blocks of memory that calls leave behind."""

from __future__ import annotations

import gc
import sys

from tests.cost.cases import CALLS, Round

ROUNDS = 32
"""Enough for 2,000 calls."""


async def count(round_: Round) -> dict[str, int]:
    """Return how many blocks stay, as often as every call leaves one.

    A container that grows now and then, and the loop, which keeps a hundred cancelled timers, are
    nothing that every call leaves behind.
    """
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(ROUNDS):
        await round_()
    gc.collect()
    kept = sys.getallocatedblocks() - before
    return {"survivors": CALLS * max(0, round(kept / (ROUNDS * CALLS)))}
