"""The ready-made serializers: each with each codec that can carry what it makes."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import sys
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from aiomas import _serializers, codecs
from aiomas.codecs import JSON, MsgPack, MsgPackBlosc, make_codec
from aiomas.exceptions import DecodeError, SerializationError

all_codecs = pytest.mark.parametrize("cls", [JSON, MsgPack, MsgPackBlosc])
binary_codecs = pytest.mark.parametrize("cls", [MsgPack, MsgPackBlosc])


def round_trip(cls, serializers, value):
    codec = make_codec(cls, serializers)
    return codec.decode(codec.encode(value))


@pytest.mark.parametrize("name", [name for name in codecs.__all__ if name.endswith("_serializer")])
def test_serializers_are_found_beside_the_codecs(name):
    assert getattr(codecs, name) is getattr(_serializers, name)


zones = st.none() | st.integers(-23 * 3600, 23 * 3600).map(
    lambda seconds: datetime.timezone(datetime.timedelta(seconds=seconds))
)


@given(st.datetimes(timezones=zones))
@all_codecs
def test_dates_keep_their_offset_and_microseconds(cls, date):
    copy = round_trip(cls, [codecs.datetime_serializer], date)

    assert copy == date
    assert copy.utcoffset() == date.utcoffset()


@given(st.decimals())
@all_codecs
def test_decimals_keep_their_digits_and_their_kind(cls, number):
    assert str(round_trip(cls, [codecs.decimal_serializer], number)) == str(number)


@given(st.uuids())
@all_codecs
def test_uuids_survive(cls, value):
    assert round_trip(cls, [codecs.uuid_serializer], value) == value


@pytest.mark.parametrize(
    "serializer", [codecs.datetime_serializer, codecs.decimal_serializer, codecs.uuid_serializer]
)
@all_codecs
def test_what_stands_for_no_such_value_is_a_decode_error(cls, serializer):
    codec = make_codec(cls, [serializer])

    with pytest.raises(DecodeError):
        codec.decode(cls().encode({"__type__": [0, "nonsense"]}))


class Color(enum.Enum):
    RED = object()
    GREEN = (1, 2)


class Level(enum.IntEnum):
    HIGH = 3


@all_codecs
@pytest.mark.parametrize("color", Color)
def test_members_of_an_enumeration_are_the_same_objects_again(cls, color):
    assert round_trip(cls, [codecs.enum_serializer(Color)], color) is color


@all_codecs
def test_members_of_an_integer_enumeration_travel_as_numbers(cls):
    assert round_trip(cls, [], Level.HIGH) == 3


@dataclasses.dataclass
class Order:
    name: str
    price: decimal.Decimal
    tags: list[str] = dataclasses.field(default_factory=list, kw_only=True)
    length: int = dataclasses.field(init=False)

    def __post_init__(self):
        self.length = len(self.name)


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    left: object
    right: object


@all_codecs
def test_dataclasses_survive_with_what_is_computed_from_their_fields(cls):
    order = Order("spam", decimal.Decimal("1.50"), tags=["a"])

    copy = round_trip(cls, [codecs.decimal_serializer, codecs.dataclass_serializer(Order)], order)

    assert dataclasses.replace(copy, tags=list(copy.tags)) == order
    assert copy.length == 4


@all_codecs
def test_dataclasses_may_hold_each_other_and_may_be_frozen(cls):
    pair = Pair(Pair(1, 2), Pair(None, "x"))

    assert round_trip(cls, [codecs.dataclass_serializer(Pair)], pair) == pair


@all_codecs
def test_a_dataclass_with_another_number_of_fields_is_a_decode_error(cls):
    codec = make_codec(cls, [codecs.dataclass_serializer(Pair)])

    with pytest.raises(DecodeError, match="Pair"):
        codec.decode(cls().encode({"__type__": [0, [1, 2, 3]]}))


@pytest.mark.parametrize("no_dataclass", [int, Pair(1, 2), "Pair"])
def test_only_dataclasses_get_their_serializer(no_dataclass):
    with pytest.raises(TypeError, match="no dataclass"):
        codecs.dataclass_serializer(no_dataclass)


dtypes = st.one_of(
    numpy_st.scalar_dtypes(),
    numpy_st.byte_string_dtypes(),
    numpy_st.unicode_string_dtypes(),
    numpy_st.array_dtypes(numpy_st.scalar_dtypes(), max_size=3),
)
arrays = dtypes.flatmap(
    lambda dtype: numpy_st.arrays(dtype, numpy_st.array_shapes(min_dims=0, min_side=0))
)


@given(arrays)
@binary_codecs
def test_arrays_of_any_shape_and_type_survive(cls, array):
    copy = round_trip(cls, [codecs.numpy_serializer], array)

    assert copy.dtype == array.dtype
    assert copy.shape == array.shape
    assert copy.tobytes() == array.tobytes()


@binary_codecs
def test_arrays_with_gaps_survive(cls):
    array = np.arange(24).reshape(4, 6)

    for view in (array.T, array[::2, 1:], array[::-1], np.asfortranarray(array)):
        np.testing.assert_array_equal(round_trip(cls, [codecs.numpy_serializer], view), view)


@binary_codecs
def test_structures_in_structures_survive(cls):
    dtype = np.dtype([("a", "<i2"), ("b", [("c", ">f8"), ("d", "S3", (2,))])])
    array = np.zeros(3, dtype)
    array["b"]["d"] = b"xyz"

    copy = round_trip(cls, [codecs.numpy_serializer], array)

    assert copy.dtype == dtype
    assert (copy == array).all()


def test_a_received_array_is_a_read_only_view_of_the_message():
    copy = round_trip(MsgPack, [codecs.numpy_serializer], np.arange(10))

    assert copy.base is not None
    assert not copy.flags.owndata
    assert not copy.flags.writeable
    assert copy.copy().flags.writeable


@binary_codecs
def test_arrays_of_python_objects_are_refused(cls):
    with pytest.raises(SerializationError, match="Python objects"):
        make_codec(cls, [codecs.numpy_serializer]).encode(np.array([object()]))


@binary_codecs
@pytest.mark.parametrize("descr", ["|O", [["a", "|O"]]])
def test_a_peer_cannot_make_an_array_of_python_objects(cls, descr):
    codec = make_codec(cls, [codecs.numpy_serializer])
    data = cls().encode({"__type__": [0, [descr, [1], bytes(8)]]})

    with pytest.raises(DecodeError, match="Python objects"):
        codec.decode(data)


@binary_codecs
def test_an_array_of_another_size_than_its_shape_is_a_decode_error(cls):
    codec = make_codec(cls, [codecs.numpy_serializer])

    with pytest.raises(DecodeError, match="ndarray"):
        codec.decode(cls().encode({"__type__": [0, ["<i4", [1000, 1000], bytes(8)]]}))


def test_arrays_need_a_codec_that_knows_bytes():
    with pytest.raises(SerializationError):
        make_codec(JSON, [codecs.numpy_serializer]).encode(np.arange(3))


def test_the_serializer_for_arrays_needs_numpy_only_when_it_is_called(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)

    with pytest.raises(ImportError):
        codecs.numpy_serializer()


def test_each_serializer_says_for_which_type_it_is():
    assert codecs.datetime_serializer()[0] is datetime.datetime
    assert codecs.decimal_serializer()[0] is decimal.Decimal
    assert codecs.uuid_serializer()[0] is uuid.UUID
    assert codecs.enum_serializer(Color)()[0] is Color
    assert codecs.dataclass_serializer(Pair)()[0] is Pair
    assert codecs.numpy_serializer()[0] is np.ndarray
