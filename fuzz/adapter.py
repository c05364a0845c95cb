"""The only place here that knows how codecs and connections of the library are made."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from aiomas import Limits, _dispatch, _protocol
from aiomas.channel import Channel, ChannelProtocol
from aiomas.codecs import (
    JSON,
    Codec,
    MsgPack,
    MsgPackBlosc,
    Serializer,
    dataclass_serializer,
    datetime_serializer,
    decimal_serializer,
    enum_serializer,
    make_codec,
    numpy_serializer,
    serializable,
    uuid_serializer,
)
from aiomas.exceptions import DecodeError, SerializationError
from aiomas.routing import Service, expose
from aiomas.rpc import RpcClient

__all__ = [
    "CODECS",
    "Connection",
    "DecodeError",
    "SerializationError",
    "codec_with_types",
    "sample_values",
]

MAX_FRAME = 64 * 1024
"""The largest message, in bytes: little enough that going over it is likely, and cheap."""

CODECS: dict[str, type[Codec]] = {"json": JSON, "msgpack": MsgPack, "msgpack-blosc": MsgPackBlosc}


class Colour(enum.Enum):
    """An enumeration that travels."""

    RED = 1
    BLUE = 2


@dataclasses.dataclass(frozen=True)
class Point:
    """A dataclass that travels, and can be the key of a map if what is in it can."""

    x: Any
    y: Any


@serializable
class Pair:
    """A class of the old way to travel."""

    def __init__(self, left: Any, right: Any = None) -> None:
        self.left = left
        self.right = right


class Odd:
    """A class of a user that fails in every way that its input picks."""

    def __init__(self, value: Any) -> None:
        self.value = {"a": 1}[value] if isinstance(value, str) else 1 // value

    def __hash__(self) -> int:
        return {1: 1}[self.value]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Odd)


def _odd_serializer() -> Serializer:
    return Odd, lambda odd: odd.value, Odd


SERIALIZERS: list[Callable[[], Serializer]] = [
    datetime_serializer,
    decimal_serializer,
    uuid_serializer,
    enum_serializer(Colour),
    dataclass_serializer(Point),
    Pair.__serializer__,  # type: ignore[attr-defined]
    _odd_serializer,
    numpy_serializer,
]


def codec_with_types(name: str) -> Codec:
    """Return a codec that knows all ready-made serializers, and some of a user."""
    serializers = SERIALIZERS[:-1] if name == "json" else SERIALIZERS  # it has no bytes
    codec = make_codec(CODECS[name], serializers)
    codec.max_size = MAX_FRAME
    return codec


def sample_values(name: str) -> Iterator[Any]:
    """Yield a value of each type that :func:`codec_with_types` knows and that is imported late."""
    yield datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)
    yield decimal.Decimal("1E-7")
    yield uuid.UUID(int=0)
    if name != "json":
        import numpy as np  # noqa: PLC0415 - 100 ms that the other targets need not spend

        yield np.zeros(1)


def codec_of_connection(name: str) -> Codec:
    """Return a codec as a connection has one, but for remote objects (with the number 1)."""
    codec = make_codec(CODECS[name], [_odd_serializer])
    codec.max_size = MAX_FRAME
    return codec


class Leaf:
    """What is served below the root."""

    router = Service()

    @expose
    def twice(self, value: Any) -> list[Any]:
        """Return an argument two times."""
        return [value, value]


class Tree:
    """What is served: something of each kind that a dispatcher treats in its own way."""

    router = Service(["leaf"])

    def __init__(self) -> None:
        self.leaf = Leaf()
        self.close: Callable[[], object]

    @expose
    def echo(self, *args: Any, **kwargs: Any) -> Any:
        """Return all arguments."""
        return [args, kwargs]

    @expose
    def fail(self, text: Any) -> None:
        """Raise something that holds an argument."""
        raise KeyError(text)

    @expose
    def give(self) -> Leaf:
        """Return an object, which travels as its path."""
        return self.leaf

    @expose
    def odd(self, size: int) -> Any:
        """Return what cannot be encoded, and whose description is as long as is wished for."""
        return {"x" * min(size, 2 * MAX_FRAME)}

    @expose
    def grow(self, value: Any, times: int) -> Any:
        """Return what may be too large for a message."""
        return [value] * min(times, MAX_FRAME)

    @expose
    def hang_up(self) -> None:
        """Close the connection while it is being served."""
        self.close()

    @expose
    async def later(self, value: Any) -> Any:
        """Return an argument, some turns later."""
        for _ in range(3):
            await asyncio.sleep(0)
        return value

    @expose
    async def odd_later(self, size: int) -> Any:
        """Do as :meth:`odd`, a turn later."""
        await asyncio.sleep(0)
        return self.odd(size)

    @expose
    async def fail_later(self, text: Any) -> None:
        """Raise something that holds an argument, a turn later."""
        await asyncio.sleep(0)
        raise ValueError(text)

    @expose
    async def cancelled(self) -> None:
        """End as a task that somebody cancelled."""
        raise asyncio.CancelledError

    @expose
    async def call_back(self, remote: Any, value: Any) -> Any:
        """Call a function of an object that the peer passed."""
        return await remote.call(value)

    @expose
    async def call_back_twice(self, remote: Any) -> Any:
        """Call two functions of such an object, and give one of them up."""
        first, second = remote.first(self.leaf), remote.second()
        first.cancel()
        return await second


class Connection:
    """One end of a connection that serves a :class:`Tree`.

    Args:
        codec: the name of the codec.
        transport: what it writes to.
        loop: the event loop.
    """

    def __init__(
        self, codec: str, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.client: RpcClient
        for log in (_dispatch.troubles, _protocol.bad_peers):
            log.clear()
        self.protocol = ChannelProtocol(
            codec_of_connection(codec),
            self._connected,
            loop=loop,
            limits=Limits(max_frame=MAX_FRAME),
        )
        self.protocol.connection_made(transport)

    def _connected(self, channel: Channel) -> None:
        tree = Tree()
        tree.close = channel.close
        self.client = RpcClient(channel, tree)

    def call(self) -> asyncio.Future[Any]:
        """Make a call of our own."""
        return self.client.remote.some.function(1, key=[2.5, None, "x"])

    def close(self) -> None:
        """Close the connection from this end."""
        self.client.close()

    @property
    def open(self) -> bool:
        """Whether calls can be made."""
        return self.client.channel.is_open

    @property
    def last_words(self) -> bytes | None:
        """What is said to a peer with another codec, before the connection is closed."""
        frame = self.protocol.session.last_words
        return None if frame is None else frame[4:]

    @property
    def pending(self) -> int:
        """How many calls of our own have no reply."""
        return len(self.protocol.session.pending)

    @property
    def serving(self) -> int:
        """How many calls of the peer are being served."""
        dispatcher = self.client.dispatcher
        return 0 if dispatcher is None else len(dispatcher.handlers)

    @property
    def ended(self) -> bool:
        """Whether everybody who waits for the end of the connection knows of it."""
        service = self.client.service
        return service is None or service.done()
