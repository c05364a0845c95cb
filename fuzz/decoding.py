"""Codecs: any bytes are a value or a DecodeError, and plain values survive another round.

For ``msgpack-blosc``, whose compressed blocks libFuzzer cannot make up, the first byte says what
becomes of the rest: odd, it is the message; even, it is compressed first, and three bytes (a place,
two bytes to write there) damage the result if the first byte is not ``0``.
"""

from __future__ import annotations

import functools
import reprlib
from typing import Any

from aiomas.codecs import Codec
from fuzz.adapter import DecodeError, SerializationError, codec_with_types, sample_values
from fuzz.checks import Finding, check

PLAIN = (type(None), bool, int, float, str, bytes)
DEPTH = 50
"""Levels down to which values are compared; deeper ones may be accepted and not be sent back."""


@functools.cache
def _codec(name: str) -> Codec:
    return codec_with_types(name)


@functools.cache
def prepare(name: str) -> None:
    """Have the codec *name* import all that it imports once, which takes more than many inputs."""
    codec = _codec(name)
    for value in sample_values(name):
        codec.decode(codec.encode(value))


def decode(name: str, data: bytes) -> None:
    """Decode *data* with the codec *name*."""
    codec = _codec(name)
    if name == "msgpack-blosc":
        data = _compressed(codec, data)
    try:
        value = codec.decode(data)
    except DecodeError as exc:
        str(exc)  # can be made
        _check_message(codec, data)
        return
    check(not isinstance(value, DecodeError), "an error was returned, not raised")
    _check_message(codec, data)
    if _is_plain(value):
        _check_round(codec, value)


def _check_message(codec: Codec, data: bytes) -> None:
    try:
        message, failure = codec.decode_message(data)
    except DecodeError:
        return
    if failure is None:
        return
    check(isinstance(failure, DecodeError), f"{failure!r} was noted")
    # What one message left behind must not be found in the next one.
    after = codec.decode_message(codec.encode([0, 1, "x"]))
    shown = reprlib.repr(message)  # which stands any nesting
    check(after[1] is None, f"{after[1]!r} was kept from the message before, {shown:.100}")


def _check_round(codec: Codec, value: Any) -> None:
    try:
        again = codec.decode(codec.encode(value))
    except (SerializationError, DecodeError) as exc:
        msg = f"{value!r:.500} was received and cannot travel again: {exc}"
        raise Finding(msg) from exc
    check(_same(value, again), f"{value!r:.500} became {again!r:.500}")


def _is_plain(value: Any, depth: int = DEPTH) -> bool:
    if depth == 0:
        return False
    if isinstance(value, list | tuple):
        return all(_is_plain(part, depth - 1) for part in value)
    if isinstance(value, dict):
        return all(
            _is_plain(key, depth - 1) and _is_plain(part, depth - 1) for key, part in value.items()
        )
    return type(value) in PLAIN


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and one != one:  # noqa: PLR0124 - only NaN is not itself
        return type(other) is float and other != other  # noqa: PLR0124
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return (
            len(one) == len(other)
            and all(map(_same, one, other))
            and all(map(_same, one.values(), other.values()))
        )
    return bool(one == other)


def _compressed(codec: Any, data: bytes) -> bytes:
    if not data or data[0] % 2:
        return data[1:]
    if data[0] == ord("0"):
        compressed: bytes = codec._blosc.compress(data[1:])  # noqa: SLF001
        return compressed
    damaged = bytearray(codec._blosc.compress(data[4:]))  # noqa: SLF001
    for offset, value in enumerate(data[2:4]):
        damaged[(data[1] + offset) % len(damaged)] = value
    return bytes(damaged)
