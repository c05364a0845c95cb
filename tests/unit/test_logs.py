"""A log that a flood of bad peers cannot flood."""

from __future__ import annotations

import logging

import pytest

from aiomas import _logs
from aiomas._logs import LimitedLog

logger = logging.getLogger("aiomas.tests.logs")


class Time:
    """A clock that this test sets."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Time()
    monkeypatch.setattr(_logs, "time", clock)
    return clock


@pytest.fixture
def lines(caplog):
    """Return the lines that were logged since the last call."""
    caplog.set_level(logging.WARNING, logger=logger.name)

    def lines() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return messages

    return lines


def flood(log: LimitedLog, count: int) -> None:
    for number in range(count):
        log.warning("peer %s", number)


def test_a_line_is_a_warning_with_its_arguments_put_in(clock, caplog):
    LimitedLog(logger).warning("%s sent %r", "peer", b"x")

    [record] = caplog.records
    assert (record.name, record.levelno) == (logger.name, logging.WARNING)
    assert record.getMessage() == "peer sent b'x'"


def test_only_so_many_lines_of_a_flood_pass(clock, lines):
    flood(LimitedLog(logger, burst=3), 100)

    assert lines() == ["peer 0", "peer 1", "peer 2"]


def test_the_next_line_after_the_flood_comes_with_the_number_of_those_left_out(clock, lines):
    log = LimitedLog(logger, burst=3, period=10.0)
    flood(log, 100)
    lines()

    clock.now += 10.0
    log.warning("another")

    assert lines() == ["97 more like the following were left out", "another"]


def test_what_was_left_out_is_counted_once(clock, lines):
    log = LimitedLog(logger, burst=3, period=10.0)
    flood(log, 100)
    clock.now += 10.0
    flood(log, 4)
    lines()

    clock.now += 10.0
    log.warning("another")

    assert lines() == ["1 more like the following were left out", "another"]


def test_there_are_as_many_lines_in_each_period(clock, lines):
    log = LimitedLog(logger, burst=3, period=10.0)
    flood(log, 3)
    clock.now += 9.9
    flood(log, 1)
    assert len(lines()) == 3

    clock.now += 0.1
    flood(log, 3)

    assert lines() == [
        "1 more like the following were left out",
        "peer 0",
        "peer 1",
        "peer 2",
    ]


def test_nothing_is_said_of_those_left_out_if_there_were_none(clock, lines):
    log = LimitedLog(logger, burst=3, period=10.0)
    for _ in range(5):
        log.warning("once in a while")
        clock.now += 10.0

    assert lines() == ["once in a while"] * 5
