"""The soak test stays alive: a few seconds of it find nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aiomas.exceptions import Outcome
from soak.ledger import Expectations, Ledger, runs_allowed
from soak.memory import Sample, slopes

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(150)
def test_some_seconds_of_load_and_faults():
    process = subprocess.Popen(
        [sys.executable, "-m", "soak", "--seconds", "4", "--every", "1", "--seed", "3"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that those it has stopped can be killed as well
    )
    try:
        output, _ = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    assert process.returncode == 0, output
    assert output.endswith("all is well\n")


@pytest.fixture
def books(tmp_path):
    with Ledger(tmp_path) as ledger, Expectations(tmp_path) as expected:
        yield ledger, expected


@pytest.mark.parametrize(
    ("outcome", "runs"),
    [
        (None, 0),
        (None, 2),
        (Outcome.EXECUTED, 0),
        (Outcome.NOT_SENT, 1),
        (Outcome.NOT_EXECUTED, 1),
        (Outcome.MAYBE_EXECUTED, 2),
    ],
)
def test_a_call_that_has_run_too_often_or_not_often_enough_is_found(books, outcome, runs):
    ledger, expected = books
    for _ in range(3):
        number = expected.new("sync")
        expected.ended(number, "sync", "as it may", (0, 0))
    for _ in range(runs):
        ledger.ran(number)
    expected.ended(number, "sync", "so", runs_allowed(outcome, attempts=1))

    (found,) = expected.broken(ledger)

    assert found.startswith("call 2 (sync; so) may run ")
    assert found.endswith(f", and has {runs} times")


def test_repetitions_may_run_again(books):
    ledger, expected = books
    number = expected.new("repeated")
    expected.ended(number, "repeated", "ok", runs_allowed(None, attempts=4))
    for _ in range(4):
        ledger.ran(number)
    assert expected.broken(ledger) == []

    ledger.ran(number)
    assert len(expected.broken(ledger)) == 1


def test_the_slope_of_memory_is_that_of_those_who_live_through_the_second_half():
    samples = [
        Sample(second, 1000 * second, {"driver": 100 * second, f"child {second // 90}": 7.0})
        for second in range(0, 121, 10)
    ]

    found = slopes(samples, 120)

    assert list(found) == ["driver"]
    assert found["driver"] == pytest.approx((6000, 10_000))
