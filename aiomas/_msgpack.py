"""Reads MessagePack that comes from somebody who may mean harm; knows nothing of codecs.

- Depth: lists and maps in each other are counted before any of them is made.
- Keys: hashes of tuples and numbers are known to everybody, so a peer can choose keys that all go
  to the same place of a dictionary; each insertion then looks at all keys before it.  Text and
  bytes are safe: their hashes have a secret part (unless ``PYTHONHASHSEED`` is set).  So keys are
  looked at before a dictionary is made of them: only plain values are taken, and many numbers only
  after the dictionary's search for free places was played through.
- Content: if it is good MessagePack but no good value, whose it was can still be read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from itertools import chain
from typing import Any

import msgpack
from msgpack.exceptions import StackError

_KEY_TYPES = frozenset({str, int, float, bool, bytes, type(None)})
_SALTED = frozenset({str, bytes})

# So many numbers are in a dictionary after a millisecond, however they collide.
_FEW = 2048
# Steps after the first.  Keys that nobody chose need less than one on average; multiples of a large
# power of two, whose differences are in the upper bits alone, up to ten.
_STEPS_PER_KEY = 16
# What CPython (3.7 and later) does in Objects/dictobject.c.
_SMALLEST_TABLE = 8
_PERTURB_SHIFT = 5


def unpack(packed: bytes | memoryview) -> Any:
    """Return the plain value that *packed* stands for, with tuples for arrays.

    Raises:
        ValueError: there is a map with keys that are no plain values, or were made to collide.
        Exception: what msgpack raises: *packed* is no MessagePack, or nothing that Python can hold.
    """
    try:
        return msgpack.unpackb(packed, use_list=False)
    except Exception as exc:  # noqa: BLE001 - looked at there
        return unpack_checked(packed, exc)


def unpack_checked(packed: bytes | memoryview, exc: Exception) -> Any:
    """Do the same as :func:`unpack`, for what the library has refused with *exc* at first.

    It takes no keys but text and bytes unless it is told to.
    """
    if not isinstance(exc, ValueError) or "strict_map_key" not in str(exc):
        raise exc
    return msgpack.unpackb(
        packed, use_list=False, strict_map_key=False, object_pairs_hook=_checked_dict
    )


def _checked_dict(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    types = {type(key) for key, _ in pairs}
    if not types <= _KEY_TYPES:
        names = ", ".join(sorted(cls.__name__ for cls in types - _KEY_TYPES))
        msg = f"a key of a map may be text, bytes, a number or None, but here is: {names}"
        raise ValueError(msg)
    if len(pairs) > _FEW and not types <= _SALTED:
        _check_numbers([key for key, _ in pairs if type(key) not in _SALTED])
    return dict(pairs)


def _check_numbers(keys: list[Any]) -> None:
    """Raise ValueError if a dictionary of *keys* would take much longer than others to make."""
    table = _SMALLEST_TABLE
    while table * 2 // 3 < len(keys):
        table *= 2
    # A dictionary that grows puts all that it holds into a table of the next size, so a table
    # that is passed on the way may be what the keys were made for.  Small ones do not matter.
    while table > _FEW:
        _fill(table, keys[: table * 2 // 3])
        table //= 2


def _fill(table: int, keys: list[Any]) -> None:
    mask = table - 1
    taken = bytearray(table)
    steps = _STEPS_PER_KEY * len(keys)
    for key in keys:
        perturb = hash(key) & 0xFFFF_FFFF_FFFF_FFFF  # as size_t
        place = perturb & mask
        while taken[place]:
            perturb >>= _PERTURB_SHIFT
            place = (place * 5 + perturb + 1) & mask
            steps -= 1
            if not steps:
                msg = f"the {len(keys)} keys of a map collide, as if they were chosen to"
                raise ValueError(msg)
        taken[place] = True


def levels_exceed(limit: int, packed: bytes | memoryview, value: Any) -> bool:
    """Return whether there are more than *limit* levels of lists and maps in *packed*.

    Args:
        limit: the number of levels.
        packed: what is looked at in the end, if nothing else tells.
        value: what `unpack` made of it: tuples, dictionaries and scalars.
    """
    size = len(packed)
    if size <= limit or (size <= _SHORT and _count_openers(packed) <= limit):
        return False
    if _is_shallow(limit, size, value):
        return False
    if _SHORT < size <= _LARGE and _count_openers(packed) <= limit:
        return False
    # Looking at each value takes longer than it took to decode it, but the library can count: it
    # has a limit of its own, which is no parameter.  So it is given lists around the message, as
    # many as bring that limit down to ours.
    try:
        _skip(b"\x91" * (_deepest() - limit), packed)
    except StackError:
        return True
    return False


def is_short_and_shallow(limit: int, packed: bytes) -> bool:
    """Return whether it takes little time to see that there are at most *limit* lists and maps."""
    return len(packed) <= _MEDIUM and _count_openers(packed) <= limit


def may_hold_key(key: bytes, packed: bytes | memoryview, value: Any) -> bool:
    """Return whether a map in *value* can have *key*, which is text; if in doubt, it can.

    Args:
        key: the key, encoded.
        packed: what `unpack` made *value* of.
        value: tuples, dictionaries and scalars.
    """
    if len(packed) <= _LARGE:
        # As `key in` would, which raises an error inside, and formats it, before it looks.
        return bool(bytes(packed).partition(key)[1])
    # Looking through a large scalar takes longer than it took to decode it.
    containers = _containers(value, _FEW_ITEMS)
    if containers is None:
        return key in bytes(packed)
    name = key.decode()
    return any(type(container) is dict and name in container for container in containers)


def _containers(value: Any, most: int) -> list[Any] | None:
    """Return the lists and maps in *value*; ``None`` if there are more than *most* items to see."""
    containers = [value] if type(value) in _CONTAINERS else []
    seen = 0
    for container in containers:
        seen += len(container)
        if seen > most:
            return None
        items = container.values() if type(container) is dict else container
        containers += [item for item in items if type(item) in _CONTAINERS]
    return containers


_FEW_ITEMS = 256  # of which all can be looked at


def _is_shallow(limit: int, size: int, value: Any) -> bool:
    """Return whether a message has at most *limit* lists and maps, unless it takes long to see.

    Most messages are few values, or many numbers, or large text or bytes, which this neither goes
    through nor copies.
    """
    rest = size - limit  # in bytes; if so many are no list or map, *limit* are left for those
    looks = _LOOKS + size // _BYTES_PER_LOOK
    containers = [value] if type(value) in _CONTAINERS else []
    all_seen = True
    for container in containers:
        parts: Iterable[Any] = container
        looks -= len(container)
        if type(container) is dict:
            if looks < 0:
                return False
            parts = chain(container, container.values())
            # If a key came twice, only its last value is here.
            all_seen = all_seen and not container
        elif looks < 0:
            if not _are_numbers(container):
                return False
            parts = ()
            looks += len(container)
            rest -= len(container)
        for part in parts:
            kind = type(part)
            if kind is str or kind is bytes:
                rest -= len(part)
            elif kind is tuple or kind is dict:
                containers.append(part)
        if rest <= 0:
            return True
    return all_seen and len(containers) <= limit


_CONTAINERS = frozenset({tuple, dict})
_NUMBERS = frozenset({int, float})
# To look at a value takes as long as to let the library go through some hundred bytes.
_LOOKS = 16
_BYTES_PER_LOOK = 256


def _are_numbers(values: tuple[Any, ...]) -> bool:
    if type(values[0]) not in _NUMBERS:
        return False
    try:
        sum(values)  # takes a fifth of the time of asking each one for its type
    except TypeError:
        return False
    return True


# In bytes: up to where counting is faster than a look at the values, and where it always is slow.
_SHORT = 256
_MEDIUM = 2048
_LARGE = 4096
_NO_OPENERS = bytes({*range(256)} - {*range(0x80, 0xA0)} - {*range(0xDC, 0xE0)})


def _count_openers(packed: bytes | memoryview) -> int:
    """Return how many bytes there are with which a list or map could begin."""
    return len(bytes(packed).translate(None, _NO_OPENERS))


@functools.cache
def _deepest() -> int:
    """Return how many lists in each other msgpack takes."""
    taken, refused = 1, 1 << 16
    while refused - taken > 1:
        levels = (taken + refused) // 2
        try:
            _skip(b"\x91" * levels, b"\xc0")
        except (StackError, RecursionError):
            refused = levels
        else:
            taken = levels
    return taken


def _skip(*parts: bytes | memoryview) -> None:
    """Go through *parts* without making anything of them."""
    size = sum(map(len, parts))
    unpacker = msgpack.Unpacker(max_buffer_size=size, read_size=size)
    for part in parts:
        unpacker.feed(part)
    unpacker.skip()


def head_of(packed: bytes) -> Any:
    """Return the first two parts of a message of three, whose last part cannot be represented.

    ``None`` if these bytes are no MessagePack: then nothing in them can be relied on.
    """
    unpacker = msgpack.Unpacker(use_list=False, max_buffer_size=len(packed))
    unpacker.feed(packed)
    try:
        if unpacker.read_array_header() != _MESSAGE_PARTS:
            return None
        head = unpacker.unpack(), unpacker.unpack(), None
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        return None
    try:
        unpacker.skip()
    except StackError:  # whether the rest is right, nobody can tell
        return head
    except (ValueError, msgpack.UnpackException):
        return None
    return head if unpacker.tell() == len(packed) else None


_MESSAGE_PARTS = 3
