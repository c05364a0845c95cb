"""Codecs of users on channels: they get bytes, however a message was received."""

from __future__ import annotations

import asyncio
import json
import random
import zlib
from typing import Any

import pytest

from aiomas.channel import open_connection, start_server
from aiomas.codecs import JSON, Codec, MsgPack, MsgPackBlosc
from tests.ids import plain

LARGE = 1_000_000  # bytes, of which some arrive after it is known that there will be so many


class Own(Codec):
    """What bytes have and views have not: a method `decode`."""

    def encode(self, data: Any) -> bytes:
        return json.dumps(data, default=self.serialize_obj).encode()

    def decode(self, data: bytes) -> Any:
        got.append(type(data))
        return json.loads(data.decode(), object_hook=self.deserialize_obj)


class _Noting(Codec):
    """Notes what the codec gets that this is mixed with."""

    def decode_message(self, data: Any) -> Any:
        got.append(type(data))
        return super().decode_message(data)


class OwnJSON(_Noting, JSON):
    pass


class OwnMsgPack(_Noting, MsgPack):
    pass


class OwnBlosc(_Noting, MsgPackBlosc):
    pass


class Packed(MsgPack):
    """Changes both directions of one that it is based on."""

    def encode(self, data: Any) -> bytes:
        return zlib.compress(super().encode(data), level=0)

    def decode_message(self, data: Any) -> Any:
        got.append(type(data))
        return super().decode_message(zlib.decompress(data))


class PackedByDecode(MsgPack):
    """The same, in the methods that every codec has."""

    def encode(self, data: Any) -> bytes:
        return zlib.compress(super().encode(data), level=0)

    def decode(self, data: bytes) -> Any:
        got.append(type(data))
        return super().decode(zlib.decompress(data))


class BloscByDecode(MsgPackBlosc):
    def encode(self, data: Any) -> bytes:
        return b"!" + super().encode(data)

    def decode(self, data: bytes) -> Any:
        got.append(type(data))
        return super().decode(data[1:])


class JsonByDecode(JSON):
    def encode(self, data: Any) -> bytes:
        return b"!" + super().encode(data)

    def decode(self, data: bytes) -> Any:
        got.append(type(data))
        return super().decode(data[1:])


def _text(size: int) -> str:
    """Return text that cannot be compressed to less than half."""
    return random.Random(size).randbytes(size).hex()[:size]


KINDS = [Own, OwnJSON, OwnMsgPack, OwnBlosc, Packed, PackedByDecode, BloscByDecode, JsonByDecode]

got: list[type] = []
"""The types of what was decoded."""


@pytest.fixture(autouse=True)
def nothing_yet():
    got.clear()
    yield
    got.clear()


@pytest.fixture(params=KINDS, ids=plain)
async def client(request):
    """A channel with that codec; the other end sends all back."""
    served = []

    def connected(channel):
        served.append(channel)
        channel.serve(lambda request: request.reply(request.content))

    server = await start_server(("127.0.0.1", 0), connected, codec=request.param)
    client = await open_connection(server.sockets[0].getsockname(), codec=request.param)
    yield client
    for channel in (client, *served):
        await channel.close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("size", [1, 10_000, LARGE])
async def test_they_get_bytes_at_both_ends(client, size):
    text = _text(size)
    got.clear()  # what the two ends had to agree on

    assert await client.send(text) == text

    assert got == [bytes, bytes]


async def test_they_get_bytes_whatever_came_before(client):
    texts = [_text(size) for size in (1, LARGE, 2, LARGE, 3)]
    got.clear()

    assert await asyncio.gather(*map(client.send, texts)) == texts

    assert set(got) == {bytes}
    assert len(got) == 2 * len(texts)
