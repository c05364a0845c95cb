"""Reading MessagePack of strangers: depth, keys, and what is left of a message with bad content."""

from __future__ import annotations

import math
import random
import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomas import _msgpack


def colliding_numbers(table: int) -> list[int]:
    """Return numbers that fill two thirds of a dictionary with *table* places, slowly.

    Most of them lie in one chain of places: the order in which a dictionary goes on to look after
    the upper bits of a hash are used up. The others first meet taken places only, and then go
    along the chain from its beginning, each to its very end.
    """
    mask = table - 1
    count = table * 2 // 3
    chain = [0]
    while len(chain) < count * 3 // 4:
        chain.append((chain[-1] * 5 + 1) & mask)
    beginning = set(chain[: len(chain) // 2])
    taken = set(chain)
    chooser = random.Random(1)
    others: set[int] = set()
    while len(chain) + len(others) < count:
        number = chooser.choice(chain) + table * chooser.randrange(1, 64)
        perturb, place = number, number & mask
        while perturb and place in taken:
            perturb >>= 5
            place = (place * 5 + perturb + 1) & mask
        if place in beginning:
            others.add(number)
    return [*chain, *sorted(others)]


def packed_map(keys) -> bytes:
    keys = list(keys)
    packer = msgpack.Packer()
    return packer.pack_map_header(len(keys)) + b"".join(
        packer.pack(key) + packer.pack(None) for key in keys
    )


class TestKeys:
    @pytest.mark.parametrize(
        "key", ["a", b"a", 1, -1, 2**64 - 1, -(2**63), 1.5, math.inf, True, False, None]
    )
    def test_plain_keys_are_kept(self, key):
        assert _msgpack.unpack(packed_map([key, "other"])) == {key: None, "other": None}

    @pytest.mark.parametrize(
        ("key", "name"),
        [
            ((1, 2), "tuple"),
            ((), "tuple"),
            ({"a": 1}, "dict"),
            (msgpack.Timestamp(1, 2), "Timestamp"),
            (msgpack.ExtType(5, b"x"), "ExtType"),
        ],
    )
    def test_other_keys_are_refused_by_name(self, key, name):
        with pytest.raises(ValueError, match=rf"a key of a map .* here is: {name}$"):
            _msgpack.unpack(packed_map([1, key]))

    def test_no_dictionary_is_made_of_32768_tuples_with_one_hash(self):
        # Numbers that are equal modulo 2**61 - 1 have the same hash, and so have tuples of them.
        base = 2**61 - 1
        keys = [tuple(base * (n >> bit & 1) for bit in range(15)) for n in range(32_768)]
        assert len({hash(key) for key in keys}) == 1  # a dictionary of them takes nine seconds

        with pytest.raises(ValueError, match="tuple"):
            _msgpack.unpack(packed_map(keys))

    @pytest.mark.parametrize("as_float", [False, True])
    def test_numbers_that_collide_are_refused(self, as_float):
        # Of such keys, 27,262 (in a table of 65,536 places) take 0.7 s to insert rather than
        # 3 ms, and a million of them would take a quarter of an hour.
        numbers = [float(n) if as_float else n for n in colliding_numbers(8192)]

        with pytest.raises(ValueError, match=rf"the {len(numbers)} keys of a map collide"):
            _msgpack.unpack(packed_map(numbers))

    def test_numbers_that_collide_only_while_a_dictionary_grows_are_refused(self):
        numbers = [*colliding_numbers(8192), *range(10**6, 10**6 + 20_000)]

        with pytest.raises(ValueError, match="collide"):
            _msgpack.unpack(packed_map(numbers))

    def test_numbers_that_collide_are_found_between_text(self):
        keys = [key for n in colliding_numbers(8192) for key in (n, str(n))]

        with pytest.raises(ValueError, match="collide"):
            _msgpack.unpack(packed_map(keys))

    @pytest.mark.parametrize(
        "keys",
        [
            range(20_000),
            range(0, -20_000, -1),
            range(1_700_000_000, 1_700_000_000 + 900 * 20_000, 900),
            [n * 10**9 for n in range(20_000)],
            [n << 16 for n in range(20_000)],
            [n << 32 for n in range(20_000)],
            [n << 48 for n in range(16_000)],
            [n / 4 for n in range(20_000)],
            [n / 10 for n in range(20_000)],
            [n / 2**20 for n in range(20_000)],
            [n * 1e300 for n in range(20_000)],
            [math.nan] * 3000,
        ],
        ids=lambda keys: f"{keys[1]}",
    )
    def test_many_numbers_that_nobody_chose_to_collide_are_taken(self, keys):
        assert len(_msgpack.unpack(packed_map(keys))) == len(keys)

    def test_many_keys_of_text_are_taken(self):
        keys = [*map(str, range(20_000)), 1]
        assert _msgpack.unpack(packed_map(keys)) == dict.fromkeys(keys)


nested = st.recursive(
    st.integers(0, 3) | st.text(max_size=3) | st.just(b"\x91\x81\xdc"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=30,
)


def levels(value) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return 1 + max(map(levels, value), default=0)
    return 0


class TestLevels:
    @given(nested, st.integers(1, 8), st.booleans())
    def test_levels_are_counted_exactly(self, value, limit, large):
        if large:
            value = [value, "x" * 5000]
        packed = msgpack.packb(value)

        exceed = _msgpack.levels_exceed(limit, packed, _msgpack.unpack(packed))

        assert exceed == (levels(value) > limit)

    @pytest.mark.parametrize("size", [0, 5000, 100_000])
    @pytest.mark.parametrize("as_map", [False, True])
    @pytest.mark.parametrize("limit", [64, 500, 1023])
    def test_the_limit_is_the_last_level_that_is_taken(self, limit, as_map, size):
        level = b"\x81\xa1a" if as_map else b"\x92\x01"
        for depth in (limit - 1, limit, limit + 1):
            packed = b"\x92" + b"\xc6" + struct.pack(">I", size) + b"\x91" * size
            packed += level * (depth - 1) + b"\xc0"
            value = _msgpack.unpack(packed) if depth <= 1024 else None
            assert _msgpack.levels_exceed(limit, packed, value) == (depth > limit)

    @pytest.mark.parametrize(
        "level", [b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01", b"\xde\x00\x01\x01", b"\xdf\0\0\0\1\1"]
    )
    def test_long_forms_of_lists_and_maps_are_levels(self, level):
        packed = level * 65 + b"\xc0"

        assert _msgpack.levels_exceed(64, packed, _msgpack.unpack(packed))
        assert not _msgpack.levels_exceed(65, packed, _msgpack.unpack(packed))

    @pytest.mark.parametrize(
        ("value", "shallow"),
        [
            ((0, 7, ("x", (b"y" * 5000,), {"z": (1, 2)})), True),  # large bytes
            ((0, 7, ("x", ((1.5, 2, True) * 1000,), {})), True),  # many numbers
            ((0, 7, ("x", ((1.5,) * 1000 + (None,),), {})), False),
            ((0, 7, ("x", ((1.5,) * 1000 + ((1,),),), {})), False),
            ((0, 7, (("abc",) * 1000,)), False),  # many values
            (((1, 2),) * 65, False),
            ((0, 7, ("x", (), {"a": 1, "b": None})), False),  # whose keys may have come twice
            (5, True),
        ],
    )
    def test_few_and_large_values_and_numbers_are_looked_at(self, value, shallow):
        packed = msgpack.packb(value)
        size = max(len(packed), 100)

        assert _msgpack._is_shallow(64, size, _msgpack.unpack(packed)) is shallow

    @pytest.mark.parametrize("text", [0, 300, 5000, 100_000])
    def test_levels_in_a_value_that_a_later_one_replaced_are_counted(self, text):
        deep = b"\x91" * 70 + b"\xc0"
        packed = b"\x92" + msgpack.packb("x" * text) + b"\x82\xa1a" + deep + b"\xa1a\x01"
        value = _msgpack.unpack(packed)

        assert value == ("x" * text, {"a": 1})
        assert _msgpack.levels_exceed(64, packed, value)

    def test_more_levels_than_the_library_takes_are_no_limit(self):
        packed = msgpack.packb([[1]] * 5000)

        assert not _msgpack.levels_exceed(4000, packed, _msgpack.unpack(packed))

    def test_a_large_scalar_is_not_copied(self, monkeypatch):
        monkeypatch.setattr(_msgpack, "_skip", None)
        packed = msgpack.packb([0, 1, ["x", [b"\x91" * 100_000], {}]])

        assert not _msgpack.levels_exceed(64, packed, _msgpack.unpack(packed))

    @pytest.mark.parametrize("size", [300, 3000, 100_000])
    def test_what_large_bytes_hold_is_neither_counted_nor_gone_through(self, size, monkeypatch):
        monkeypatch.setattr(_msgpack, "_skip", None)
        monkeypatch.setattr(_msgpack, "_count_openers", None)
        packed = msgpack.packb([0, 1, ["x", [b"\x91" * size], {"also": b"\xdc" * size}]])

        assert not _msgpack.levels_exceed(64, packed, _msgpack.unpack(packed))

    def test_a_message_with_few_bytes_that_open_anything_is_not_gone_through(self, monkeypatch):
        monkeypatch.setattr(_msgpack, "_skip", None)
        packed = msgpack.packb([0, 1, ["path", [list(range(100)), "text" * 100], {}]])

        assert not _msgpack.levels_exceed(64, packed, _msgpack.unpack(packed))


class TestHead:
    @pytest.mark.parametrize(
        "content",
        [
            b"\xa1\xff",  # text that is no UTF-8
            b"\xd6\xff\xff\xff\xff\xff",  # a timestamp
            b"\x91" * 2000,  # too deep to see what is wrong
            b"\x81\x91\x01\x02",
        ],
    )
    def test_good_messagepack_has_a_head(self, content):
        assert _msgpack.head_of(b"\x93\x00\x07" + content) == (0, 7, None)

    @pytest.mark.parametrize(
        "packed",
        [
            b"\x93\x00\x05",
            b"\x93\x00\x05\x01\x01",
            b"\x93\x00\x05\xc1",
            b"\x93\xc1",
            b"\x92\x00\x05",
            b"\x93\x00" + b"\x91" * 2000,
            b"\x93\x00\x07\xdb\xff\xff\xff\xff",
            b"\x05",
            b"\xc1",
        ],
    )
    def test_bad_messagepack_has_none(self, packed):
        assert _msgpack.head_of(packed) is None
