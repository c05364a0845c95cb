"""The rows of the table that compare calls: what is measured, against what, and the aim."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterable, Iterator

from benchmarks.loops import LOOPS, pinned, run
from benchmarks.measure import MIB, Measure, echoed, pipelined, sequential
from benchmarks.results import Aim, Result
from benchmarks.subjects import IN_CONTAINER, Call, subject

Tell = Callable[[str], None]
"""Shows how far it is."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison, for each event loop."""

    id: str
    what: str
    measure: Measure
    ours: str = "aiomas"
    against: tuple[str, ...] = ("P",)
    pinned: bool = True
    method: str = "echo"
    unit: str = "calls/s"
    aims: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    """By event loop and by baseline: the ratio that should be reached at least."""
    note: str = ""


def both(**ratios: float) -> dict[str, dict[str, float]]:
    """Return aims that are the same on both loops."""
    return {"asyncio": ratios, "uvloop": ratios}


PYZMQ = "to be compared with pyzmq: make bench-peers"

ROWS = (
    Row(
        "B1",
        "one call after the other",
        sequential,
        against=("P", "B"),
        aims={"asyncio": {"P": 1.2, "B": 0.9}, "uvloop": {"P": 0.8}},
    ),
    Row("B2-64", "64 in flight", pipelined(64), against=("P", "B"), aims=both(P=0.75)),
    Row("B2-64-unpinned", "64 in flight", pipelined(64), pinned=False, aims=both(P=1.2)),
    Row(
        "B2-64-async",
        "64 in flight, async handler",
        pipelined(64),
        method="echo_async",
        aims=both(P=0.5),
    ),
    Row("B2-1000", "1000 in flight", pipelined(1000), pinned=False, note=PYZMQ),
    Row(
        "B3",
        "echo of 1 MiB",
        echoed(MIB),
        against=("tuned", "P"),
        unit="B/s",
        aims={"asyncio": {"tuned": 0.85}, "uvloop": {"tuned": 0.8}},
        note="bytes of the payload sent and received",
    ),
    Row(
        "B3-unpinned",
        "echo of 1 MiB",
        echoed(MIB),
        against=("tuned", "P"),
        pinned=False,
        unit="B/s",
        aims={"asyncio": {"tuned": 0.85}, "uvloop": {"tuned": 0.8}},
        note="bytes of the payload sent and received",
    ),
    Row(
        "B4",
        "between two agents in one container",
        sequential,
        ours=IN_CONTAINER,
        against=("aiomas",),
        aims={"asyncio": {"aiomas": 4.0}, "uvloop": {"aiomas": 3.0}},
        note="against calls over TCP",
    ),
    *(
        Row(
            f"B7-{name}{'' if on_one else '-unpinned'}",
            f"mutual TLS, {what}",
            measure,
            ours="aiomas TLS",
            against=("aiomas",),
            pinned=on_one,
            aims=both(aiomas=0.8 if on_one else 0.9) if name == "64" else {},
            note="against our own plain TCP",
        )
        for name, what, measure in (
            ("1", "one call after the other", sequential),
            ("64", "64 in flight", pipelined(64)),
        )
        for on_one in (True, False)
    ),
    Row(
        "JSON",
        "codec JSON, 64 in flight",
        pipelined(64),
        ours="aiomas JSON",
        against=("P on json",),
        aims={"asyncio": {"P on json": 0.6}, "uvloop": {"P on json": 0.5}},
    ),
)


def chosen(name: str, only: Iterable[str] | None) -> bool:
    """Return whether "B2-64" is asked for: by its name, or by the first parts of it."""
    return only is None or any(name == part or name.startswith(f"{part}-") for part in only)


class Subjects:
    """Those that are running, on one event loop and on one core or not; started when needed."""

    def __init__(self, loop_name: str, certificates: str, stack: contextlib.AsyncExitStack) -> None:
        self._loop_name = loop_name
        self._certificates = certificates
        self._stack = stack
        self._running: dict[str, Callable[[str], Call]] = {}

    async def call(self, name: str, method: str) -> Call:
        """Return what calls this method of the subject."""
        if name not in self._running:
            manager = subject(name, self._loop_name, self._certificates)
            self._running[name] = await self._stack.enter_async_context(manager)
        return self._running[name](method)


async def measure(row: Row, loop_name: str, subjects: Subjects, plan: tuple[int, float]) -> Result:
    """Let aiomas and its baselines take turns, and return what each has reached.

    Args:
        row: what to measure.
        loop_name: the event loop on which this runs.
        subjects: those that are running.
        plan: how many rounds, and how many seconds each.
    """
    rounds, seconds = plan
    names = (row.ours, *row.against)
    calls = {name: await subjects.call(name, row.method) for name in names}
    result = Result(
        row.id,
        row.what,
        loop_name,
        row.pinned,
        row.unit,
        {name: [] for name in names},
        [Aim(value, name) for name, value in row.aims.get(loop_name, {}).items()],
        row.note,
    )
    gc.collect()
    for call in calls.values():
        await row.measure(call, seconds / 3)  # to warm up
    for _ in range(rounds):
        for name, call in calls.items():
            result.rounds[name].append(await row.measure(call, seconds))
    return result


def measure_rows(
    only: Iterable[str] | None, plan: tuple[int, float], certificates: str, tell: Tell
) -> Iterator[list[Result]]:
    """Measure all rows that are asked for, and yield results as they come.

    Args:
        only: names of rows, or None for all of them.
        plan: how many rounds, and how many seconds each.
        certificates: the folder with those for TLS.
        tell: is told what is measured.
    """
    for loop_name in LOOPS:
        for on_one in (True, False):
            rows = [row for row in ROWS if row.pinned is on_one and chosen(row.id, only)]
            with pinned(to_one_core=on_one):
                yield run(loop_name, _measure_all(rows, loop_name, plan, certificates, tell))


async def _measure_all(
    rows: list[Row], loop_name: str, plan: tuple[int, float], certificates: str, tell: Tell
) -> list[Result]:
    results = []
    async with contextlib.AsyncExitStack() as stack:
        subjects = Subjects(loop_name, certificates, stack)
        for row in rows:
            tell(f"{row.id}, {loop_name}")
            results.append(await measure(row, loop_name, subjects, plan))
    return results
