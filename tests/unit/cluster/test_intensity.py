"""A policy at work: how many restarts there are within a time, and what pauses before each."""

from __future__ import annotations

import pytest

from aiomas.cluster.intensity import Intensity
from aiomas.cluster.spec import RestartPolicy


class FakeClock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return FakeClock()


def test_a_container_that_ended_well_is_not_restarted(clock):
    intensity = Intensity(RestartPolicy(mode="transient"), clock)
    assert intensity.next_pause(0) is None
    assert not intensity.exhausted


def test_there_are_so_many_restarts_within_the_period(clock):
    intensity = Intensity(RestartPolicy(intensity=2, period=10), clock)
    assert intensity.next_pause(1) is not None
    assert intensity.next_pause(None) is not None
    assert not intensity.exhausted
    assert intensity.next_pause(1) is None
    assert intensity.exhausted


def test_restarts_before_the_period_do_not_count(clock):
    intensity = Intensity(RestartPolicy(intensity=2, period=10), clock)
    assert intensity.next_pause(1) is not None
    clock.now += 9.9
    assert intensity.next_pause(1) is not None
    clock.now += 0.1  # the first one is as old as the period
    assert intensity.next_pause(1) is not None
    assert intensity.next_pause(1) is None


def test_no_restart_is_allowed_with_intensity_0(clock):
    intensity = Intensity(RestartPolicy(intensity=0), clock)
    assert intensity.next_pause(1) is None
    assert intensity.exhausted


def test_pauses_double_within_the_period_and_differ_by_a_quarter_at_most(clock):
    pauses = []
    for _ in range(50):
        intensity = Intensity(RestartPolicy(intensity=3, period=10, backoff=1), clock)
        pauses.append([intensity.next_pause(1) for _ in range(3)])
        clock.now += 10
        assert (intensity.next_pause(1) or 0) == pytest.approx(1, abs=0.25)
    for expected, found in zip((1, 2, 4), zip(*pauses, strict=True), strict=True):
        assert all(0.75 * expected <= pause <= 1.25 * expected for pause in found)
        assert len(set(found)) > 1


def test_it_looks_at_the_time_by_itself():
    assert Intensity(RestartPolicy(backoff=0)).next_pause(1) == 0
