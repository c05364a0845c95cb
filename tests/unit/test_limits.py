"""The limits of a connection: documented defaults, and errors that name what is wrong."""

from __future__ import annotations

import dataclasses
import math

import pytest

from aiomas import Limits
from aiomas._limits import Limits as Original
from aiomas._limits import check_seconds

NAMES = [field.name for field in dataclasses.fields(Limits)]
OPTIONAL = ["write_timeout", "heartbeat"]
TIMES = [*OPTIONAL, "handshake_timeout"]
WHOLE = [name for name in NAMES if name not in TIMES]
MIB = 1024 * 1024


def test_the_class_is_public():
    assert Limits is Original


def test_the_defaults_are_those_of_the_documentation():
    assert dataclasses.asdict(Limits()) == {
        "max_frame": 16 * MIB,
        "max_nesting": 64,
        "max_requests": 65_536,
        "max_request_bytes": 64 * MIB,
        "write_high_water": 64 * 1024,
        "write_cap": 512 * MIB,
        "write_timeout": 30.0,
        "handshake_timeout": 5.0,
        "heartbeat": 10.0,
        "heartbeat_misses": 3,
    }


@pytest.mark.parametrize("name", NAMES)
def test_each_limit_can_be_set(name):
    assert getattr(Limits(**{name: 7}), name) == 7


def test_limits_are_set_by_name_only():
    with pytest.raises(TypeError):
        Limits(5)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", NAMES)
def test_limits_do_not_change(name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(Limits(), name, 5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_that_is_not_positive_is_named(name, value):
    with pytest.raises(ValueError, match=rf"Limits\.{name} must be positive.* got {value}"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, -0.5])
def test_a_time_that_is_none_is_named(name, value):
    with pytest.raises(ValueError, match=rf"Limits\.{name} must be positive"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("value", [None, 0.5, 1])
def test_a_time_may_be_a_fraction_or_off(name, value):
    assert getattr(Limits(**{name: value}), name) == value


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [None, 1.5, math.inf, "5", True, b"5", [5]])
def test_a_number_of_something_is_whole(name, value):
    with pytest.raises(TypeError, match=rf"Limits\.{name} is a number, got"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", ["5", True, [5]])
def test_a_time_is_a_number(name, value):
    with pytest.raises(TypeError, match=rf"Limits\.{name} is a number, got"):
        Limits(**{name: value})


class TestSeconds:
    @pytest.mark.parametrize("value", [None, 1, 0.5, 1e10])
    def test_are_a_positive_number_or_none(self, value):
        check_seconds("spam", value)

    @pytest.mark.parametrize("value", ["5", True, [5], b"5", 1j])
    def test_are_nothing_else(self, value):
        with pytest.raises(TypeError, match="spam is a number of seconds or None"):
            check_seconds("spam", value)

    @pytest.mark.parametrize("value", [0, -1, -0.5, math.nan, math.inf])
    def test_are_not_negative_or_infinite(self, value):
        with pytest.raises(ValueError, match="spam is a positive number"):
            check_seconds("spam", value)


def test_a_frame_is_no_larger_than_its_header_can_say():
    assert Limits(max_frame=2**32 - 1).max_frame == 2**32 - 1
    with pytest.raises(ValueError, match=r"Limits\.max_frame .* 4294967295"):
        Limits(max_frame=2**32)
