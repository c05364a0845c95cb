"""The delay of messages, found out although the clocks of both ends differ."""

from __future__ import annotations

import pytest

from aiomas._delay import Delay

CLOCKS = pytest.mark.parametrize("offset", [0.0, -1e6, 1e6])  # of the peer's clock, in seconds


@CLOCKS
def test_the_first_message_stands_for_a_journey_without_waiting(offset):
    assert Delay().of(sent=offset, received=5.0) == 0.0


@CLOCKS
def test_a_message_that_takes_longer_than_usual_has_waited(offset):
    delay = Delay()
    delay.of(sent=offset + 10.0, received=10.5)

    assert delay.of(sent=offset + 20.0, received=22.5) == pytest.approx(2.0)
    assert delay.of(sent=offset + 30.0, received=30.5) == pytest.approx(0.0)


@CLOCKS
def test_a_faster_journey_is_the_usual_one_from_then_on(offset):
    delay = Delay()
    delay.of(sent=offset + 10.0, received=12.0)

    assert delay.of(sent=offset + 20.0, received=20.5) == pytest.approx(0.0)
    assert delay.of(sent=offset + 30.0, received=32.0) == pytest.approx(1.5)


def test_a_message_is_never_early():
    delay = Delay()

    assert all(delay.of(sent=t, received=t + late) >= 0 for t, late in enumerate([3, 1, 2, 0, 5]))


@CLOCKS
def test_a_short_round_trip_says_what_is_usual_now(offset):
    """The clock of the peer was set back by a minute; without this, all seems to have waited."""
    delay = Delay()
    delay.of(sent=offset, received=0.0)
    offset -= 60.0
    assert delay.of(sent=offset + 1.0, received=1.0) == pytest.approx(60.0)

    delay.calibrate(asked=2.0, answered=offset + 2.0, received=2.0)

    assert delay.of(sent=offset + 3.0, received=3.0) == pytest.approx(0.0)
    assert delay.of(sent=offset + 4.0, received=5.5) == pytest.approx(1.5)


def test_a_short_round_trip_is_enough_to_begin_with():
    delay = Delay()
    delay.calibrate(asked=1.0, answered=1.0, received=1.0)

    assert delay.of(sent=2.0, received=4.0) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("asked", "received"),
    [(2.0, 2.2), (2.0, 60.0), (3.0, 2.0)],  # the last one was never asked
)
def test_a_long_round_trip_says_nothing(asked, received):
    delay = Delay()
    delay.of(sent=0.0, received=0.0)

    delay.calibrate(asked=asked, answered=asked - 60.0, received=received)

    assert delay.of(sent=5.0, received=5.5) == pytest.approx(0.5)
