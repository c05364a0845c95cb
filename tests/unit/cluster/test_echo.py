"""Lines of logs on their way to the driver: gathered, in order, and bounded."""

from __future__ import annotations

import asyncio

import pytest

from aiomas.cluster import echo as echo_module
from aiomas.cluster.echo import MOST_LINES, Echo
from tests.unit.cluster.fakes import BOUND, until


class Driver:
    def __init__(self):
        self.messages = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.error = None

    async def log(self, index, lines):
        self.messages.append((index, lines))
        await self.reads.wait()
        if self.error:
            raise self.error


@pytest.fixture
async def driver():
    return Driver()


@pytest.fixture
async def echo(driver):
    echo = Echo(driver.log)
    yield echo
    echo.close()


async def test_lines_go_together(echo, driver):
    for number in range(3):
        echo.take(0, f"a{number}")
        echo.take(1, f"b{number}")
    await until(lambda: len(driver.messages) == 2)
    assert driver.messages == [(0, ["a0", "a1", "a2"]), (1, ["b0", "b1", "b2"])]
    echo.take(1, "more")
    await until(lambda: len(driver.messages) == 3)
    assert driver.messages[2] == (1, ["more"])


async def test_there_are_not_too_many_and_nothing_is_sent_before_the_last_has_arrived(echo, driver):
    driver.reads.clear()
    echo.take(0, "first")
    await until(lambda: driver.messages)
    for number in range(MOST_LINES + 5):
        echo.take(0, str(number))
    await echo.flush(0.1)
    assert len(driver.messages) == 1
    driver.reads.set()
    await echo.flush(BOUND)
    [_, (index, lines)] = driver.messages
    expected = [*map(str, range(MOST_LINES)), "[5 lines not shown]"]
    assert (index, lines) == (0, expected)
    echo.take(0, "next")
    await echo.flush(BOUND)
    assert driver.messages[2] == (0, ["next"])


async def test_what_waits_can_be_sent_at_once(echo, driver, monkeypatch):
    monkeypatch.setattr(echo_module, "_PAUSE", BOUND * 10)
    await echo.flush(BOUND)
    echo.take(0, "last")
    await echo.flush(BOUND)
    assert driver.messages == [(0, ["last"])]


async def test_a_driver_that_is_gone_is_no_error(echo, driver):
    driver.error = ConnectionResetError()
    echo.take(0, "lost")
    await echo.flush(BOUND)
    assert echo._sending.exception() is None


async def test_nothing_is_sent_when_it_is_closed(echo, driver):
    echo.close()
    echo.take(0, "lost")
    echo.close()
    await asyncio.wait({echo._sending})
    assert driver.messages == []
