"""Peers that have not shown the token: how long they may take, and how many there may be."""

from __future__ import annotations

import asyncio
import resource

import pytest

from aiomas import _strangers
from aiomas._strangers import Strangers
from aiomas.testing import VirtualTimeLoop


class Stranger:
    """Notes why it was refused, and when."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self.loop = loop
        self.refused: list[tuple[float, str]] = []

    def refuse(self, reason: str) -> None:
        self.refused.append((self.loop.time(), reason))


@pytest.fixture
def loop():
    loop = VirtualTimeLoop()
    yield loop
    loop.close()


@pytest.fixture
def strangers():
    return Strangers()


def until(loop, when):
    loop.run_until_complete(asyncio.sleep(when - loop.time()))


def come(loop, strangers, number=1):
    found = [Stranger(loop) for _ in range(number)]
    for stranger in found:
        strangers.came(loop, 5.0, stranger.refuse)
    return found


def test_who_is_silent_for_too_long_has_to_go(loop, strangers):
    [one] = come(loop, strangers)
    until(loop, 4.9)
    assert one.refused == []
    assert len(strangers) == 1
    until(loop, 20)
    [(when, reason)] = one.refused
    assert when == pytest.approx(5)
    assert "handshake_timeout=5.0 s" in reason
    assert len(strangers) == 0


def test_who_shows_the_token_or_leaves_is_forgotten(loop, strangers):
    [one] = come(loop, strangers)
    strangers.left(one.refuse)
    strangers.left(one.refuse)  # which does no harm
    until(loop, 20)
    assert one.refused == []
    assert len(strangers) == 0


def test_time_in_which_we_were_busy_does_not_count(loop, strangers):
    [one] = come(loop, strangers)
    loop.call_at(1.0, setattr, loop._timeline, "now", 8.0)
    until(loop, 12.9)
    assert one.refused == []
    until(loop, 20)
    assert [when for when, _ in one.refused] == [pytest.approx(13)]


def test_the_oldest_gives_way(loop, strangers, monkeypatch):
    monkeypatch.setattr(_strangers, "MOST", 3)
    found = come(loop, strangers, 5)
    assert [bool(stranger.refused) for stranger in found] == [True, True, False, False, False]
    assert "more than 3 peers" in found[0].refused[0][1]
    assert len(strangers) == 3
    for stranger in found[2:]:
        strangers.left(stranger.refuse)


def test_there_are_fewer_where_there_are_few_descriptors(loop, strangers):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        found = come(loop, strangers, 51)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [bool(stranger.refused) for stranger in found] == [True] + [False] * 50
    for stranger in found[1:]:
        strangers.left(stranger.refuse)
