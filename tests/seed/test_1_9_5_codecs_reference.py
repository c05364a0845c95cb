"""Section 1.9.5: aiomas.codecs."""

from __future__ import annotations

from typing import Any

import pytest

import aiomas.codecs
from aiomas.codecs import JSON, Codec, MsgPack, MsgPackBlosc

all_codecs = pytest.mark.parametrize("cls", [JSON, MsgPack, MsgPackBlosc])


def test_section_1_9_5_serializable_example():
    @aiomas.codecs.serializable
    class A:
        def __init__(self, x, y):
            self.x = x
            self._y = y

        @property
        def y(self):
            return self._y

    codec = aiomas.codecs.JSON()
    codec.add_serializer(*A.__serializer__())  # type: ignore[attr-defined]
    a = codec.decode(codec.encode(A(1, 2)))

    assert type(a) is A
    assert repr(a) == "A(x=1, y=2)"


def test_section_1_9_5_serializable_adds_these_methods():
    @aiomas.serializable
    class A:
        def __init__(self, x, y=2):
            self.x = x
            self.y = y

    cls: Any = A

    assert cls(1).__asdict__() == {"x": 1, "y": 2}
    assert cls.__fromdict__({"x": 3, "y": 4}).__asdict__() == {"x": 3, "y": 4}
    type_, serialize, deserialize = cls.__serializer__()
    assert type_ is A
    assert deserialize(serialize(cls(5))).x == 5
    assert repr(cls(1)) == "A(x=1, y=2)"


def test_section_1_9_5_serializable_repr_parameter():
    @aiomas.serializable(repr=False)
    class A:
        def __init__(self, x):
            self.x = x

    assert repr(A(1)).startswith("<")


@all_codecs
def test_section_1_9_5_codec_encode_and_decode(cls):
    codec = cls()
    data = codec.encode(data={"a": [1]})

    assert isinstance(codec, Codec)
    assert isinstance(data, bytes)
    assert list(codec.decode(data=data)["a"]) == [1]


@all_codecs
def test_section_1_9_5_codec_add_serializer(cls):
    codec = cls()
    codec.add_serializer(type=complex, serialize=str, deserialize=complex)

    assert codec.decode(codec.encode(1j)) == 1j


@all_codecs
def test_section_1_9_5_codec_serialize_obj_and_deserialize_obj(cls):
    codec = cls()
    codec.add_serializer(complex, str, complex)

    obj_repr = codec.serialize_obj(obj=1j)

    assert codec.deserialize_obj(obj_repr=obj_repr) == 1j
    assert codec.deserialize_obj({"an ordinary": "dict"}) == {"an ordinary": "dict"}
