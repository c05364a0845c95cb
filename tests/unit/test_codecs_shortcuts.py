"""What is faster than `encode` and `decode_message` gives the same, or gives way to them."""

from __future__ import annotations

import json
import zlib
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiomas.codecs import JSON, Codec, MsgPack, MsgPackBlosc
from aiomas.exceptions import SerializationError
from tests.ids import plain

LARGE = 100_000  # bytes


class Own(Codec):
    """A codec of a user."""

    def encode(self, data: Any) -> bytes:
        return json.dumps(data, default=self.serialize_obj).encode()[::-1]

    def decode(self, data: bytes) -> Any:
        return json.loads(data[::-1], object_hook=self.deserialize_obj)


class OwnMsgPack(MsgPack):
    """A codec of a user, whose messages are not those of its base."""

    def encode(self, data: Any) -> bytes:
        return zlib.compress(super().encode(data), level=0)

    def decode_message(self, data: bytes | memoryview) -> Any:
        return super().decode_message(zlib.decompress(data))


class Lists(MsgPack):
    """A codec of a user, whose messages are those of its base, but not what it makes of them."""

    def decode_message(self, data: bytes | memoryview) -> Any:
        value, failure = super().decode_message(data)
        return (list(value) if isinstance(value, tuple) else value), failure


CODECS = [JSON, MsgPack, MsgPackBlosc, Own, OwnMsgPack, Lists]
all_codecs = pytest.mark.parametrize("cls", CODECS, ids=plain)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    # Bytes that look as if something began with them.
    | st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('[{"\\_\x91\x81'))
    | st.just("__type__"),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab", min_size=1), inner),
    max_leaves=20,
)


def taught(cls: type[Codec]) -> Codec:
    codec = cls()
    codec.add_serializer(Fraction, str, Fraction)
    return codec


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def by_shortcut(codec: Codec, chunk: bytes, payload: bytes) -> Any:
    """Return what somebody gets from *payload*, in *chunk*, who knows of the shortcuts."""
    shortcuts = codec.shortcuts()
    if shortcuts is not None and shortcuts.mark not in chunk and codec.is_shallow(payload):
        try:
            return shortcuts.decode(payload, use_list=False), None
        except Exception:  # noqa: BLE001 - whatever is wrong, it needs a closer look
            pass
    return codec.decode_message(payload)


class TestDecoding:
    @all_codecs
    @given(value=values)
    @example(value="__type__")
    @example(value={"__type_": 1})
    def test_a_shortcut_gives_the_same_value(self, cls, value):
        codec = taught(cls)
        payload = codec.encode([0, 1, value])
        assert by_shortcut(codec, payload, payload) == codec.decode_message(payload)

    def test_plain_messages_have_one(self):
        codec = MsgPack()
        payload = codec.encode([0, 1, {"key": "x" * 10}])
        shortcuts = codec.shortcuts()
        assert shortcuts is not None
        assert shortcuts.mark not in payload
        assert shortcuts.decode(payload, use_list=False) == (0, 1, {"key": "x" * 10})

    def test_all_that_holds_objects_has_a_mark(self):
        codec = taught(MsgPack)
        shortcuts = codec.shortcuts()
        assert shortcuts is not None
        assert shortcuts.mark in codec.encode([0, 1, [Fraction(1, 3)]])

    @all_codecs
    @pytest.mark.parametrize("number_of_objects", [1, 2])
    def test_objects_arrive_as_what_they_are(self, cls, number_of_objects):
        codec = taught(cls)
        content = [Fraction(1, 3)] * number_of_objects
        payloads = [codec.encode([0, 1, part]) for part in ("before", content, "after")]
        chunk = b"".join(payloads)
        read = [by_shortcut(codec, chunk, payload)[0][2] for payload in payloads]
        assert read[0] == "before"
        assert list(read[1]) == content
        assert read[2] == "after"

    @all_codecs
    def test_an_object_that_cannot_be_made_is_an_error_of_its_message(self, cls):
        codec = taught(cls)
        payload = codec.encode([0, 1, {"__type__": [9, None]}])
        message, failure = by_shortcut(codec, payload, payload)
        assert list(message) == [0, 1, None]
        assert "number 9" in str(failure)

    def test_the_key_of_objects_may_be_written_in_other_ways(self):
        codec = taught(JSON)
        payload = rb'[0, 1, {"\u005f_type__": [0, "1/3"]}]'
        assert by_shortcut(codec, payload, payload) == ([0, 1, Fraction(1, 3)], None)

    @pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x93\x00", b"\x93\x00\x01\xc0\xc0"])
    def test_what_is_no_message_is_none_on_the_shortcut(self, payload):
        codec = MsgPack()
        shortcuts = codec.shortcuts()
        assert shortcuts is not None
        try:
            message = shortcuts.decode(payload, use_list=False)
        except Exception:  # noqa: BLE001 - of any kind
            message = None
        assert message is None

    def test_unusual_keys_are_left_to_those_who_look_closer(self):
        codec = MsgPack()
        payload = codec.encode([0, 1, {1: "one", None: "none"}])
        shortcuts = codec.shortcuts()
        assert shortcuts is not None
        with pytest.raises(ValueError, match="key"):
            shortcuts.decode(payload, use_list=False)
        assert by_shortcut(codec, payload, payload) == ((0, 1, {1: "one", None: "none"}), None)


class TestDepth:
    @all_codecs
    @given(value=values, limit=st.integers(0, 40))
    def test_what_is_shallow_at_first_sight_is_not_nested_too_deeply(self, cls, value, limit):
        codec = cls()
        codec.max_nesting = limit
        payload = codec.encode([0, 1, value])
        if codec.is_shallow(payload):
            assert codec.decode_message(payload)[1] is None

    @all_codecs
    @pytest.mark.parametrize("levels", range(1, 12))
    def test_what_is_too_deep_is_never_called_shallow(self, cls, levels):
        codec = cls()
        codec.max_nesting = 5
        payload = codec.encode([0, 1, nested(levels)])
        failure = codec.decode_message(payload)[1]
        assert (failure is None) is (levels <= 5)
        assert failure is None or not codec.is_shallow(payload)
        assert list(by_shortcut(codec, payload, payload)[0])[:2] == [0, 1]
        assert (by_shortcut(codec, payload, payload)[1] is None) is (levels <= 5)

    @all_codecs
    def test_what_has_no_room_for_so_many_levels_is_shallow(self, cls):
        codec = cls()
        payload = codec.encode([0, 1, "x"])
        codec.max_nesting = len(payload)
        assert codec.is_shallow(payload)

    def test_messages_with_few_lists_are_shallow_though_longer(self):
        codec = MsgPack()
        codec.max_nesting = 5
        assert codec.is_shallow(codec.encode([0, 1, ["path", ["x" * 200], {}]]))


class TestEncodingOfLargeMessages:
    @all_codecs
    @given(value=values)
    def test_it_gives_the_same_bytes(self, cls, value):
        codec = taught(cls)
        assert bytes(codec.encode_large([0, 1, value])) == codec.encode([0, 1, value])

    @all_codecs
    def test_one_after_the_other_is_the_same(self, cls):
        codec = taught(cls)
        for message in ("x" * LARGE, "y", ["z" * 2 * LARGE, Fraction(1, 3)], "x" * LARGE):
            data = codec.encode_large(message)
            assert bytes(data) == codec.encode(message)

    @all_codecs
    def test_what_is_still_held_is_not_written_over(self, cls):
        codec = taught(cls)
        messages = [letter * LARGE for letter in "abc"]
        held = [codec.encode_large(message) for message in messages]
        codec.encode("d" * LARGE)
        assert [bytes(data) for data in held] == [codec.encode(message) for message in messages]

    @all_codecs
    def test_a_part_that_is_still_held_is_not_written_over(self, cls):
        codec = taught(cls)
        part = memoryview(codec.encode_large("a" * LARGE))[LARGE // 2 :]
        for letter in "bc":
            codec.encode_large(letter * LARGE)
        assert bytes(part) == codec.encode("a" * LARGE)[LARGE // 2 :]

    def test_memory_that_nobody_holds_is_used_again(self):
        codec = MsgPack()
        view = codec.encode_large("a" * LARGE)
        assert isinstance(view, memoryview)
        owner = view.obj
        del view
        view = codec.encode_large("b" * LARGE)
        assert isinstance(view, memoryview)
        assert view.obj is owner

    def test_memory_of_a_huge_message_is_not_kept(self):
        codec = MsgPack()
        view = codec.encode_large(bytes(18 << 20))
        assert isinstance(view, memoryview)
        owner = view.obj
        del view
        view = codec.encode_large("b" * LARGE)
        assert isinstance(view, memoryview)
        assert view.obj is not owner

    @all_codecs
    @pytest.mark.parametrize("how", ["encode", "encode_large"])
    def test_a_serializer_may_encode_something_itself(self, cls, how):
        codec = cls()
        inner: list[bytes] = []

        def serialize(value: complex) -> list[float]:
            inner.append(bytes(getattr(codec, how)(["inner" * LARGE, value.real])))
            return [value.real, value.imag]

        codec.add_serializer(complex, serialize, lambda parts: complex(*parts))
        message = ["x" * LARGE, 1 + 2j, "y" * LARGE, 3 + 4j]

        data = bytes(codec.encode_large(message))
        again = bytes(codec.encode_large(message))

        assert list(codec.decode(data)) == message
        assert again == data == codec.encode(message)
        plain_inner = [codec.encode(["inner" * LARGE, real]) for real in (1.0, 3.0)]
        assert inner == plain_inner * 3

    @all_codecs
    def test_after_an_error_the_next_message_is_whole(self, cls):
        codec = taught(cls)
        codec.encode_large("x" * LARGE)
        with pytest.raises(SerializationError, match="object"):
            codec.encode_large(["x" * LARGE, object()])
        assert bytes(codec.encode_large("y" * LARGE)) == codec.encode("y" * LARGE)

    @pytest.mark.parametrize("value", [2**64, nested(2_000), "\ud800"], ids=["int", "deep", "text"])
    @pytest.mark.parametrize("cls", [MsgPack, MsgPackBlosc, OwnMsgPack], ids=plain)
    def test_what_the_library_refuses_is_the_same_error(self, cls, value):
        codec = cls()
        errors = []
        for encode in (codec.encode, codec.encode_large):
            with pytest.raises(SerializationError, match="cannot encode") as failed:
                encode(["x" * LARGE, value])
            errors.append(str(failed.value))
        assert errors[0] == errors[1]
        assert bytes(codec.encode_large("y")) == codec.encode("y")
