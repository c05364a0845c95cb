"""The rows of the table that compare calls: what is measured, against what, and the aim."""

from __future__ import annotations

import contextlib
import dataclasses
import gc

from benchmarks.loops import LOOPS, pinned, run
from benchmarks.measure import MIB, Measure, echoed, pipelined, sequential
from benchmarks.plan import Plan
from benchmarks.results import Aim, Result
from benchmarks.subjects import IN_CONTAINER, Subjects


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
        "one by one",
        sequential,
        against=("P", "B"),
        aims={"asyncio": {"P": 1.2, "B": 0.9}, "uvloop": {"P": 0.8}},
    ),
    Row("B2-64", "64 in flight", pipelined(64), against=("P", "B"), aims=both(P=0.75)),
    Row("B2-64-unpinned", "64 in flight", pipelined(64), pinned=False, aims=both(P=1.2)),
    Row(
        "B2-64-async",
        "64 in flight",
        pipelined(64),
        method="echo_async",
        aims=both(P=0.5),
        note="the handler is a coroutine function",
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
        "in one container",
        sequential,
        ours=IN_CONTAINER,
        against=("aiomas",),
        aims={"asyncio": {"aiomas": 4.0}, "uvloop": {"aiomas": 3.0}},
        note="against our own calls over TCP, one by one",
    ),
    *(
        Row(
            f"B7-{name}{'' if on_one else '-unpinned'}",
            f"TLS, {what}",
            measure,
            ours="aiomas TLS",
            against=("aiomas",),
            pinned=on_one,
            aims=both(aiomas=0.8 if on_one else 0.9) if name == "64" else {},
            note="mutual TLS, against our own plain TCP",
        )
        for name, what, measure in (
            ("1", "one by one", sequential),
            ("64", "64 in flight", pipelined(64)),
        )
        for on_one in (True, False)
    ),
    Row(
        "JSON",
        "64 in flight",
        pipelined(64),
        ours="aiomas JSON",
        against=("P on json",),
        aims={"asyncio": {"P on json": 0.6}, "uvloop": {"P on json": 0.5}},
        note="the codec JSON",
    ),
)


async def measure(row: Row, loop_name: str, subjects: Subjects, plan: Plan) -> Result:
    """Let aiomas and its baselines take turns, and return what each has reached.

    Args:
        row: what to measure.
        loop_name: the event loop on which this runs.
        subjects: those that are running.
        plan: how many rounds, and how many seconds each.
    """
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
        await row.measure(call, plan.seconds / 3)  # to warm up
    for _ in range(plan.rounds):
        for name, call in calls.items():
            result.rounds[name].append(await row.measure(call, plan.seconds))
    return result


def measure_rows(plan: Plan) -> list[Result]:
    """Measure all rows that are asked for, and return results in their order."""
    results: list[Result] = []
    for loop_name in LOOPS:
        for on_one in (True, False):
            rows = [row for row in ROWS if row.pinned is on_one and plan.wants(row.id)]
            with pinned(to_one_core=on_one):
                results += run(loop_name, _measure_all(rows, loop_name, plan))
    order = [row.id for row in ROWS]
    return sorted(results, key=lambda result: order.index(result.id))


async def _measure_all(rows: list[Row], loop_name: str, plan: Plan) -> list[Result]:
    results = []
    async with contextlib.AsyncExitStack() as stack:
        subjects = Subjects(loop_name, plan.folder, stack)
        for row in rows:
            plan.tell(f"{row.id}, {loop_name}")
            results.append(await measure(row, loop_name, subjects, plan))
    return results
