from __future__ import annotations

import asyncio
import sys

import pytest

from tests.cost import allocations, counting, memory, work
from tests.cost.cases import CALLS, CASES
from tests.cost.limits import COMMAND, PYTHON, Limits

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="what was recorded was counted on Linux"),
    pytest.mark.timeout(500),
]
LIMITS = Limits.read()
COUNTED_ON = {
    python for table in LIMITS.tables.values() for row in table.values() for python in row
}


@pytest.fixture(scope="module")
def counted() -> dict[str, counting.Figures]:
    if PYTHON not in COUNTED_ON:
        pytest.skip(f"nothing was recorded for Python {PYTHON}: {COMMAND}")
    return counting.count_everything()


@pytest.mark.parametrize("case", CASES)
def test_a_call_costs_what_was_recorded(counted, case):
    problems = LIMITS.compare(case, counted[case])
    assert not problems, "\n".join([*problems, f"If that is meant to be: {COMMAND}"])


def test_nothing_is_recorded_of_what_is_not_counted():
    assert list(LIMITS.tables) == list(CASES)


def figures(counted, figure, *names):
    return {
        name: figure_of[figure] for name, figure_of in counted.items() if name in names or not names
    }


def test_only_an_async_method_needs_a_task_and_only_one(counted):
    assert figures(counted, "tasks") == {name: float(name.endswith("async")) for name in CASES}


def test_a_single_call_is_sent_and_received_once_by_each_end(counted):
    names = ("tcp-in-turn", "tcp-in-turn-async", "tls-in-turn", "channel-in-turn")
    for figure in ("sends", "receives"):
        assert figures(counted, figure, *names) == dict.fromkeys(names, 2.0)


def test_calls_in_flight_are_sent_by_the_batch(counted):
    names = ("tcp-at-once", "tcp-at-once-async", "tls-at-once", "channel-at-once")
    for figure in ("sends", "receives"):
        most = max(figures(counted, figure, *names).values())
        assert most <= 2 * 4 / CALLS, figure  # batches of 16 or more, at both ends


def test_a_call_inside_of_a_container_uses_no_socket(counted):
    for name in CASES:
        if name.startswith("inside"):
            assert (counted[name]["sends"], counted[name]["receives"]) == (0, 0)


def test_only_a_call_with_a_timeout_sets_a_timer(counted):
    assert figures(counted, "timers") == {name: float(name.endswith("timeout")) for name in CASES}


def test_calls_leave_nothing_behind(counted):
    calls = [name for name in CASES if name != "agents"]
    assert figures(counted, "survivors", *calls) == dict.fromkeys(calls, 0)


async def test_what_a_round_does_is_counted():
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.SelectorEventLoop):
        pytest.skip("what this loop does cannot be seen")

    async def round_() -> None:
        for _ in range(CALLS):
            await asyncio.sleep(0)
            loop.call_later(100, print).cancel()

    got = await work.count(round_)
    assert got["timers"] == CALLS
    assert got["polls"] == CALLS
    assert (got["functions"], got["builtins"], got["sends"]) == (0, 0, 0)


async def test_what_a_round_leaves_behind_is_counted():
    kept: list[object] = []

    async def round_() -> None:
        kept.extend(object() for _ in range(CALLS))

    assert await memory.count(round_) == {"survivors": CALLS}


def test_a_log_of_the_c_library_is_read():
    log = """\
= Start
@ /lib/python:(_PyObject_New+12)[0x1aa142] + 0x562ab8f5c6c0 0x30
@ [0x15746a] - 0x562ab8f5c6c0
@ [0x15746a] < 0x562ab8f95730
@ [0x15746a] > 0x562ab8f95b50 0x10
= End
"""
    assert allocations.read(log) == {"allocations": 2, "bytes": 0x40}


def test_a_figure_that_has_changed_is_named():
    limits = Limits({"case": {"sends": {"3.11": 2}, "bytes": {"3.11": 100.0, "3.12": 1.0}}})
    assert limits.compare("case", {"sends": 2, "bytes": 104.0}, "3.11") == []
    assert limits.compare("case", {"sends": 2.016, "bytes": 106.0}, "3.11") == [
        "case: sends for each call, on Python 3.11: rose from 2 to 2.016",
        "case: bytes for each call, on Python 3.11: rose from 100 to 106",
    ]
    assert limits.compare("case", {"sends": 1.0}, "3.11") == [
        "case: sends for each call, on Python 3.11: fell from 2 to 1, so lower the limit"
    ]
    assert limits.compare("case", {"sends": 1.0}, "3.12") == [
        "case: sends has no limit for Python 3.12"
    ]
    assert limits.compare("other", {"sends": 1.0}, "3.12") == [
        "other: nothing was recorded for Python 3.12"
    ]


def test_recording_replaces_the_figures_of_one_python_only(tmp_path):
    file = tmp_path / "limits.toml"
    case = {"sends": {"3.11": 2.0, "3.12": 3.0}, "gone": {"3.11": 1.0}, "going": {"3.12": 4.0}}
    limits = Limits({"gone": {}, "case": case})
    limits.record({"case": {"sends": 1.016, "bytes": 1234567.891}}, "3.11")
    limits.write(file)
    assert Limits.read(file).tables == {
        "case": {
            "sends": {"3.11": 1.016, "3.12": 3},
            "going": {"3.12": 4},
            "bytes": {"3.11": 1234567.891},
        }
    }
