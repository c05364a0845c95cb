"""Codecs, serializers and clocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, assert_type

import arrow

import aiomas
from aiomas import codecs
from aiomas.codecs import Codec, serializable


@serializable
class Point:
    def __init__(self, x: int, y: int) -> None:
        self.x = x
        self.y = y


@serializable(repr=False)
class Silent:
    def __init__(self, x: int) -> None:
        self.x = x


assert_type(Point(1, 2), Point)
assert_type(Point(1, 2).x, int)
assert_type(Silent(1), Silent)
Point("1", 2)  # type: ignore[arg-type]


class Number:
    def __init__(self, value: int) -> None:
        self.value = value


def serialize(number: Number) -> int:
    return number.value


codec: Codec = codecs.JSON()
codec.add_serializer(Number, serialize, Number)
codec.add_serializer(str, serialize, Number)  # type: ignore[arg-type]
codec.add_serializer(*aiomas.util.arrow_serializer())
assert_type(codec.encode([1, 2]), bytes)
assert_type(codec.decode(b""), Any)


class Reversed(codecs.JSON):
    """A codec of a user."""

    def encode(self, data: Any) -> bytes:
        return super().encode(data)[::-1]

    def decode(self, data: bytes) -> Any:
        return super().decode(data[::-1])


kinds: list[type[Codec]] = [codecs.JSON, codecs.MsgPack, codecs.MsgPackBlosc, Reversed]
Codec()  # type: ignore[abstract]


async def clocks(clock: aiomas.clocks.BaseClock) -> None:
    assert_type(clock.time(), float)
    assert_type(clock.utcnow(), arrow.Arrow)
    assert_type(await clock.sleep(1), None)
    assert_type(await clock.sleep(1, "result"), str)
    assert_type(clock.sleep_until(arrow.utcnow(), 5), asyncio.Future[int])
    clock.call_in(1, print, "x").cancel()
    clock.call_at(arrow.utcnow(), print).cancel()
    clock.sleep("1")  # type: ignore[call-overload]


external = aiomas.ExternalClock("2020-01-01", init_time=5)
external.set_time(10)
external.set_time("10")  # type: ignore[arg-type]
aiomas.AsyncioClock().set_time(5)  # type: ignore[attr-defined]


async def result() -> int:
    return 5


assert_type(aiomas.run(result()), int)
task: asyncio.Future[int] = aiomas.create_task(result())
factory: Callable[..., Any] = aiomas.util.obj_from_str("module:name")
