"""All containers of a host: started together or not at all, and asked at the same time."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from aiomas.cluster.children import Children
from aiomas.cluster.spec import ClusterSpec, RestartPolicy
from aiomas.cluster.surroundings import Surroundings
from aiomas.exceptions import ClusterError, ContainerDied
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


async def test_those_that_leave_are_asked_for_states_only_if_they_answer(children, around, fork):
    await children.start([0, 1, 2], around)
    children[1].state = "hung"
    await children.checkpoint([0, 1])
    asked = [len(process.calls_of("checkpoint")) for process in fork.processes]
    assert asked == [1, 0, 0]


async def test_one_that_is_found_to_be_gone_or_to_hang_is_left_out(children, around, fork):
    around.spec = dataclasses.replace(around.spec, restart=RestartPolicy(mode="temporary"))
    await children.start([0, 1], around)

    def save(process):
        if process is fork.processes[0]:
            process.end(1)
            return None
        children[1].state = "hung"
        return fails()

    fork.answers["checkpoint"] = save
    await children.checkpoint([0, 1])
    children[1].state = "running"
    fork.answers["checkpoint"] = fails
    with pytest.raises(ClusterError, match="code of the user"):
        await children.checkpoint([0, 1])
    with pytest.raises(ContainerDied):
        await children.checkpoint()


async def test_those_that_retire_refuse_calls_all_at_once(children, around, fork):
    await children.start([0, 1, 2], around)
    both = asyncio.Barrier(2)

    async def retire(process, timeout):
        await both.wait()
        return [], None

    fork.answers["retire"] = retire
    async with asyncio.timeout(BOUND):
        assert await children.retire([0, 2], SHORT) == []
    assert [process.exited.done() for process in fork.processes] == [True, False, True]
    assert await children.end([0, 2, 7], SHORT) == {0: 0, 2: 0}
    assert 0 not in children


async def test_states_that_could_not_be_had_are_told(children, around, fork):
    await children.start([0, 1], around)
    fork.answers["retire"] = lambda process, _: (
        (["7"], "a traceback") if process is fork.processes[1] else ([], None)
    )
    [problem] = await children.retire([0, 1], SHORT)
    assert "Container 1" in problem
    assert "'7'" in problem
