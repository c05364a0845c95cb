"""What both test modules here need to know about codecs, ours and independent ones."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

import aiomas
import aiomas.codecs
import aiomas.util

from .vectors import Point, remote_serializer

CODECS: dict[str, type[aiomas.codecs.Codec]] = {
    "JSON": aiomas.codecs.JSON,
    "MsgPack": aiomas.codecs.MsgPack,
    "MsgPackBlosc": aiomas.codecs.MsgPackBlosc,
}


def need(codec: str) -> None:
    """Skip the test where the library below *codec* is not installed."""
    if codec == "MsgPackBlosc":
        pytest.importorskip("blosc")


def make_codec(codec: str) -> aiomas.codecs.Codec:
    """Return our *codec* with the serializers that a container's connection would have."""
    need(codec)
    instance = CODECS[codec]()
    instance.add_serializer(*aiomas.util.arrow_serializer())
    instance.add_serializer(*Point.__serializer__())
    instance.add_serializer(*remote_serializer())
    return instance


def payload_of(frame: bytes) -> bytes:
    """Return the payload of *frame*, whose header must announce its length."""
    (length,) = struct.unpack("!L", frame[:4])
    assert length == len(frame) - 4
    return frame[4:]


def unpacked(codec: str, frame: bytes) -> bytes:
    """Return the payload of *frame* without the compression, whose result differs by version."""
    payload = payload_of(frame)
    if codec != "MsgPackBlosc":
        return payload
    import blosc

    contents: bytes = blosc.decompress(payload)
    return contents


def read_independently(codec: str, frame: bytes) -> Any:
    """Return the message in *frame* as a library that is not ours reads it, with lists."""
    payload = unpacked(codec, frame)
    if codec == "JSON":
        return json.loads(payload)
    import msgpack

    return msgpack.unpackb(payload, strict_map_key=False)


def write_independently(codec: str, message: Any) -> bytes:
    """Return the frame of *message* as a library that is not ours writes it."""
    if codec == "JSON":
        payload = json.dumps(message).encode()
    else:
        import msgpack

        payload = msgpack.packb(message)
    if codec == "MsgPackBlosc":
        import blosc

        payload = blosc.compress(payload, 8)
    return struct.pack("!L", len(payload)) + payload
