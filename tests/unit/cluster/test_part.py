"""What a supervisor is told about its part of a run arrives as it was."""

from __future__ import annotations

import dataclasses
import json

from aiomas.cluster.part import LOOPBACK, Part
from aiomas.codecs import MsgPack

PART = Part(
    host="node1",
    indices=(3, 4, 7),
    bind="192.0.2.1",
    address="node1.example",
    lease=12.5,
    heartbeat=0.5,
    incarnation=2,
    several=True,
    archive=True,
    shipped=True,
)


def test_it_can_travel():
    codec = MsgPack()
    assert Part.of_fields(codec.decode(codec.encode(PART.fields()))) == PART
    assert Part.of_fields(json.loads(json.dumps(PART.fields()))) == PART  # which has no tuples


def test_no_field_of_the_example_has_its_default():
    """So that a field which does not travel is noticed above."""
    assert all(getattr(PART, f.name) != getattr(Part(), f.name) for f in dataclasses.fields(Part))


def test_by_default_all_is_here():
    part = Part()
    assert (part.host, part.bind, part.address) == ("localhost", LOOPBACK, LOOPBACK)
    assert part.lease is None
    assert [part.several, part.archive, part.shipped] == [False] * 3
