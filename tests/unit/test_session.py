"""The protocol of one connection: both ends joined, without a socket."""

from __future__ import annotations

from typing import Any

import blosc
import pytest

from aiomas import _hello
from aiomas._hello import Hello
from aiomas._limits import Limits
from aiomas._session import (
    BAD_REPLY,
    BAD_REQUEST,
    CALL,
    CANCEL,
    EXCEPTION,
    FAILURE,
    HELLO,
    PING,
    PONG,
    REQUEST,
    RESULT,
    Session,
    State,
)
from aiomas._wire import frame
from aiomas.codecs import JSON, Codec, MsgPack, MsgPackBlosc, make_codec, uuid_serializer
from aiomas.exceptions import ConnectionLost, Outcome, ProtocolError, SerializationError

pytestmark = pytest.mark.parametrize("codec", [JSON, MsgPack, MsgPackBlosc])

CODECS = (JSON, MsgPack, MsgPackBlosc)
DEFAULTS = Limits()


class Pair:
    """The two ends of a connection, and what one can let them read."""

    def __init__(self, codec: type[Codec], limits: Limits = DEFAULTS) -> None:
        self.codec = codec
        self.client: Session[str] = Session(codec(), limits)
        self.server: Session[str] = Session(codec(), limits)

    def feed(self, end: Session[str], *messages: Any) -> list[Any]:
        """Let *end* read messages that this test made up."""
        return read(end, b"".join(frame(self.codec().encode(m)) for m in messages))

    def agree(self) -> None:
        """Let both ends agree on the extensions."""
        [(kind, message_id, _)] = read(self.server, self.client.hello(self.hello, "hello"))
        assert kind == HELLO
        read(self.client, self.server.welcome(message_id, self.hello, extended=True))

    @property
    def hello(self) -> Hello:
        return Hello().speaking(self.codec())


def read(end: Session[str], data: bytes) -> list[Any]:
    """Let *end* read something, and return the events without the sizes of their messages."""
    return [event[:3] for event in end.feed(data)]


@pytest.fixture
def pair(codec: type[Codec]) -> Pair:
    return Pair(codec)


@pytest.fixture
def extended(codec: type[Codec]) -> Pair:
    """A pair that has agreed on the extensions."""
    pair = Pair(codec)
    pair.agree()
    return pair


def test_a_request_arrives_with_its_id_and_content(pair):
    [(kind, message_id, content)] = read(pair.server, pair.client.request("ohai", "me"))

    assert (kind, message_id, content) == (REQUEST, 0, "ohai")


def test_a_reply_comes_back_with_the_waiter_of_its_request(pair):
    [(_, message_id, _)] = read(pair.server, pair.client.request("ohai", "me"))

    assert list(pair.client.pending) == ["me"]
    assert read(pair.client, pair.server.reply(RESULT, message_id, "cya")) == [
        (RESULT, "me", "cya")
    ]
    assert list(pair.client.pending) == []


def test_a_failure_comes_back_with_the_waiter_of_its_request(pair):
    pair.client.request("ohai", "me")

    assert read(pair.client, pair.server.reply(EXCEPTION, 0, "Traceback")) == [
        (EXCEPTION, "me", "Traceback")
    ]


def test_replies_may_come_in_any_order(pair):
    for waiter in "abc":
        pair.client.request(waiter, waiter)
    stream = b"".join(pair.server.reply(RESULT, message_id, message_id) for message_id in (2, 0, 1))

    assert read(pair.client, stream) == [(RESULT, "c", 2), (RESULT, "a", 0), (RESULT, "b", 1)]


def test_both_ends_number_their_requests_on_their_own(pair):
    to_server = pair.client.request("a", "mine") + pair.client.request("b", "mine, too")
    to_client = pair.server.request("c", "yours")

    assert [message_id for _, message_id, _ in read(pair.server, to_server)] == [0, 1]
    assert read(pair.client, to_client) == [(REQUEST, 0, "c")]
    assert list(pair.client.pending) == ["mine", "mine, too"]


def test_messages_arrive_whole_however_the_stream_is_cut(pair):
    stream = pair.client.request(["spam"] * 3, "a") + pair.client.request("eggs", "b")

    events = [event for i in range(len(stream)) for event in read(pair.server, stream[i : i + 1])]

    assert [(message_id, list(content)) for _, message_id, content in events] == [
        (0, ["spam"] * 3),
        (1, list("eggs")),
    ]


def test_a_request_that_cannot_be_encoded_leaves_no_trace(pair):
    with pytest.raises(SerializationError):
        pair.client.request(object(), "me")

    assert list(pair.client.pending) == []
    [(_, message_id, _)] = read(pair.server, pair.client.request("ohai", "me"))
    assert message_id == 0


def test_a_reply_that_cannot_be_encoded_is_an_error_of_the_one_who_replies(pair):
    with pytest.raises(SerializationError):
        pair.server.reply(RESULT, 0, object())


def test_what_the_codec_of_a_user_raises_is_a_serialization_error(pair, codec):
    class Picky(codec):  # type: ignore[misc,valid-type]
        def encode(self, data):
            return {}[data[2]]

    session: Session[str] = Session(Picky())
    with pytest.raises(SerializationError, match="KeyError") as info:
        session.request("ohai", "me")
    assert isinstance(info.value.__cause__, KeyError)


def test_a_message_over_the_limit_is_not_sent(codec):
    pair = Pair(codec, Limits(max_frame=100))
    noise = "".join(map(chr, range(32, 127))) * 2  # which is not compressed below the limit

    with pytest.raises(SerializationError, match="max_frame=100"):
        pair.client.request(noise, "me")
    with pytest.raises(SerializationError, match="max_frame=100"):
        pair.server.reply(RESULT, 0, noise)
    assert list(pair.client.pending) == []


def test_a_message_over_the_limit_is_not_read(codec):
    pair = Pair(codec, Limits(max_frame=100))

    with pytest.raises(ProtocolError, match="101 bytes"):
        read(pair.client, frame(b"x" * 101))


def test_an_unreadable_frame_is_a_protocol_error_with_its_cause(pair):
    with pytest.raises(ProtocolError, match="unreadable frame of 3 bytes") as info:
        read(pair.client, frame(b"\xff\xfe\xc1"))
    assert info.value.__cause__ is not None


@pytest.mark.parametrize(
    "message",
    [
        "spam",
        None,
        5,
        [],
        [0, 1],
        [0, 1, 2, 3],
        [0, "1", "x"],
        [0, None, "x"],
        [0, 1.0, "x"],
        [0, True, "x"],
        [3, 1, "x"],
        [-1, 1, "x"],
        ["0", 1, "x"],
        [[0], 1, "x"],
        {"a": 1},
    ],
)
def test_what_is_no_message_is_a_protocol_error(pair, message):
    with pytest.raises(ProtocolError, match=r"no \[type, id, content\]"):
        pair.feed(pair.client, message)


def test_a_message_that_is_nested_deeper_than_python_prints_is_a_protocol_error(codec):
    deep = {JSON: b"[" * 900 + b"]" * 900, MsgPack: b"\x91" * 1000 + b"\xc0"}
    deep[MsgPackBlosc] = blosc.compress(deep[MsgPack])

    with pytest.raises(ProtocolError):
        list(Session(codec()).feed(frame(deep[codec])))


def test_messages_before_a_bad_one_are_read(pair):
    codec = pair.codec()
    stream = frame(codec.encode([REQUEST, 0, "ohai"])) + frame(codec.encode("spam"))
    events = pair.server.feed(stream)

    assert next(events)[:3] == (REQUEST, 0, "ohai")
    with pytest.raises(ProtocolError):
        next(events)


@pytest.mark.parametrize("message_id", [-1, 1, 10**6])
def test_a_reply_to_a_request_that_was_never_made_is_a_protocol_error(pair, message_id):
    pair.client.request("ohai", "me")

    with pytest.raises(ProtocolError, match=f"request {message_id}, which was never made"):
        pair.feed(pair.client, [RESULT, message_id, "cya"])


def test_a_second_reply_is_dropped(pair):
    pair.client.request("ohai", "me")

    events = pair.feed(pair.client, [RESULT, 0, "cya"], [RESULT, 0, "again"], [EXCEPTION, 0, "!"])

    assert events == [(RESULT, "me", "cya")]


def test_an_object_that_nobody_knows_spoils_only_its_own_request(pair):
    unknown = {"__type__": [9, "x"]}

    [bad, good] = pair.feed(pair.server, [REQUEST, 0, [unknown]], [REQUEST, 1, "fine"])

    assert bad[:2] == (BAD_REQUEST, 0)
    assert "number 9" in str(bad[2])
    assert good == (REQUEST, 1, "fine")


@pytest.mark.parametrize("kind", [RESULT, EXCEPTION])
def test_an_object_that_nobody_knows_spoils_only_its_own_reply(pair, kind):
    pair.client.request("ohai", "me")
    pair.client.request("ohai", "you")

    [bad, good] = pair.feed(pair.client, [kind, 0, {"__type__": [9, "x"]}], [RESULT, 1, "fine"])

    assert bad[:2] == (BAD_REPLY, "me")
    assert "number 9" in str(bad[2])
    assert good == (RESULT, "you", "fine")


def test_an_object_in_the_place_of_an_id_is_a_protocol_error(codec):
    session: Session[str] = Session(make_codec(codec, [uuid_serializer]))
    message = [REQUEST, {"__type__": [0, "0" * 32]}, "x"]

    with pytest.raises(ProtocolError):
        list(session.feed(frame(codec().encode(message))))


def test_a_session_starts_open(pair):
    assert pair.client.state is State.OPEN


def test_closing_takes_no_more_requests_and_returns_who_waits(pair):
    pair.client.request("a", "me")
    pair.client.request("b", "you")

    assert pair.client.close() == {0: "me", 1: "you"}
    assert pair.client.state is State.CLOSING
    assert list(pair.client.pending) == []
    with pytest.raises(ConnectionLost, match=r"closing.* not sent"):
        pair.client.request("c", "me")


def test_a_late_reply_to_a_closed_session_is_dropped(pair):
    pair.client.request("a", "me")
    pair.client.close()

    assert pair.feed(pair.client, [RESULT, 0, "late"]) == []


def test_the_end_of_a_connection_returns_who_waits(pair):
    pair.client.request("a", "me")

    assert pair.client.lost() == {0: "me"}
    assert pair.client.state is State.CLOSED
    with pytest.raises(ConnectionLost, match=r"closed.* not sent"):
        pair.client.request("c", "me")


def test_a_closed_session_never_opens_again(pair):
    assert pair.client.close() == {}
    pair.client.lost()
    assert pair.client.close() == {}
    assert pair.client.state is State.CLOSED
