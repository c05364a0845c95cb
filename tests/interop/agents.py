"""Our agent, the twin of the old one in `peers/aiomas_2/container.py`."""

from __future__ import annotations

import asyncio
from typing import Any

import aiomas
import aiomas.codecs


@aiomas.codecs.serializable
class Point:
    def __init__(self, x: int, y: str) -> None:
        self.x = x
        self.y = y


def point_serializer() -> Any:
    cls: Any = Point  # the decorator's methods are unknown to type checkers
    return cls.__serializer__()


class Meter:
    router = aiomas.rpc.Service()

    @aiomas.expose
    def read(self) -> int:
        return 4


class NewAgent(aiomas.Agent):
    router = aiomas.rpc.Service(["meter"])

    def __init__(self, container: aiomas.Container) -> None:
        self.meter = Meter()
        super().__init__(container)
        self.kept: Any = None
        self.waiting = 0
        self.all_there = asyncio.Event()
        self.hanging = asyncio.Event()
        self.let_go = asyncio.Event()
        self.returned = asyncio.Event()

    @aiomas.expose
    def add(self, a: int, b: int = 0) -> int:
        return a + b

    @aiomas.expose
    async def later(self, value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    @aiomas.expose
    def nothing(self) -> None:
        pass

    @aiomas.expose
    def echo(self, value: Any) -> Any:
        return value

    @aiomas.expose
    def kind(self, value: Any) -> str:
        return type(value).__name__

    @aiomas.expose
    def fail(self) -> None:
        raise ValueError("boom")

    @aiomas.expose
    async def fail_later(self) -> None:
        await asyncio.sleep(0)
        raise ValueError("boom")

    @aiomas.expose
    async def be_cancelled(self) -> None:
        raise asyncio.CancelledError

    def hidden(self) -> str:
        return "secret"

    @aiomas.expose
    def something_strange(self) -> object:
        return object()

    @aiomas.expose
    def myself(self) -> NewAgent:
        return self

    @aiomas.expose
    def get_meter(self) -> Meter:
        return self.meter

    @aiomas.expose
    def point(self, point: Point) -> Point:
        return Point(point.x + 1, point.y + "!")

    @aiomas.expose
    def next_day(self, date: Any) -> Any:
        return date.shift(days=1)

    @aiomas.expose
    async def call_back(self, caller: Any, number: int) -> Any:
        return await caller.add(number, b=1)

    @aiomas.expose
    async def call_back_and_fail(self, caller: Any) -> None:
        await caller.fail()

    @aiomas.expose
    async def read_meter(self, meter: Any) -> Any:
        return await meter.read()

    @aiomas.expose
    def keep(self, caller: Any) -> None:
        self.kept = caller

    @aiomas.expose
    async def meet(self, number: int, of: int) -> int:
        """Return when so many are here at the same time."""
        self.waiting += 1
        if self.waiting == of:
            self.all_there.set()
        await self.all_there.wait()
        return number

    @aiomas.expose
    async def hang(self) -> None:
        self.hanging.set()
        await self.let_go.wait()
        self.returned.set()
