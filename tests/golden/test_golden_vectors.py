"""Our codecs read and write exactly the bytes that aiomas 0.6 to 2.0 do."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import arrow
import pytest

import aiomas.codecs

from .codecs_under_test import CODECS, make_codec, need, payload_of, read_independently, unpacked
from .vectors import FRAMES, JSON, MESSAGES, MSGPACK, Point, Remote, remote_serializer

VECTORS = [
    pytest.param(codec, name, id=f"{codec}-{name.replace(' ', '_')}")
    for codec, frames in FRAMES.items()
    for name in frames
]


def as_decoded(codec: str, value: Any) -> Any:
    """Return *value* with the sequences that *codec* decodes to, comparable even if not finite."""
    match value:
        case list() | tuple():
            items = [as_decoded(codec, item) for item in value]
            return items if codec == "JSON" else tuple(items)
        case dict():
            return {key: as_decoded(codec, item) for key, item in value.items()}
        case float() if math.isnan(value):
            return "not a number"
    return value


def as_represented(value: Any) -> Any:
    """Return *value* with its objects as they travel."""
    match value:
        case list():
            return [as_represented(item) for item in value]
        case dict():
            return {key: as_represented(item) for key, item in value.items()}
        case arrow.Arrow():
            return {"__type__": [0, value.isoformat()]}
        case Point():
            return {"__type__": [1, asdict(value)]}
        case Remote():
            return {"__type__": [2, value.path]}
    return value


def test_each_message_has_a_vector_for_each_codec_that_can_hold_it() -> None:
    assert MSGPACK.keys() == FRAMES["MsgPackBlosc"].keys() == MESSAGES.keys()
    assert MESSAGES.keys() - JSON.keys() == {"bytes"}


@pytest.mark.parametrize(("codec", "name"), VECTORS)
def test_vector_says_the_same_to_an_independent_library(codec: str, name: str) -> None:
    need(codec)
    message = read_independently(codec, FRAMES[codec][name])
    expected = as_represented(MESSAGES[name])
    assert as_decoded("JSON", message) == as_decoded("JSON", expected)


@pytest.mark.parametrize(("codec", "name"), VECTORS)
def test_vector_decodes_to_its_message(codec: str, name: str) -> None:
    message = make_codec(codec).decode(payload_of(FRAMES[codec][name]))
    assert as_decoded(codec, message) == as_decoded(codec, MESSAGES[name])
    assert type(message) is (list if codec == "JSON" else tuple)


@pytest.mark.parametrize(("codec", "name"), VECTORS)
def test_message_encodes_to_its_vector(codec: str, name: str) -> None:
    payload = make_codec(codec).encode(MESSAGES[name])
    if codec == "MsgPackBlosc":  # what it compresses to is up to the version of Blosc
        frame = len(payload).to_bytes(4, "big") + payload
        assert unpacked(codec, frame) == payload_of(MSGPACK[name])
    else:
        assert payload == payload_of(FRAMES[codec][name])


@pytest.mark.parametrize("codec", CODECS)
def test_date_keeps_its_offset_and_microseconds(codec: str) -> None:
    frame = FRAMES[codec]["date with offset"]
    date = make_codec(codec).decode(payload_of(frame))[2]
    assert isinstance(date, arrow.Arrow)
    assert date.isoformat() == "2015-06-01T12:34:56.789012+02:00"


@pytest.mark.parametrize("codec", ["MsgPack", "MsgPackBlosc"])
def test_text_and_bytes_stay_apart(codec: str) -> None:
    instance = make_codec(codec)
    assert instance.decode(instance.encode(["spam", b"spam"])) == ("spam", b"spam")


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b'[0,1,["agents/0/add",[1],{"b":3}]]', id="no_spaces"),
        pytest.param(b' [ 0,\n1, ["agents/0/add", [1], {"b": 3} ] ]\n', id="more_spaces"),
        pytest.param(b'[0, 1, ["agents\\/0\\/add", [1], {"\\u0062": 3}]]', id="escapes"),
    ],
)
def test_json_of_other_writers_decodes(payload: bytes) -> None:
    assert make_codec("JSON").decode(payload) == MESSAGES["call"]


def test_json_of_other_writers_may_hold_utf_8() -> None:
    assert make_codec("JSON").decode('[1, 6, "ä€😀"]'.encode()) == [1, 6, "ä€😀"]


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(
            b"\xdc\x00\x03\xcc\x00\xd0\x01"  # array of 16 bits' length, integers of 8 bits
            b"\xdd\x00\x00\x00\x03\xd9\x0cagents/0/add"  # array of 32 bits' length, long string
            b"\x91\xd3\x00\x00\x00\x00\x00\x00\x00\x01"  # signed integer of 64 bits
            b"\xde\x00\x01\xda\x00\x01b\xcf\x00\x00\x00\x00\x00\x00\x00\x03",
            id="longest_forms",
        ),
    ],
)
def test_msgpack_of_other_writers_decodes(payload: bytes) -> None:
    message = make_codec("MsgPack").decode(payload)
    assert as_decoded("JSON", message) == MESSAGES["call"]


def test_msgpack_float_of_32_bits_decodes() -> None:
    assert make_codec("MsgPack").decode(b"\x93\x01\x06\xca\x3f\xc0\x00\x00") == (1, 6, 1.5)


def test_serializers_are_numbered_in_the_order_in_which_they_were_added() -> None:
    codec = aiomas.codecs.JSON()
    codec.add_serializer(*Point.__serializer__())
    codec.add_serializer(Remote, lambda remote: remote.path, Remote)
    assert codec.encode([Remote("a"), Point(1, "z")]) == (
        b'[{"__type__": [1, "a"]}, {"__type__": [0, {"x": 1, "y": "z"}]}]'
    )


def test_object_is_the_serializer_of_last_resort_wherever_it_was_added() -> None:
    codec = aiomas.codecs.JSON()
    codec.add_serializer(*remote_serializer())
    codec.add_serializer(*Point.__serializer__())
    assert codec.encode([Remote("a"), Point(1, "z")]) == (
        b'[{"__type__": [0, "a"]}, {"__type__": [1, {"x": 1, "y": "z"}]}]'
    )


@pytest.mark.parametrize("codec", CODECS)
def test_representations_may_hold_objects_again(codec: str) -> None:
    need(codec)

    class Line:
        def __init__(self, start: Point, end: Point) -> None:
            self.ends = [start, end]

    instance = CODECS[codec]()
    instance.add_serializer(*Point.__serializer__())
    instance.add_serializer(Line, lambda line: {"ends": line.ends}, lambda d: Line(*d["ends"]))
    payload = instance.encode(Line(Point(1, "a"), Point(2, "b")))
    assert read_independently(codec, len(payload).to_bytes(4, "big") + payload) == {
        "__type__": [
            1,
            {
                "ends": [
                    {"__type__": [0, {"x": 1, "y": "a"}]},
                    {"__type__": [0, {"x": 2, "y": "b"}]},
                ]
            },
        ]
    }
    assert instance.decode(payload).ends == [Point(1, "a"), Point(2, "b")]
