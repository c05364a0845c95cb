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


@CLOCKS
def test_what_was_usual_is_forgotten_after_two_periods(offset):
    """The clock of the peer stood still for 20 s, and nobody has told us."""
    delay = Delay()
    delay.of(sent=offset, received=0.0)
    assert delay.of(sent=offset + 1.0, received=21.0) == pytest.approx(20.0)
    assert delay.of(sent=offset + 80.0, received=100.0) == pytest.approx(20.0)
    assert delay.of(sent=offset + 150.0, received=170.0) == pytest.approx(0.0)
    assert delay.of(sent=offset + 151.0, received=173.0) == pytest.approx(2.0)


@CLOCKS
def test_within_two_periods_it_is_not(offset):
    delay = Delay()
    delay.of(sent=offset, received=0.0)
    for now in range(1, 120):
        assert delay.of(sent=offset + now - 2.0, received=now) == pytest.approx(2.0)


@CLOCKS
def test_a_long_delay_is_in_doubt_until_the_peer_was_asked(offset):
    delay = Delay()
    delay.of(sent=offset, received=0.0)
    delay.of(sent=offset + 1.0, received=1.9)
    assert not delay.in_doubt
    delay.of(sent=offset + 2.0, received=3.1)
    assert delay.in_doubt
    delay.of(sent=offset + 4.0, received=4.0)
    assert delay.in_doubt
    delay.calibrate(asked=4.0, answered=offset + 5.0, received=6.0)  # even if it took long
    assert not delay.in_doubt


@CLOCKS
def test_a_short_round_trip_makes_all_earlier_minima_forgotten(offset):
    delay = Delay()
    delay.of(sent=offset, received=0.0)
    delay.of(sent=offset + 70.0, received=70.0)
    delay.calibrate(asked=80.0, answered=offset + 60.0, received=80.0)
    assert delay.of(sent=offset + 61.0, received=81.0) == pytest.approx(0.0)
    assert delay.of(sent=offset + 121.0, received=141.0) == pytest.approx(0.0)
