"""Starting functions: what becomes of a call whose time is up before its task has begun."""

from __future__ import annotations

import asyncio
import sys

import pytest

from aiomas import rpc
from aiomas._dispatch import Dispatcher
from aiomas.exceptions import Outcome


class Service:
    router = rpc.Service()

    def __init__(self) -> None:
        self.started = False

    @rpc.expose
    async def run(self):
        self.started = True


class Source:
    paused = False
    extended = True
    peer = peer_url = None


class Timer:
    def cancel(self) -> None:
        pass


class Request:
    message_id = 0
    one_way = again = False
    content: tuple[str, tuple, dict] = ("run", (), {})
    source = Source()

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.refusal: asyncio.Future[tuple] = asyncio.get_running_loop().create_future()

    def refuse(self, kind, text, outcome=Outcome.NOT_EXECUTED):
        self.refusal.set_result((kind, outcome))


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tasks start at once there")
async def test_time_that_is_up_before_the_task_begins_is_a_matter_of_the_deadline(monkeypatch):
    loop = asyncio.get_running_loop()
    service = Service()
    dispatcher = Dispatcher(service.router)
    timers: list = []
    # uvloop runs timers that are due before the first step of tasks, asyncio's own loop after it.

    def call_at(_, *timer):
        timers.append(timer)
        return Timer()

    monkeypatch.setattr(loop, "call_at", call_at)
    request = Request(loop.time() + 10)

    dispatcher(request)
    for callback, *args in timers:
        callback(*args)

    assert await request.refusal == ("deadline", Outcome.NOT_EXECUTED)
    assert not service.started
