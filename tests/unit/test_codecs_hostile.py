"""Codecs and content that was made to do harm: an error for its own call, at once, and no more."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
import tracemalloc
import uuid
from typing import Any

import blosc
import msgpack
import pytest

from aiomas.codecs import JSON, Codec, MsgPack, MsgPackBlosc, make_codec, uuid_serializer
from aiomas.exceptions import DecodeError, SerializationError


class ReprJSON(Codec):
    """What a user may write: encode and decode, and nothing else."""

    def encode(self, data):
        return json.dumps(data, default=self.serialize_obj).encode()

    def decode(self, data):
        return json.loads(data, object_hook=self.deserialize_obj)


CODECS: list[type[Codec]] = [JSON, MsgPack, MsgPackBlosc, ReprJSON]
BINARY_CODECS: list[type[Codec]] = [MsgPack, MsgPackBlosc]

all_codecs = pytest.mark.parametrize("cls", CODECS)
own_codecs = pytest.mark.parametrize("cls", [JSON, MsgPack, MsgPackBlosc])
binary_codecs = pytest.mark.parametrize("cls", BINARY_CODECS)


def as_data(cls: type[Codec], packed: bytes) -> bytes:
    """Return MessagePack as the codec *cls* would send it."""
    compressed: bytes = blosc.compress(packed)
    return compressed if cls is MsgPackBlosc else packed


def nested(levels: int, *, maps: bool = False, inner: Any = 1) -> Any:
    for _ in range(levels):
        inner = {"a": inner} if maps else [0, inner]
    return inner


def refusal(codec: Codec, data: bytes) -> str:
    """Return the text of the error that hits message 7, and nothing but message 7."""
    message, error = codec.decode_message(data)
    assert tuple(message) == (0, 7, None)
    assert type(error) is DecodeError
    if not isinstance(codec, ReprJSON):
        with pytest.raises(DecodeError):
            codec.decode(data)
    assert codec.decode_message(codec.encode(1)) == (1, None)  # the next one is not blamed
    return str(error)


class TestNames:
    def test_codecs_are_known_by_names(self):
        assert [cls.name for cls in CODECS] == ["json", "msgpack", "msgpack-blosc", "ReprJSON"]

    def test_a_subclass_of_a_codec_has_its_name_unless_it_says_another(self):
        class Mine(JSON):
            pass

        class Other(ReprJSON):
            name = "other"

        assert Mine.name == "json"
        assert Other.name == "other"

    @all_codecs
    def test_types_are_named_in_their_order(self, cls):
        codec = make_codec(cls, [uuid_serializer, lambda: (complex, str, complex)])

        assert codec.type_names == ["UUID", "complex"]
        assert cls().type_names == []


class TestNesting:
    @all_codecs
    @pytest.mark.parametrize("maps", [False, True])
    @pytest.mark.parametrize("beside", ["", "x" * 10_000, [[]] * 2000], ids=len)
    def test_the_limit_is_the_deepest_that_is_taken(self, cls, maps, beside):
        codec = cls()
        codec.max_nesting = 64
        fits = codec.encode([0, 7, [beside, nested(63, maps=maps)]])
        deeper = codec.encode([0, 7, [beside, nested(64, maps=maps)]])

        message, error = codec.decode_message(fits)
        assert error is None
        assert message[2][0] == beside or message[2][0] == ((),) * 2000
        assert "over the limit max_nesting=64" in refusal(codec, deeper)

    def test_json_without_a_byte_too_many_is_counted_as_well(self):
        codec = JSON()
        codec.max_nesting = 64

        assert codec.decode_message(b"[0,7," + b"[" * 64 + b"]" * 65)[1] is None
        assert "max_nesting=64" in refusal(codec, b"[0,7," + b"[" * 65 + b"]" * 66)

    @all_codecs
    def test_scalar_content_has_no_level(self, cls):
        codec = cls()
        codec.max_nesting = 1

        assert codec.decode_message(codec.encode([0, 7, "x"]))[1] is None
        assert codec.decode_message(codec.encode([0, 7, ["x"]]))[1] is None
        assert "max_nesting=1" in refusal(codec, codec.encode([0, 7, [["x"]]]))

    @all_codecs
    def test_there_is_no_limit_unless_one_is_set(self, cls):
        codec = cls()
        message, error = codec.decode_message(codec.encode([0, 7, nested(300)]))

        assert error is None
        assert message[2][1][1][1]

    @own_codecs
    def test_objects_count_and_are_looked_at_before_any_is_made(self, cls):
        made: list[Any] = []
        codec = cls()
        codec.add_serializer(complex, lambda _: nested(61), made.append)
        codec.max_nesting = 64
        fits = codec.encode([0, 7, 1j])  # two levels for the object, and one for itself
        deeper = codec.encode([0, 7, [1j, [1j]]])

        assert codec.decode_message(fits)[1] is None
        assert len(made) == 1
        assert "max_nesting=64" in refusal(codec, deeper)
        assert len(made) == 1

    @pytest.mark.parametrize("limit", [64, sys.maxsize])
    @pytest.mark.parametrize(
        ("cls", "data"),
        [
            (JSON, b" [ 0,7\n,\t" + b"[" * 200_000 + b"]" * 200_000 + b"]"),
            (MsgPack, b"\x93\x00\x07" + b"\x91" * 200_000 + b"\xc0"),
            (MsgPackBlosc, blosc.compress(b"\x93\x00\x07" + b"\x91" * 200_000 + b"\xc0")),
        ],
    )
    def test_what_is_too_deep_to_be_decoded_at_all_hits_its_call_alone(self, cls, data, limit):
        codec = cls()
        codec.max_nesting = limit
        wanted = "max_nesting=64" if limit == 64 else f"over the limit of {cls.__name__}"

        assert wanted in refusal(codec, data)

    @all_codecs
    def test_what_is_too_deep_and_no_message_is_unreadable(self, cls):
        codec = cls()
        codec.max_nesting = 64
        for whole in (nested(100), {"a": nested(100)}, [0, "7", nested(100)]):
            with pytest.raises(DecodeError, match="max_nesting=64"):
                codec.decode_message(codec.encode(whole))

    def test_what_a_codec_of_a_user_returns_may_hold_itself_and_share_parts(self):
        class Sharing(ReprJSON):
            def decode(self, data):
                shared: Any = []
                for _ in range(60):
                    shared = {"a": shared, "b": shared}
                if json.loads(data):
                    shared["c"] = shared
                return [0, 7, shared]

        codec = Sharing()
        codec.max_nesting = 64

        assert codec.decode_message(b"0")[1] is None
        message, error = codec.decode_message(b"1")
        assert message == (0, 7, None)
        assert "max_nesting=64" in str(error)


class TestKeys:
    @binary_codecs
    @pytest.mark.parametrize("beside", [None, {"__type__": [0, "0" * 32]}, "x" * 5000], ids=repr)
    def test_a_key_that_is_no_plain_value_hits_its_call_alone(self, cls, beside):
        codec = make_codec(cls, [uuid_serializer])
        packed = msgpack.packb([0, 7, [beside, {(1, 2): 3}]])

        assert "a key of a map may be text" in refusal(codec, as_data(cls, packed))
        assert "tuple" in refusal(codec, as_data(cls, packed))

    @binary_codecs
    def test_the_sender_of_such_a_key_learns_it_from_the_receiver(self, cls):
        # To look for such keys when they are sent would need a walk over all that is sent.
        codec = cls()

        assert "here is: tuple" in refusal(codec, codec.encode([0, 7, {(1, 2): 3}]))

    @binary_codecs
    def test_an_object_in_the_place_of_a_key_is_refused_before_it_is_made(self, cls):
        made: list[Any] = []
        codec = make_codec(cls, [lambda: (complex, str, made.append)])
        packed = b"\x93\x00\x07\x81\x81\xa8__type__\x92\x00\x05\x01"

        assert "here is: dict" in refusal(codec, as_data(cls, packed))
        assert made == []

    @binary_codecs
    def test_objects_are_made_once_beside_keys_that_are_numbers(self, cls):
        made: list[Any] = []
        codec = make_codec(cls, [lambda: (complex, str, made.append)])
        content = {1: {2.5: [1j, 2j]}, None: 3j}

        assert codec.decode(codec.encode(content)) == {1: {2.5: (None, None)}, None: None}
        assert made == ["1j", "2j", "3j"]


class TestObjects:
    @all_codecs
    @pytest.mark.parametrize(
        "bad",
        [
            {"__type__": [1, "x"]},
            {"__type__": [-1, "x"]},
            {"__type__": [2**63, "x"]},
            {"__type__": [True, "0" * 32]},
            {"__type__": [False, "0" * 32]},
            {"__type__": [0.0, "0" * 32]},
            {"__type__": ["0", "0" * 32]},
            {"__type__": [None, None]},
            {"__type__": [[0], "0" * 32]},
            {"__type__": []},
            {"__type__": [0]},
            {"__type__": [0, "0" * 32, 1]},
            {"__type__": "00"},
            {"__type__": {"0": 0, "1": 1}},
            {"__type__": [0, "no identifier"]},
            {"__type__": [0, {"__type__": [0, "0" * 32]}]},
            {"__type__": {"__type__": [0, "0" * 32]}},
        ],
        ids=str,
    )
    def test_a_bad_object_hits_its_call_alone(self, cls, bad):
        codec = make_codec(cls, [uuid_serializer])
        for content in (bad, ["x", {"k": [bad]}], {"x" * 5000: bad}, [bad, [[]] * 100]):
            codec.max_nesting = 64
            message, error = codec.decode_message(cls().encode([0, 7, content]))
            assert tuple(message[:2]) == (0, 7)
            assert type(error) is DecodeError
            with pytest.raises(DecodeError):
                codec.decode(cls().encode([0, 7, content]))
            assert codec.decode_message(codec.encode(1)) == (1, None)

    def test_json_with_a_type_number_of_four_thousand_digits_is_reported_in_short(self):
        data = b'[0, 7, {"__type__": [' + b"9" * 4000 + b", 1]}]"

        assert len(refusal(JSON(), data)) < 200

    def test_an_escape_in_the_reserved_key_hides_nothing_from_json(self):
        codec = make_codec(JSON, [uuid_serializer])
        hidden = b'{"\\u005f_type__": [0, "00000000000000000000000000000001"]}'

        assert codec.decode(hidden).int == 1

    @all_codecs
    def test_a_deserializer_may_decode_with_the_same_codec(self, cls):
        codec = make_codec(cls, [uuid_serializer])
        inner = codec.encode(uuid.UUID(int=7))
        codec.add_serializer(complex, str, lambda _: codec.decode(inner).int)
        data = codec.encode([0, 7, [1j, {"__type__": [9, 0]}]])

        message, error = codec.decode_message(data)

        assert list(message[2]) == [7, None]
        assert "number 9" in str(error)

    @all_codecs
    def test_after_a_bad_object_no_other_one_is_made(self, cls):
        made: list[str] = []
        codec = make_codec(cls, [uuid_serializer])
        codec.add_serializer(complex, str, made.append)  # type: ignore[arg-type]
        bad, good = {"__type__": [0, "no identifier"]}, {"__type__": [1, "1j"]}
        data = cls().encode([0, 7, [good, bad, *[good] * 100]])

        message, error = codec.decode_message(data)

        assert made == ["1j"]
        assert tuple(message[:2]) == (0, 7)
        assert "UUID" in str(error) or "0" in str(error)
        codec.decode(cls().encode([good]))  # but in the next message
        assert made == ["1j"] * 2


class TestJSON:
    @pytest.mark.parametrize(
        "beside", ["1", '{"__type__": [5, 1]}', "[[]," * 100 + "1" + "]" * 100]
    )
    def test_an_integer_with_too_many_digits_hits_its_call_alone(self, beside):
        codec = JSON()
        digits = "9" * (sys.get_int_max_str_digits() + 1)

        assert "4300 digits" in refusal(codec, f"[0,7,[{beside}, {digits}]]".encode())
        assert codec.decode(f"[{digits[1:]}]".encode()) == [int(digits[1:])]

    def test_an_integer_with_too_many_digits_is_an_error_of_the_sender(self):
        with pytest.raises(SerializationError, match="4300 digits"):
            JSON().encode([10 ** sys.get_int_max_str_digits()])

    @pytest.mark.parametrize(
        "head", ["[-0, 7", "[00, 7", "[0, 7.0", '["0", 7', "[0", "{", "[0, " + "9" * 5000]
    )
    def test_bad_content_without_a_head_is_unreadable(self, head):
        with pytest.raises(DecodeError):
            JSON().decode_message(f"{head}, {'9' * 5000}]".encode())

    @pytest.mark.parametrize(
        "data",
        [
            b"[0, 7, 1",
            b"[0, 7, 1]]",
            b"[0, 7, oops]",
            b"[0, 7, '1']",
            b"[0, 7, 1,]",
            b'[0, 7, "\xff"]',
            b'[0, 7, "\xed\xa0\x80"]',  # a surrogate is written as an escape, or not at all
            b"\xef\xbb\xbf[0, 7, 1]",
        ],
    )
    def test_what_is_no_json_is_unreadable_as_a_whole(self, data):
        with pytest.raises(DecodeError, match="no JSON message"):
            JSON().decode_message(data)

    def test_lone_surrogates_and_what_is_no_number_are_taken_as_python_takes_them(self):
        data = b'[0, 7, ["\\ud800", NaN, -Infinity, 1e999]]'

        (_, _, (text, nan, *infinities)), error = JSON().decode_message(data)

        assert error is None
        assert text == "\ud800"
        assert math.isnan(nan)
        assert infinities == [-math.inf, math.inf]


class TestMsgPack:
    @binary_codecs
    @pytest.mark.parametrize(
        "content",
        [
            b"\xa1\xff",  # no UTF-8
            b"\xa3\xed\xa0\x80",  # a surrogate
            b"\x81\xa1\xff\x01",  # no UTF-8 in a key
            b"\xd6\xff\xff\xff\xff\xff" + b"",  # a timestamp of 32 bits, which is right
            b"\xc7\x05\xff\x00\x00\x00\x00\x00",  # a timestamp of 40 bits
            b"\xd7\xff" + b"\xff" * 8,  # a timestamp with too many nanoseconds
        ],
    )
    def test_content_that_python_cannot_hold_hits_its_call_alone(self, cls, content):
        data = as_data(cls, b"\x93\x00\x07" + content)
        if content.startswith(b"\xd6"):
            assert cls().decode(data) == (0, 7, msgpack.Timestamp(2**32 - 1, 0))
        else:
            assert f"no {cls.__name__} message" in refusal(cls(), data)

    @binary_codecs
    @pytest.mark.parametrize("bad", [2**64, -(2**63) - 1, "\ud800", {2**64: 1}], ids=repr)
    def test_what_messagepack_cannot_hold_is_an_error_of_the_sender(self, cls, bad):
        with pytest.raises(SerializationError, match=cls.__name__):
            cls().encode([0, 7, bad])

    @binary_codecs
    def test_extension_types_and_timestamps_travel_as_what_msgpack_makes_of_them(self, cls):
        values = (msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 2))

        assert cls().decode(cls().encode(values)) == values

    @binary_codecs
    @pytest.mark.parametrize(
        "lie",
        [
            b"\xdd\xff\xff\xff\xff",  # a list
            b"\xdf\xff\xff\xff\xff",  # a map
            b"\xdb\xff\xff\xff\xff",  # text
            b"\xc6\xff\xff\xff\xff",  # bytes
            b"\xc9\xff\xff\xff\xff\x05",  # an extension type
            b"\xdd\x00\x00\x0f\xff" * 700,
            b"\xdf\x00\x00\x07\xff" * 700,
        ],
        ids=lambda lie: lie[:5].hex(),
    )
    @pytest.mark.parametrize("junk", [0, 4096])
    def test_a_length_that_is_not_there_is_refused_at_once_with_little_memory(self, cls, lie, junk):
        data = as_data(cls, b"\x93\x00\x07" + lie + b"\x00" * junk)
        codec = cls()
        with pytest.raises(DecodeError):
            codec.decode_message(data)  # what is loaded and cached is not counted

        tracemalloc.start()
        try:
            with pytest.raises(DecodeError):
                codec.decode_message(data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert peak < 64 << 20

    def test_lengths_that_lie_in_each_other_do_not_add_up(self):
        size = 1 << 20
        lies = b"\xdd" + (size // 2).to_bytes(4, "big")
        data = (b"\x93\x00\x07" + lies * 1000).ljust(size, b"\x00")

        tracemalloc.start()
        try:
            with pytest.raises(DecodeError):
                MsgPack().decode_message(data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert peak < 128 << 20  # 4 GB before msgpack 1.2.4


class TestBlosc:
    good = blosc.compress(msgpack.packb([0, 7, "x" * 1000]))

    @pytest.mark.parametrize(
        ("at", "form", "lie"),
        [
            (0, "<B", 1),
            (0, "<B", 3),
            (0, "<B", 255),
            (4, "<I", 0),
            (4, "<I", 1),
            (4, "<I", 999),
            (4, "<I", 2_000_000),
            (4, "<I", 2**32 - 1),
            (8, "<I", 0),
            (8, "<I", 5_000_000),
            (8, "<I", 2**31),
            (8, "<I", 2**32 - 1),
            (12, "<I", 0),
            (12, "<I", 15),
            (12, "<I", len(good) - 1),
            (12, "<I", len(good) + 1),
            (12, "<I", 2**32 - 1),
        ],
    )
    def test_a_header_that_lies_is_refused(self, at, form, lie):
        codec = MsgPackBlosc()
        codec.max_size = 1_000_000
        data = bytearray(self.good)
        struct.pack_into(form, data, at, lie)

        with pytest.raises(DecodeError, match="no MsgPackBlosc message"):
            codec.decode_message(bytes(data))

    def test_a_short_buffer_is_refused(self):
        for length in range(len(self.good)):
            data = bytearray(self.good[:length])
            if length >= 16:
                data[12:16] = length.to_bytes(4, "little")
            wanted = "no MsgPackBlosc message" if length >= 16 else "less than a header"
            with pytest.raises(DecodeError, match=wanted):
                MsgPackBlosc().decode_message(bytes(data))

    def test_nothing_compressed_is_no_message(self):
        with pytest.raises(DecodeError, match="no MsgPackBlosc message"):
            MsgPackBlosc().decode_message(blosc.compress(b""))

    @pytest.mark.parametrize("seed", [1, 2])
    def test_bytes_that_were_changed_do_no_harm_to_the_interpreter(self, seed):
        done = subprocess.run(
            [sys.executable, "-c", MUTATE, str(seed)], capture_output=True, text=True, check=False
        )

        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[0] == "10000"


MUTATE = """
import random, sys
import blosc
from aiomas.codecs import MsgPackBlosc
from aiomas.exceptions import DecodeError

chooser = random.Random(int(sys.argv[1]))
frames = [
    blosc.compress(text, typesize=typesize, shuffle=shuffle, cname=cname)
    for text in (b"\\x93\\x00\\x07\\xa1x", b"\\x91" * 500 + b"\\xc0", bytes(range(256)) * 200)
    for cname in ("blosclz", "lz4", "zlib", "zstd")
    for typesize in (1, 8)
    for shuffle in (0, 1, 2)
]
codec = MsgPackBlosc()
codec.max_size = 1 << 20
for number in range(10_000):
    data = bytearray(chooser.choice(frames))
    reach = len(data) if chooser.random() < 0.5 else min(len(data), 40)
    for _ in range(chooser.randint(1, 6)):
        at = chooser.randrange(reach)
        data[at] = chooser.choice((0, 1, 0x7F, 0x80, 0xFF, data[at] ^ 1 << chooser.randrange(8)))
    if chooser.random() < 0.1:
        del data[chooser.randrange(16, len(data)) :]
    if chooser.random() < 0.7:
        data[12:16] = len(data).to_bytes(4, "little")
    try:
        codec.decode_message(bytes(data))
    except DecodeError:
        pass
print(number + 1)
"""
