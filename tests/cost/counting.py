"""Counts all cases, each kind of figure in an interpreter of its own.

What else a process has done, who looks at it, and what variables are set would change the figures:
none of that reaches a new interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from aiomas import _outbox
from tests.cost import allocations, memory, work
from tests.cost.cases import CALLS, CASES, Case, Round

Figures = dict[str, float]
"""How much of what one call takes."""
Count = Callable[[Round], Awaitable[dict[str, int]]]

ROOT = Path(__file__).parents[2]
ROUNDS = {"work": 3, "memory": 1, "allocations": 2}
"""Rounds that are counted, by kind of figure."""
WARM_UP = 5
"""Rounds, after which caches are filled and numbers of calls are no longer of the smallest."""
TIME_LIMIT = 240.0
"""Seconds for each interpreter, of which it needs some five if the machine is not busy."""


def count_everything(python: str = sys.executable) -> dict[str, Figures]:
    """Return the figures of each case, as far as they can be had on this system."""
    figures: dict[str, Figures] = {case: {} for case in CASES}
    with tempfile.TemporaryDirectory() as folder:
        tracing = allocations.environment(Path(folder, "log"))
        for kind in ROUNDS:
            extra = tracing if kind == "allocations" else {}
            for case, counted in _in_new_interpreter(python, kind, extra).items():
                figures[case] |= counted
    return figures


def _in_new_interpreter(python: str, kind: str, extra: dict[str, str]) -> dict[str, Figures]:
    bytecode = {"PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"}
    own = {
        name: value
        for name, value in os.environ.items()
        if name in bytecode or not name.startswith(("PYTHON", "COVERAGE", "AIOMAS", "LD_"))
    }
    result = subprocess.run(
        [python, "-m", "tests.cost", "--count", kind],
        cwd=ROOT,
        env=own | {"PYTHONHASHSEED": "0"} | extra,
        stdout=subprocess.PIPE,
        check=True,
        timeout=TIME_LIMIT,
    )
    counted: dict[str, Figures] = json.loads(result.stdout)
    return counted


def count_here(kind: str) -> dict[str, Figures]:
    """Return the figures of a *kind* in this process, by case; none if it cannot be counted."""
    count: Count
    _outbox.usable_cores = lambda: 2  # type: ignore[attr-defined]  # on any machine
    if kind == "work":
        work.count_tasks()
        count = work.count
    elif kind == "memory":
        count = memory.count
    else:
        try:
            count = allocations.Tracing().count
        except OSError:
            return {}
    return {
        name: asyncio.run(_count_case(case, count, ROUNDS[kind])) for name, case in CASES.items()
    }


async def _count_case(case: Case, count: Count, rounds: int) -> Figures:
    async with case() as round_:
        with clock_that_stands_still(), no_collection_of_garbage():
            for _ in range(WARM_UP):
                await round_()
            counted = [await count(round_) for _ in range(rounds)]
    # The median: on a busy system, what is sent may once arrive in two parts.
    return {
        figure: round(statistics.median_low(one[figure] for one in counted) / CALLS, 3)
        for figure in counted[0]
    }


@contextlib.contextmanager
def clock_that_stands_still() -> Iterator[None]:
    """Let no timer come due, such as that of a heartbeat."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    loop.time = lambda: now  # type: ignore[method-assign]
    try:
        yield
    finally:
        del loop.time


@contextlib.contextmanager
def no_collection_of_garbage() -> Iterator[None]:
    """Let the collector of garbage run when it is called, and at no other time."""
    gc.collect()
    gc.freeze()  # or each call of it would look at all modules
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
