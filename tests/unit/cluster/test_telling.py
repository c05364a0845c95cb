"""What a container is told in any case."""

from __future__ import annotations

import asyncio
import types
from typing import Any

import pytest

from aiomas.cluster.telling import Telling
from aiomas.exceptions import ClusterError, ContainerDied
from tests.unit.cluster.fakes import BOUND, until

SHORT = 0.05  # seconds


class FakeLife(types.SimpleNamespace):
    index, pid = 3, 1234

    async def call(self, method, *args):
        self.calls.append((method, *args))
        await self.listens.wait()
        if self.error is not None:
            raise self.error


@pytest.fixture
def life() -> Any:
    return FakeLife(calls=[], listens=asyncio.Event(), error=None)


@pytest.fixture
async def telling():
    telling = Telling()
    yield telling
    await telling.close()
    assert not telling._tasks


async def test_one_that_listens_is_told_at_once(telling, life):
    life.listens.set()
    await telling.tell(life, "method", 1, 2, timeout=BOUND)
    assert life.calls == [("method", 1, 2)]
    assert not telling._tasks


async def test_one_that_does_not_listen_keeps_nobody_and_is_told_once(telling, life):
    with pytest.raises(ClusterError, match=r"Container 3 \(pid 1234\) has not answered method\(\)"):
        await telling.tell(life, "method", timeout=SHORT)
    assert len(telling._tasks) == 1
    life.listens.set()
    await until(lambda: not telling._tasks)
    assert life.calls == [("method",)]


@pytest.mark.parametrize("error", [ClusterError("a bug"), ContainerDied("it is dead", 3, 1)])
async def test_errors_are_of_whoever_waits_for_them(telling, life, error, caplog):
    life.listens.set()
    life.error = error
    with pytest.raises(type(error), match=str(error)):
        await telling.tell(life, "method", timeout=BOUND)


@pytest.mark.parametrize(
    ("error", "logged"), [(ClusterError("a bug"), 1), (ContainerDied("it is dead", 3, 1), 0)]
)
async def test_later_errors_are_in_the_log_unless_others_tell_of_them(
    telling, life, error, logged, caplog
):
    life.error = error
    with pytest.raises(ClusterError):
        await telling.tell(life, "method", timeout=SHORT)
    life.listens.set()
    await until(lambda: not telling._tasks)
    assert len(caplog.records) == logged
