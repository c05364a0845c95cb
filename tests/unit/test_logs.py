"""A log that a flood of bad peers cannot flood."""

from __future__ import annotations

import asyncio
import logging

import pytest

from aiomas import _logs
from aiomas._logs import LimitedLog
from aiomas.testing import VirtualTimeLoop

logger = logging.getLogger("aiomas.tests.logs")


class Clock:
    """Tells the time of the event loop, whichever it is."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


@pytest.fixture
def anyio_backend(monkeypatch):
    monkeypatch.setattr(_logs, "time", Clock())
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture
def lines(caplog):
    """Return the lines that were logged since the last call."""
    caplog.set_level(logging.WARNING, logger=logger.name)

    def lines() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return messages

    return lines


def flood(log: LimitedLog, count: int, subject: str = "") -> None:
    for number in range(count):
        log.warning("peer %s", number, subject=subject)


async def test_a_line_is_a_warning_with_its_arguments_put_in(caplog):
    LimitedLog(logger).warning("%s sent %r", "peer", b"x")

    [record] = caplog.records
    assert (record.name, record.levelno) == (logger.name, logging.WARNING)
    assert record.getMessage() == "peer sent b'x'"


async def test_an_error_has_its_traceback(caplog):
    error = ValueError("spam")
    LimitedLog(logger).error("%s failed", "peer", exc_info=error)

    [record] = caplog.records
    assert (record.getMessage(), record.levelno) == ("peer failed", logging.ERROR)
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_only_so_many_lines_of_a_flood_pass(lines):
    flood(LimitedLog(logger, burst=3), 100)
    assert lines() == ["peer 0", "peer 1", "peer 2"]


async def test_at_its_end_a_flood_is_counted(lines):
    flood(LimitedLog(logger, burst=3, period=10.0), 100, "spam")
    lines()
    await asyncio.sleep(9.9)
    assert lines() == []
    await asyncio.sleep(0.2)
    assert lines() == ["97 more such lines about spam were left out"]
    await asyncio.sleep(100)
    assert lines() == []


async def test_nothing_is_said_of_those_left_out_if_there_were_none(lines):
    log = LimitedLog(logger, burst=3, period=10.0)
    for _ in range(5):
        log.warning("once in a while")
        await asyncio.sleep(10)
    assert lines() == ["once in a while"] * 5


async def test_there_are_as_many_lines_in_each_period(lines):
    log = LimitedLog(logger, burst=3, period=10.0)
    flood(log, 3)
    await asyncio.sleep(9.9)
    flood(log, 1)
    assert len(lines()) == 3
    await asyncio.sleep(0.2)
    flood(log, 3)
    assert lines() == ["1 more such lines were left out", "peer 0", "peer 1", "peer 2"]


async def test_a_flood_about_one_subject_hides_no_other(lines):
    log = LimitedLog(logger, burst=1)
    flood(log, 10, "spam")
    flood(log, 1, "eggs")
    assert lines() == ["peer 0", "peer 0"]


async def test_a_flood_of_subjects_is_one(lines):
    log = LimitedLog(logger, burst=1)
    for number in range(2 * _logs._SUBJECTS):
        log.warning("%s", number, subject=str(number))
    assert len(lines()) == _logs._SUBJECTS + 1
    assert len(log._periods) == _logs._SUBJECTS + 1


def test_a_period_ends_also_without_the_loop_in_which_it_began(monkeypatch, lines):
    log = LimitedLog(logger, burst=1, period=10.0)
    now = [5.0]
    monkeypatch.setattr("aiomas._logs.time.monotonic", lambda: now[0])

    async def once() -> None:
        flood(log, 3)

    asyncio.run(once())
    now[0] = 15.0
    asyncio.run(once())
    assert lines() == ["peer 0", "2 more such lines were left out", "peer 0"]
