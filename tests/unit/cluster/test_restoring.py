"""What a new process is sent, so that it makes the agents of a former one again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiomas.cluster import streams
from aiomas.cluster.records import Records
from aiomas.cluster.restoring import restore
from aiomas.exceptions import ClusterError
from tests.unit.cluster.fakes import BOUND


class FakeLife:
    index = 1
    pid = 5

    def __init__(self, restoring=0.0, answers=True):
        self.calls: list[Any] = []
        self.restoring = restoring
        self._answers = answers

    async def call(self, method, *args, timeout):
        self.calls.append((method, *args, timeout))
        if method == "restore":
            await asyncio.sleep(self.restoring)
            return [f"failure of {args[0]}"]
        return None

    async def answers(self, timeout):
        return self._answers


@pytest.fixture
def records():
    records = Records()
    records.add("m:A", b"ab", [("0", ["0"]), ("1", ["1", "2"])])
    records.add("m:B", b"c", [("3", ["3"])])
    return records


async def test_states_go_before_their_agents_in_pieces(records, monkeypatch):
    monkeypatch.setattr(streams, "PIECE", 5)
    for aid in "0123":
        records.save(aid, aid.encode() * 3)
    life: Any = FakeLife()
    assert await restore(life, records, BOUND) == ["failure of m:A", "failure of m:B"]
    assert life.calls == [
        ("take_states", {"0": b"000"}, BOUND),
        ("take_states", {"1": b"111"}, BOUND),
        ("take_states", {"2": b"222"}, BOUND),
        ("restore", "m:A", b"ab", [["0"], ["1", "2"]], BOUND, 3 * BOUND),
        ("take_states", {"3": b"333"}, BOUND),
        ("restore", "m:B", b"c", [["3"]], BOUND, 2 * BOUND),
    ]


async def test_it_may_take_long_if_there_are_signs_of_life(records):
    life: Any = FakeLife(restoring=0.1)
    assert len(await restore(life, records, 0.02)) == 2


async def test_one_without_is_not_waited_for(records):
    life: Any = FakeLife(restoring=BOUND, answers=False)
    with pytest.raises(ClusterError, match=r"^Container 1 \(pid 5\) has not answered for 0.02 s"):
        await restore(life, records, 0.02)
