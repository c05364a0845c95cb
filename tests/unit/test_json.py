"""JSON with the parts of the standard library: the same as with the whole of it, word for word."""

from __future__ import annotations

import json
import math
import random
from collections import OrderedDict
from enum import IntEnum
from typing import Any

import pytest

from aiomas import _json
from aiomas.codecs import JSON, MsgPackBlosc, make_codec, uuid_serializer
from aiomas.exceptions import DecodeError, SerializationError


class Level(IntEnum):
    HIGH = 3


class Text(str):
    __slots__ = ()


SCALARS: list[Any] = [
    *(None, True, False, 0, -1, 10**30, -0.0, 1.5, 1e300, 5e-324, math.nan, math.inf, -math.inf),
    *(
        "",
        "text",
        'quo"te',
        "back\\slash",
        "\0\x1f\x7f\n\t",
        "\u00e9\u2028",
        "\U0001f600",
        "\ud800",
    ),
    *(Level.HIGH, Text("sub\u00e9"), (), [], {}, 2j),
]
KEYS: list[Any] = ["", "key", "\u00e9", 1, 1.5, math.nan, True, None, Level.HIGH, Text("t")]
BAD_KEYS = [(1, 2), b"bytes", 2j]


def random_value(chooser: random.Random, depth: int = 4) -> Any:
    kind = chooser.randrange(6)
    if depth == 0 or kind < 2:
        return chooser.choice(SCALARS)
    parts = [random_value(chooser, depth - 1) for _ in range(chooser.randrange(4))]
    if kind < 4:
        return parts if kind == 2 else tuple(parts)
    keys = KEYS + BAD_KEYS if chooser.random() < 0.05 else KEYS
    return (dict if kind == 4 else OrderedDict)((chooser.choice(keys), part) for part in parts)


def outcome(function, *args):
    """Return what a call returns, or the kind and text of its error, so that all of it compares."""
    try:
        return repr(function(*args))
    except (TypeError, ValueError, RecursionError) as exc:
        return type(exc), str(exc)


def default(value: Any) -> Any:
    if isinstance(value, complex):
        return [value.real, value.imag]
    raise TypeError(f"no {value!r}")


def written(value: Any) -> str:
    return "".join(_json.make_writer(default)(value, 0))


@pytest.fixture(params=[True, False], ids=["c", "python"])
def writer_kind(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(_json, "_c_make_encoder", None)


@pytest.mark.usefixtures("writer_kind")
class TestWriter:
    @pytest.mark.parametrize("seed", range(20))
    def test_what_is_written_or_refused_is_that_of_the_standard_library(self, seed):
        chooser = random.Random(seed)
        for _ in range(100):
            value = random_value(chooser)
            assert outcome(written, value) == outcome(
                lambda v: json.dumps(v, default=default), value
            )

    def test_a_value_that_holds_itself_is_found_at_once(self):
        codec = JSON()
        value: list[Any] = ["x" * 100]
        value.append({"a": value})
        for _ in range(3):  # what the error left behind is not found by the next message
            with pytest.raises(SerializationError, match="Circular reference detected"):
                codec.encode(value)
            assert codec.encode([value[0], value[0]]) == json.dumps([value[0]] * 2).encode()

    def test_what_an_error_interrupted_can_be_written_afterwards(self):
        codec = JSON()
        inner: list[Any] = [object()]
        outer = {"inner": inner}
        with pytest.raises(SerializationError, match="object"):
            codec.encode(outer)
        inner[0] = 1

        assert codec.encode(outer) == b'{"inner": [1]}'

    def test_a_serializer_may_encode_with_the_same_codec(self):
        codec = JSON()
        shared = [1, 2]
        value = [shared, 1j]
        codec.add_serializer(complex, lambda _: codec.encode({"in": shared}).decode(), complex)
        codec.add_serializer(bytes, lambda _: codec.encode(value[:1]).decode(), bytes)

        for _ in range(2):
            assert json.loads(codec.encode(value))[1] == {"__type__": [0, '{"in": [1, 2]}']}
            assert json.loads(codec.encode([value, b""]))[1] == {"__type__": [1, "[[1, 2]]"]}


DOCUMENTS = [
    *("", " ", "\n\t\r ", "1", " 1 ", "\n[1, 2]\t", "[1] x", "[1]]", "1 2", "\ufeff1", "\u00a01"),
    *("[", "]", "{", "[1,", "[1,]", "[1 2]", '{"a"}', '{"a":}', '{"a": 1,}', "{1: 2}", "{'a': 1}"),
    *('"', '"\\', '"\\x"', '"\\u12"', '"\\ud83d\\ude00"', '"\\ud800"', '"\n"', "nul", "nan", "-"),
    *("NaN", "-Infinity", "[Infinity]", "01", "1.", ".5", "1e5", "1e999", "-0", "9" * 5000, "+1"),
    *('{"a": 1, "a": 2}', '{"__type__": 1}', '[{"__type__": 1}, x', " x", "  [x]", "\x0c1"),
]


class TestReader:
    @pytest.mark.parametrize("hooked", [False, True])
    @pytest.mark.parametrize("document", DOCUMENTS, ids=lambda text: repr(text)[:20])
    def test_a_document_is_read_or_refused_as_by_the_standard_library(self, document, hooked):
        seen: list[list[Any]] = [[], []]
        hooks = [log.append for log in seen] if hooked else [None, None]

        ours = outcome(_json.make_reader(hooks[0]), document)

        assert ours == outcome(json.JSONDecoder(object_hook=hooks[1]).decode, document)
        assert seen[0] == seen[1]

    @pytest.mark.parametrize("seed", range(10))
    def test_damaged_documents_are_read_or_refused_in_the_same_way(self, seed):
        chooser = random.Random(seed)
        read, decode = _json.make_reader(), json.JSONDecoder().decode
        for _ in range(200):
            text = list(json.dumps([random_value(chooser, 3)], default=default, skipkeys=True))
            for _ in range(chooser.randrange(4)):
                at = chooser.randrange(len(text))
                text[at : at + chooser.randrange(3)] = chooser.choice('[]{},:" \n\\u0e-."')
            document = "".join(text)
            assert outcome(read, document) == outcome(decode, document)

    def test_a_reader_can_be_used_again_after_what_is_nested_too_deeply(self):
        read = _json.make_reader()
        with pytest.raises(RecursionError):
            read("[" * 200_000)

        assert read(" [1] ") == [1]


class TestBuffers:
    @pytest.mark.parametrize("cls", [JSON, MsgPackBlosc])
    @pytest.mark.parametrize("kind", ["good", "bad object", "too deep", "unreadable"])
    def test_nothing_that_comes_of_a_message_keeps_its_buffer(self, cls, kind):
        codec = make_codec(cls, [uuid_serializer])
        content = {"bad object": {"__type__": [0, "x"]}, "too deep": [[[[1]]]]}.get(kind, ["x" * 9])
        buffer = bytearray(cls().encode([0, 7, content]))
        if kind == "unreadable":
            del buffer[-4:]
        codec.max_nesting = 3 if kind == "too deep" else 64
        view: Any = memoryview(buffer)
        kept: Any = None
        try:
            kept = codec.decode_message(view)
        except DecodeError as exc:
            kept = str(exc)
        del view

        assert isinstance(kept, str) == (kind == "unreadable")
        assert isinstance(kept, str) or (kept[1] is None) == (kind == "good")
        buffer.append(0)  # refused while anybody has a view of it
