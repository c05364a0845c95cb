"""Codecs: what goes in comes out, and what cannot is an error that says so."""

from __future__ import annotations

import json
import math
import struct
import uuid
from typing import Any

import blosc
import msgpack
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aiomas.codecs import (
    JSON,
    Codec,
    MsgPack,
    MsgPackBlosc,
    decimal_serializer,
    make_codec,
    serializable,
    uuid_serializer,
)
from aiomas.exceptions import DecodeError, SerializationError

CODECS = [JSON, MsgPack, MsgPackBlosc]
BINARY_CODECS = [MsgPack, MsgPackBlosc]

all_codecs = pytest.mark.parametrize("cls", CODECS)
binary_codecs = pytest.mark.parametrize("cls", BINARY_CODECS)

int64 = st.integers(-(2**63), 2**64 - 1)
plain_text = st.text(st.characters(exclude_categories=["Cs"]))
any_text = st.text()  # lone surrogates as well
json_keys = any_text.filter(lambda key: key != "__type__")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner) | st.dictionaries(json_keys, inner),
    max_leaves=20,
)
msgpack_scalars = st.none() | st.booleans() | int64 | st.floats() | plain_text | st.binary()
msgpack_keys = st.none() | st.booleans() | int64 | plain_text | st.binary()
msgpack_values = st.recursive(
    msgpack_scalars,
    lambda inner: st.lists(inner).map(tuple) | st.dictionaries(msgpack_keys, inner),
    max_leaves=20,
)


def round_trip(codec: Codec, value: Any) -> Any:
    return codec.decode(codec.encode(value))


def exactly(value: Any) -> Any:
    """Return something that differs for all that `==` confounds: types, zeros; and NaN equals."""
    match value:
        case list() | tuple():
            return type(value), [exactly(item) for item in value]
        case dict():
            return dict, [(exactly(key), exactly(item)) for key, item in value.items()]
        case float() if math.isnan(value):
            return float, "nan"
        case float():
            return float, struct.pack("!d", value)
        case _:
            return type(value), value


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def depth_of(value: Any) -> int:
    depth = 0
    while value:
        (value,) = value
        depth += 1
    return depth


class TestRoundTrip:
    @given(json_values)
    def test_json_returns_what_it_was_given(self, value):
        assert exactly(round_trip(JSON(), value)) == exactly(value)

    @given(json_values)
    def test_json_is_what_the_standard_library_reads_and_writes(self, value):
        assert exactly(json.loads(JSON().encode(value))) == exactly(value)
        assert exactly(JSON().decode(json.dumps(value).encode())) == exactly(value)

    @given(msgpack_values)
    @binary_codecs
    def test_msgpack_returns_what_it_was_given(self, cls, value):
        assert exactly(round_trip(cls(), value)) == exactly(value)

    @given(msgpack_values)
    def test_msgpack_is_what_another_encoder_makes(self, value):
        assert MsgPack().encode(value) == msgpack.packb(value, use_bin_type=True)

    @given(msgpack_values)
    def test_blosc_holds_msgpack(self, value):
        assert blosc.decompress(MsgPackBlosc().encode(value)) == MsgPack().encode(value)

    @all_codecs
    @pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, -0.0, 5e-324, 1.7e308])
    def test_special_floats_survive(self, cls, number):
        assert exactly(round_trip(cls(), number)) == exactly(number)

    def test_json_names_special_floats_as_the_standard_library_does(self):
        assert JSON().encode([math.nan, math.inf, -math.inf]) == b"[NaN, Infinity, -Infinity]"

    @pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**4000])
    def test_integers_of_any_size_survive_json(self, number):
        assert round_trip(JSON(), number) == number

    @binary_codecs
    @pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
    def test_integers_over_64_bits_are_refused_by_msgpack(self, cls, number):
        with pytest.raises(SerializationError, match=r"(?i)int"):
            cls().encode(number)

    @binary_codecs
    @pytest.mark.parametrize("number", [2**64 - 1, -(2**63)])
    def test_the_largest_integers_of_64_bits_survive_msgpack(self, cls, number):
        assert round_trip(cls(), number) == number

    def test_a_lone_surrogate_survives_json(self):
        assert round_trip(JSON(), "\ud800") == "\ud800"

    @binary_codecs
    def test_a_lone_surrogate_is_refused_by_msgpack(self, cls):
        with pytest.raises(SerializationError):
            cls().encode("\ud800")

    @all_codecs
    def test_values_nested_some_hundred_deep_survive(self, cls):
        assert depth_of(round_trip(cls(), nested(200))) == 200

    @all_codecs
    def test_deeper_nesting_is_an_error_of_the_sender(self, cls):
        with pytest.raises(SerializationError):
            cls().encode(nested(100_000))

    @pytest.mark.parametrize(
        ("cls", "data"),
        [
            (JSON, b"[" * 100_000 + b"]" * 100_000),
            (MsgPack, b"\x91" * 100_000 + b"\xc0"),
            (MsgPackBlosc, blosc.compress(b"\x91" * 100_000 + b"\xc0")),
        ],
    )
    def test_deeper_nesting_is_an_error_of_the_receiver(self, cls, data):
        with pytest.raises(DecodeError):
            cls().decode(data)

    @all_codecs
    def test_a_value_that_holds_itself_is_refused(self, cls):
        value: list[Any] = []
        value.append(value)

        with pytest.raises(SerializationError):
            cls().encode(value)

    def test_json_makes_tuples_lists_and_keys_strings(self):
        assert round_trip(JSON(), (1, {2: (3,)})) == [1, {"2": [3]}]

    @binary_codecs
    def test_msgpack_makes_lists_tuples_and_keeps_keys(self, cls):
        assert round_trip(cls(), [1, {2: [3], b"4": None}]) == (1, {2: (3,), b"4": None})

    @binary_codecs
    def test_msgpack_knows_bytes_from_text(self, cls):
        assert exactly(round_trip(cls(), [b"a", "a"])) == exactly((b"a", "a"))

    def test_json_refuses_bytes_and_says_what_to_do(self):
        with pytest.raises(SerializationError, match=r"builtins.bytes.*extra_serializers"):
            JSON().encode([b"raw"])

    @pytest.mark.parametrize(("cls", "key"), [(JSON, (1, 2)), (MsgPack, 1 + 2j)])
    def test_keys_that_cannot_travel_are_refused(self, cls, key):
        with pytest.raises(SerializationError):
            cls().encode({key: 1})

    def test_blosc_compresses(self):
        assert len(MsgPackBlosc().encode("spam" * 10_000)) < 1000

    @all_codecs
    @pytest.mark.parametrize("view", [bytes, bytearray, memoryview])
    def test_any_bytes_like_object_is_decoded(self, cls, view):
        codec = make_codec(cls, [uuid_serializer])
        value = {"a": uuid.UUID(int=1)}

        assert codec.decode(view(codec.encode(value))) == value

    @all_codecs
    def test_a_codec_can_be_used_again_after_an_error(self, cls):
        codec = cls()
        with pytest.raises(SerializationError):
            codec.encode([1, 2, object()])
        with pytest.raises(DecodeError):
            codec.decode(b"\xc1 no message")

        assert list(round_trip(codec, [1, 2])) == [1, 2]

    @given(st.binary())
    @all_codecs
    def test_any_bytes_are_a_value_or_a_decode_error(self, cls, data):
        try:
            cls().decode(data)
        except DecodeError as exc:
            assert cls.__name__ in str(exc)  # noqa: PT017 - some bytes do stand for something


class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __eq__(self, other):
        return type(other) is type(self) and (other.x, other.y) == (self.x, self.y)

    __hash__ = None  # type: ignore[assignment]


class Point3D(Point):
    pass


def point_serializer():
    return Point, lambda point: [point.x, point.y], lambda values: Point(*values)


def set_serializer():
    return set, sorted, set


class TestSerializers:
    @all_codecs
    def test_an_object_with_a_serializer_survives(self, cls):
        codec = make_codec(cls, [point_serializer])

        assert round_trip(codec, {"p": Point(1, 2)}) == {"p": Point(1, 2)}

    @all_codecs
    def test_serializers_may_return_what_needs_a_serializer(self, cls):
        codec = make_codec(cls, [set_serializer, point_serializer])

        assert round_trip(codec, Point(Point(1, {2}), {3, 4})) == Point(Point(1, {2}), {3, 4})

    @pytest.mark.parametrize(
        ("cls", "data"),
        [
            (JSON, b'{"__type__": [1, [1, 2]]}'),
            (MsgPack, b"\x81\xa8__type__\x92\x01\x92\x01\x02"),
        ],
    )
    def test_the_number_of_a_type_is_the_place_of_its_serializer(self, cls, data):
        codec = make_codec(cls, [set_serializer, point_serializer])

        assert codec.encode(Point(1, 2)) == data
        assert codec.decode(data) == Point(1, 2)

    @all_codecs
    def test_large_messages_have_objects_as_well(self, cls):
        codec = make_codec(cls, [point_serializer])

        assert round_trip(codec, ["x" * 5000, Point(1, 2)])[1] == Point(1, 2)

    @all_codecs
    def test_a_serializer_is_not_used_for_subclasses(self, cls):
        with pytest.raises(SerializationError, match="Point3D"):
            make_codec(cls, [point_serializer]).encode(Point3D(1, 2))

    @all_codecs
    def test_a_serializer_for_object_is_used_for_all_that_have_none(self, cls):
        codec = make_codec(cls, [point_serializer])
        codec.add_serializer(object, lambda obj: type(obj).__name__, lambda name: ("some", name))

        assert list(round_trip(codec, [Point(1, 2), Point3D(1, 2), 1j])) == [
            Point(1, 2),
            ("some", "Point3D"),
            ("some", "complex"),
        ]

    @all_codecs
    def test_a_second_serializer_for_a_type_is_refused(self, cls):
        codec = make_codec(cls, [point_serializer])

        with pytest.raises(ValueError, match=r"Point.* already"):
            codec.add_serializer(*point_serializer())

    @all_codecs
    def test_the_error_for_an_unknown_object_names_its_type(self, cls):
        with pytest.raises(SerializationError, match=rf"{cls.__name__}.*builtins.complex"):
            cls().encode([1, {"a": 2j}])

    @all_codecs
    def test_an_object_whose_repr_is_broken_is_a_serialization_error(self, cls):
        class Broken:
            def __repr__(self):
                raise AttributeError("not yet")

        with pytest.raises(SerializationError, match="Broken"):
            cls().encode(Broken())

    @all_codecs
    def test_the_error_of_a_serializer_is_the_cause(self, cls):
        codec = cls()
        codec.add_serializer(complex, lambda number: 1 / 0, complex)

        with pytest.raises(SerializationError, match=r"builtins.complex failed") as info:
            codec.encode(1j)
        assert isinstance(info.value.__cause__, ZeroDivisionError)

    @all_codecs
    def test_a_serializer_may_refuse_an_object(self, cls):
        def refuse(number):
            raise SerializationError("not today")

        codec = cls()
        codec.add_serializer(complex, refuse, complex)

        with pytest.raises(SerializationError, match=r"^not today$"):
            codec.encode(1j)

    @all_codecs
    def test_the_error_of_a_deserializer_is_the_cause(self, cls):
        codec = cls()
        codec.add_serializer(complex, str, int)

        with pytest.raises(DecodeError, match=r"builtins.complex failed") as info:
            codec.decode(codec.encode(1j))
        assert isinstance(info.value.__cause__, ValueError)

    @all_codecs
    @pytest.mark.parametrize("typeid", [1, 7, -1])
    def test_a_type_number_that_nobody_knows_is_an_error(self, cls, typeid):
        codec = make_codec(cls, [point_serializer])
        data = cls().encode({"__type__": [typeid, None]})

        with pytest.raises(DecodeError, match=f"number {typeid} "):
            codec.decode(data)

    @all_codecs
    @pytest.mark.parametrize("bad", [None, "x", [], [0], [0, 1, 2], ["0", 1], [0.0, 1]])
    def test_a_dictionary_with_the_reserved_key_alone_is_an_error(self, cls, bad):
        codec = make_codec(cls, [point_serializer])

        with pytest.raises(DecodeError, match="reserved"):
            codec.decode(cls().encode({"__type__": bad}))

    @all_codecs
    def test_the_reserved_key_beside_others_is_ordinary(self, cls):
        value = {"__type__": 0, "b": 1}

        assert round_trip(cls(), value) == value

    @all_codecs
    def test_text_that_mentions_the_reserved_key_is_ordinary(self, cls):
        assert list(round_trip(cls(), ["__type__", {"a": "__type__"}])) == [
            "__type__",
            {"a": "__type__"},
        ]


class TestDecodeMessage:
    @all_codecs
    def test_a_good_message_has_no_failure(self, cls):
        codec = make_codec(cls, [point_serializer])

        assert codec.decode_message(codec.encode(Point(1, 2))) == (Point(1, 2), None)

    @all_codecs
    def test_one_bad_object_leaves_the_rest_readable(self, cls):
        data = cls().encode([0, 7, {"__type__": [5, "x"]}])

        (kind, message_id, content), failure = cls().decode_message(data)

        assert (kind, message_id, content) == (0, 7, None)
        assert isinstance(failure, DecodeError)
        assert "number 5" in str(failure)

    @all_codecs
    def test_the_object_that_failed_first_is_blamed(self, cls):
        codec = make_codec(cls, [point_serializer])
        data = cls().encode({"__type__": [0, {"__type__": [5, "x"]}]})

        _, failure = codec.decode_message(data)

        assert "number 5" in str(failure)

    @pytest.mark.parametrize(
        ("cls", "data"),
        [
            (JSON, b'[{"__type__": [5, 1]}, oops'),
            (MsgPack, b"\x92\x81\xa8__type__\x92\x05\x01"),
            (MsgPackBlosc, blosc.compress(b"\x92\x81\xa8__type__\x92\x05\x01")),
        ],
    )
    def test_the_next_message_is_not_blamed_for_an_unreadable_one(self, cls, data):
        codec = make_codec(cls, [point_serializer])
        with pytest.raises(DecodeError):
            codec.decode(data)

        assert round_trip(codec, Point(1, 2)) == Point(1, 2)

    @pytest.mark.parametrize(
        ("cls", "data"),
        [
            (JSON, b""),
            (JSON, b"\xff\xfe"),
            (JSON, b"[1] x"),
            (MsgPack, b""),
            (MsgPack, b"\x92\x01"),
            (MsgPack, b"\x01\x02"),
            (MsgPack, b"\x81\x80\x01"),
            (MsgPackBlosc, b""),
            (MsgPackBlosc, b"\x01"),
            (MsgPackBlosc, b"no blosc buffer at all"),
        ],
    )
    def test_what_is_unreadable_as_a_whole_is_an_error(self, cls, data):
        with pytest.raises(DecodeError, match=f"no {cls.__name__} message"):
            cls().decode_message(data)


class TestCodec:
    @all_codecs
    def test_a_codec_shows_the_types_that_it_was_taught(self, cls):
        codec = make_codec(cls, [point_serializer, uuid_serializer])

        assert str(codec) == f"{cls.__name__}[Point, UUID]"
        assert str(cls()) == f"{cls.__name__}[]"

    def test_codecs_share_no_serializers(self):
        make_codec(JSON, [point_serializer])

        with pytest.raises(SerializationError):
            make_codec(JSON, None).encode(Point(1, 2))

    def test_the_base_class_is_abstract(self):
        with pytest.raises(TypeError):
            Codec()  # type: ignore[abstract]

    def test_a_codec_of_a_user_needs_only_encode_and_decode(self):
        class Repr(Codec):
            def encode(self, data):
                return json.dumps(data, default=self.serialize_obj).encode()[::-1]

            def decode(self, data):
                return json.loads(data[::-1], object_hook=self.deserialize_obj)

        codec = make_codec(Repr, [point_serializer])

        assert codec.decode(codec.encode([Point(1, 2)])) == [Point(1, 2)]
        assert codec.decode_message(codec.encode(1)) == (1, None)
        with pytest.raises(DecodeError, match="Repr"):
            codec.decode_message(b"no message")
        with pytest.raises(DecodeError, match="number 9"):
            codec.decode(codec.encode({"__type__": [9, None]}))
        message, failure = codec.decode_message(codec.encode([0, 7, {"__type__": [9, None]}]))
        assert message == [0, 7, None]
        assert "number 9" in str(failure)


class TestSerializable:
    def test_a_decorated_class_survives(self):
        @serializable
        class A:
            def __init__(self, x, y):
                self.x = x
                self._y = y

            @property
            def y(self):
                return self._y

        codec = make_codec(JSON, [A.__serializer__])  # type: ignore[attr-defined]
        copy = round_trip(codec, A(1, [2]))

        assert type(copy) is A
        assert repr(copy) == "A(x=1, y=[2])"
        assert copy.__asdict__() == {"x": 1, "y": [2]}  # type: ignore[attr-defined]
        assert A.__fromdict__({"x": 1, "y": 2}).y == 2  # type: ignore[attr-defined]

    def test_parameters_of_all_kinds_that_have_a_name_are_served(self):
        @serializable()
        class A:
            def __init__(self, a, /, b, c=3, *, d):
                self.a, self.b, self.c, self.d = a, b, c, d

        codec = make_codec(MsgPack, [A.__serializer__])  # type: ignore[attr-defined]

        assert repr(round_trip(codec, A(1, 2, d=4))) == "A(a=1, b=2, c=3, d=4)"

    def test_the_repr_of_a_class_is_left_alone_on_request(self):
        @serializable(repr=False)
        class A:
            def __repr__(self):
                return "mine"

        assert repr(A()) == "mine"
        assert A.__serializer__()[0] is A  # type: ignore[attr-defined]

    def test_a_subclass_has_a_serializer_of_its_own(self):
        @serializable
        class A:
            def __init__(self, x):
                self.x = x

        class B(A):
            pass

        codec = make_codec(JSON, [A.__serializer__, B.__serializer__])  # type: ignore[attr-defined]

        assert type(round_trip(codec, B(1))) is B
        assert type(round_trip(codec, A(1))) is A

    def test_a_missing_attribute_shows_when_an_object_is_encoded(self):
        @serializable
        class A:
            def __init__(self, x):
                pass

        codec = make_codec(JSON, [A.__serializer__])  # type: ignore[attr-defined]

        with pytest.raises(SerializationError, match="has no attribute 'x'"):
            codec.encode(A(1))

    @pytest.mark.parametrize("parameter", ["*args", "**kwargs"])
    def test_parameters_without_a_name_are_refused(self, parameter):
        namespace: dict[str, Any] = {}
        exec(f"class A:\n    def __init__(self, {parameter}): pass", namespace)

        with pytest.raises(TypeError, match=rf"A.__init__\(\) takes \{parameter}"):
            serializable(namespace["A"])


@given(st.decimals())
@all_codecs
def test_an_opt_in_serializer_works_with_every_codec(cls, number):
    assume(not number.is_snan())
    codec = make_codec(cls, [decimal_serializer])

    assert str(round_trip(codec, number)) == str(number)


@pytest.mark.parametrize("cls", [JSON, MsgPack, MsgPackBlosc])
def test_a_serializer_may_encode_with_the_same_codec(cls):
    codec = cls()
    codec.add_serializer(uuid.UUID, lambda value: value.hex, uuid.UUID)
    codec.add_serializer(
        complex,
        lambda value: len(codec.encode([value.real, uuid.UUID(int=1), "x" * 100])),
        lambda size: complex(size, 0),
    )
    before, middle, after = codec.decode(codec.encode(["before", 1 + 2j, "after"]))
    assert (before, after) == ("before", "after")
    assert middle.real > 100


@pytest.mark.parametrize("cls", [MsgPack, MsgPackBlosc])
def test_a_message_whose_content_alone_is_unreadable_keeps_its_head(cls):
    codec = cls()
    packed = b"\x93\x00\x07" + b"\x91" * 2000 + b"\xc0"  # [0, 7, [[[...]]]]
    data = blosc.compress(packed) if cls is MsgPackBlosc else packed
    message, error = codec.decode_message(data)
    assert message == (0, 7, None)
    assert isinstance(error, DecodeError)
    with pytest.raises(DecodeError):
        codec.decode(data)


class TestSizeOfCompressedMessages:
    def test_a_small_message_that_would_become_a_large_one_is_refused_before_that(self):
        bomb = bytearray(blosc.compress(bytes(10_000)))
        bomb[4:8] = (2**31 - 16).to_bytes(4, "little")
        codec = MsgPackBlosc()
        codec.max_size = 1000
        with pytest.raises(DecodeError, match=r"2147483632 bytes .* max_frame=1000"):
            codec.decode(bytes(bomb))

    def test_what_the_peer_would_refuse_is_not_sent(self):
        codec = MsgPackBlosc()
        codec.max_size = 1000
        with pytest.raises(SerializationError, match="max_frame=1000"):
            codec.encode(bytes(1001))
        assert codec.decode(codec.encode(bytes(900))) == bytes(900)


@pytest.mark.parametrize(
    "data",
    [
        b"\x93\x00\x05",  # [0, 5, and no more
        b"\x93\x00\x05\x01junk",  # [0, 5, 1], and more
        b"\x93\x00\x05\xc1",  # a byte that MessagePack does not use
        b"\x92\x00" + b"\x91" * 2000 + b"\xc0",  # too deep, but not of three parts
        b"\x93\xdb\xff\xff\xff\xff\x05" + b"\x91" * 2000 + b"\xc0",  # whose head is a lie
    ],
)
def test_bytes_that_are_no_messagepack_are_no_message(data):
    with pytest.raises(DecodeError):
        MsgPack().decode_message(data)
