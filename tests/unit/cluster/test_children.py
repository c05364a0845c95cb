"""All containers of a host: started together or not at all, and asked at the same time."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiomas.cluster.children import Children
from aiomas.cluster.spec import ClusterSpec
from aiomas.cluster.surroundings import Surroundings
from aiomas.exceptions import ClusterError
from tests.unit.cluster.fakes import BOUND, FakeFork, fails, never

SHORT = 0.05  # seconds


@pytest.fixture
async def fork():
    fork = FakeFork()
    yield fork
    await fork.close()


@pytest.fixture
async def around(fork, unix_path):
    directory = Path(unix_path).parent
    return Surroundings(
        spec=ClusterSpec(containers=2, loop="asyncio", start_timeout=BOUND),
        run="plant",
        directory=directory,
        logs=directory,
        fork=fork,
        token="secret",
        tls=False,
        emit=lambda event: None,
        echo=None,
    )


@pytest.fixture
async def children():
    children = Children()
    yield children
    await children.stop_all(SHORT)


async def test_they_are_started_with_any_indices(children, around):
    begun = await children.start([3, 5], around)
    assert [content["index"] for content in begun] == [3, 5]
    assert 3 in children
    assert 4 not in children
    statuses = await children.status("h1", BOUND)
    assert [(status["index"], status["host"]) for status in statuses] == [(3, "h1"), (5, "h1")]
    assert set(children.loads()) == {3, 5}


async def test_if_one_cannot_be_started_the_others_of_its_kind_are_ended(children, around, fork):
    await children.start([0], around)

    def start(process, fields):
        return fails() if "2.sock" in fields["addr"] else "fake://container/"

    fork.answers["start"] = start
    with pytest.raises(ClusterError, match="code of the user"):
        await children.start([1, 2], around)
    states = {status["index"]: status["state"] for status in await children.status("h", BOUND)}
    assert states == {0: "running"}


async def test_one_that_was_ended_is_asked_for_nothing_and_can_be_had_again(children, around):
    await children.start([0, 1], around)
    assert await children.end([1], SHORT) == {1: 0}
    await children.checkpoint()
    assert await children.set_time(1.0) == []
    [again] = await children.start([1], around)
    assert again["index"] == 1
    assert [s["state"] for s in await children.status("h", BOUND)] == ["running", "running"]


async def test_who_does_not_hear_of_a_generation_is_named(children, around, fork, monkeypatch):
    monkeypatch.setattr("aiomas.cluster.children._GENERATION_TIMEOUT", SHORT)
    await children.start([0, 1], around)
    deaf = fork.processes[1]

    def hear(process, *terms):
        return never(process) if process is deaf else None

    fork.answers["set_generation"] = hear
    [error] = await children.set_generation(0, 1, 1, [], [])
    assert f"pid {deaf.pid}" in error["message"]
    assert [len(process.calls_of("set_generation")) for process in fork.processes] == [1, 1]
