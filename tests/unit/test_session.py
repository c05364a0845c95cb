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
    assert read(pair.client, pair.server.frame(RESULT, message_id, "cya")) == [
        (RESULT, "me", "cya")
    ]
    assert list(pair.client.pending) == []


def test_a_failure_comes_back_with_the_waiter_of_its_request(pair):
    pair.client.request("ohai", "me")

    assert read(pair.client, pair.server.frame(EXCEPTION, 0, "Traceback")) == [
        (EXCEPTION, "me", "Traceback")
    ]


def test_replies_may_come_in_any_order(pair):
    for waiter in "abc":
        pair.client.request(waiter, waiter)
    stream = b"".join(pair.server.frame(RESULT, message_id, message_id) for message_id in (2, 0, 1))

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
        pair.server.frame(RESULT, 0, object())


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
        pair.server.frame(RESULT, 0, noise)
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


# --- hello ----------------------------------------------------------------------------------------


def test_a_hello_arrives_as_what_the_peer_says_about_itself(pair):
    hello = Hello(url="tcp://here:1/", token="t", clock=1.5).speaking(pair.codec())

    [(kind, message_id, content)] = read(pair.server, pair.client.hello(hello, "me"))

    assert (kind, message_id, content) == (HELLO, 0, hello)


def test_both_ends_are_extended_once_the_hello_has_its_answer(pair):
    question = pair.client.hello(pair.hello, "me")
    [(_, message_id, theirs)] = read(pair.server, question)
    assert (pair.client.extended, pair.server.extended) == (False, False)

    answer = pair.server.welcome(message_id, theirs, extended=True)
    assert (pair.client.extended, pair.server.extended) == (False, True)

    [(kind, waiter, content)] = read(pair.client, answer)
    assert (pair.client.extended, pair.server.extended) == (True, True)
    assert (kind, waiter, Hello.read(content)) == (RESULT, "me", pair.hello)


def test_a_refused_hello_changes_nothing(pair):
    read(pair.server, pair.client.hello(pair.hello, "me"))
    refusal = pair.server.frame(RESULT, 0, _hello.refusal("wrong cluster"))

    [(kind, waiter, content)] = read(pair.client, refusal)

    assert (kind, waiter, _hello.refused(content)) == (RESULT, "me", "wrong cluster")
    assert (pair.client.extended, pair.server.extended) == (False, False)


def test_an_old_peer_that_knows_no_hello_changes_nothing(pair):
    pair.client.hello(pair.hello, "me")

    assert pair.feed(pair.client, [EXCEPTION, 0, "LookupError: aiomas/hello"]) == [
        (EXCEPTION, "me", "LookupError: aiomas/hello")
    ]
    assert not pair.client.extended


def test_an_exception_that_looks_like_a_welcome_is_none(pair):
    pair.client.hello(pair.hello, "me")

    pair.feed(pair.client, [EXCEPTION, 0, pair.hello.content()])

    assert not pair.client.extended


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "welcome",
        {},
        {"version": 1},
        ["aiomas/hello", [Hello(codec="x").content()], {}],  # of a peer that sends back all it gets
        Hello(version=0).content(),
        Hello(extensions=("ping", "options")).content(),
    ],
)
def test_an_answer_that_is_not_all_of_the_extensions_changes_nothing(pair, answer):
    pair.client.hello(pair.hello, "me")

    [(kind, waiter, _)] = pair.feed(pair.client, [RESULT, 0, answer])

    assert (kind, waiter) == (RESULT, "me")
    assert not pair.client.extended


def test_a_peer_that_knows_more_is_welcome(pair):
    pair.client.hello(pair.hello, "me")
    newer = Hello(version=2, extensions=(*Hello().extensions, "streams"))

    pair.feed(pair.client, [RESULT, 0, newer.content()])

    assert pair.client.extended


def test_only_the_answer_to_the_hello_is_a_welcome(pair):
    pair.client.hello(pair.hello, "hello")
    pair.client.request("ohai", "me")

    pair.feed(pair.client, [RESULT, 1, pair.hello.content()])
    assert not pair.client.extended

    pair.feed(pair.client, [RESULT, 0, pair.hello.content()])
    assert pair.client.extended


def test_a_result_that_looks_like_an_answer_to_a_hello_does_not_end_the_extensions(extended):
    extended.client.request("ohai", "me")

    extended.feed(extended.client, [RESULT, 1, None])

    assert extended.client.extended


def test_for_the_end_that_has_dialled_a_hello_is_an_ordinary_request(codec):
    dialling: Session[str] = Session(codec(), accepting=False)
    accepting: Session[str] = Session(codec())
    hello = Hello().speaking(codec())

    [(kind, message_id, content)] = read(dialling, accepting.hello(hello, "hello"))

    assert (kind, message_id, content[0]) == (REQUEST, 0, _hello.PATH)


def test_a_hello_is_the_first_request_or_an_ordinary_one(pair):
    [first, second] = read(
        pair.server, pair.client.request("ohai", "me") + pair.client.hello(pair.hello, "hello")
    )

    assert first[0] == REQUEST
    assert second[:2] == (REQUEST, 1)
    assert second[2][0] == _hello.PATH


def test_a_hello_may_come_after_a_reply(pair):
    """The end that was dialled may have made a request as soon as it could."""
    pair.server.request("ohai", "me")
    reply = pair.client.frame(RESULT, 0, "cya")

    events = read(pair.server, reply + pair.client.hello(pair.hello, "hello"))

    assert [event[0] for event in events] == [RESULT, HELLO]


def test_a_second_hello_is_an_ordinary_request(extended):
    [(kind, message_id, _)] = read(
        extended.server, extended.client.hello(extended.hello, "hello again")
    )

    assert (kind, message_id) == (REQUEST, 1)


@pytest.mark.parametrize(
    "content", [["aiomas/hello", [], {}], ["aiomas/hello", [{"version": 1}], {}]]
)
def test_a_malformed_hello_is_an_ordinary_request(pair, content):
    [(kind, message_id, _)] = pair.feed(pair.server, [REQUEST, 0, content])

    assert (kind, message_id) == (REQUEST, 0)


def test_a_hello_with_an_object_that_nobody_knows_is_a_bad_request(pair):
    content = ["aiomas/hello", [{"__type__": [9, "x"]}], {}]

    [(kind, message_id, _)] = pair.feed(pair.server, [REQUEST, 0, content])

    assert (kind, message_id) == (BAD_REQUEST, 0)


# --- extensions: when -----------------------------------------------------------------------------


def test_the_dialler_takes_extensions_from_the_very_next_message_on(pair):
    pair.client.hello(pair.hello, "hello")

    events = pair.feed(
        pair.client,
        [RESULT, 0, pair.hello.content()],
        [PING, 5, None],
        [CALL, 0, [{"one_way": True}, "ohai"]],
    )

    assert [event[0] for event in events] == [RESULT, PING, CALL]


def test_the_acceptor_takes_extensions_from_its_welcome_on(pair):
    codec = pair.codec()
    stream = pair.client.hello(pair.hello, "hello") + frame(codec.encode([PING, 5, None]))
    events = pair.server.feed(stream)

    assert next(events)[0] == HELLO
    pair.server.welcome(0, pair.hello, extended=True)
    assert next(events)[:2] == (PING, 5)


EXTENDED_MESSAGES = [
    [CALL, 0, [{}, "x"]],
    [CANCEL, 0, None],
    [PING, 0, None],
    [PONG, 0, 1],
    [FAILURE, 0, ["lookup", "text", "executed"]],
]


@pytest.mark.parametrize("end", ["client", "server"])
@pytest.mark.parametrize("message", EXTENDED_MESSAGES)
def test_an_extended_message_is_a_protocol_error_where_nothing_was_agreed(pair, end, message):
    session = getattr(pair, end)
    session.request("ohai", "me")  # which a FAILURE could be the answer to

    with pytest.raises(ProtocolError, match=r"no \[type, id, content\]"):
        pair.feed(session, message)
    assert list(session.pending) == ["me"]


@pytest.mark.parametrize("message", EXTENDED_MESSAGES)
def test_an_extended_message_is_a_protocol_error_for_who_asked_in_vain(pair, message):
    pair.client.hello(pair.hello, "hello")
    pair.client.request("ohai", "me")
    pair.feed(pair.client, [EXCEPTION, 0, "LookupError"])

    with pytest.raises(ProtocolError):
        pair.feed(pair.client, message)


@pytest.mark.parametrize("message", EXTENDED_MESSAGES)
def test_an_extended_message_is_a_protocol_error_for_who_has_not_agreed(pair, message):
    read(pair.server, pair.client.hello(pair.hello, "hello"))
    pair.server.welcome(0, pair.hello, extended=False)

    with pytest.raises(ProtocolError):
        pair.feed(pair.server, message)


@pytest.mark.parametrize("end", ["client", "server"])
@pytest.mark.parametrize("kind", [-1, 8, 100])
def test_there_are_no_further_types_with_extensions_either(extended, end, kind):
    with pytest.raises(ProtocolError, match=r"no \[type, id, content\]"):
        extended.feed(getattr(extended, end), [kind, 1, None])


@pytest.mark.parametrize("kind", range(8))
@pytest.mark.parametrize("message_id", [None, "1", 1.0, True])
def test_the_id_is_a_number_with_extensions_as_well(extended, kind, message_id):
    with pytest.raises(ProtocolError, match=r"no \[type, id, content\]"):
        extended.feed(extended.client, [kind, message_id, None])


# --- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message_id", [-1, 0, 2, 10**6])
@pytest.mark.parametrize("kind", [REQUEST, CALL])
def test_a_gap_in_the_ids_of_requests_is_a_protocol_error(extended, kind, message_id):
    with pytest.raises(ProtocolError, match=f"request {message_id}, .* next one is 1"):
        extended.feed(extended.server, [kind, message_id, [{}, "x"]])


def test_requests_of_all_kinds_share_their_ids(extended):
    unknown = {"__type__": [9, "x"]}

    events = extended.feed(
        extended.server,
        [REQUEST, 1, "x"],
        [CALL, 2, [{}, "x"]],
        [REQUEST, 3, unknown],
        [CALL, 4, [{}, unknown]],
        [REQUEST, 5, "x"],
    )

    assert [event[:2] for event in events] == [
        (REQUEST, 1),
        (CALL, 2),
        (BAD_REQUEST, 3),
        (BAD_REQUEST, 4),
        (REQUEST, 5),
    ]


def test_what_a_session_sends_has_ids_without_gaps(extended):
    client = extended.client
    stream = client.request("a", "me") + client.one_way("b", {}) + client.cancel(1)
    with pytest.raises(SerializationError):
        client.request(object(), "me", {})
    with pytest.raises(SerializationError):
        client.one_way(object(), {})
    stream += client.ping(1.0) + client.request("c", "me", {}) + client.one_way("d")

    events = read(extended.server, stream)

    requests = [ref for kind, ref, _ in events if kind in {REQUEST, CALL}]
    assert requests == [1, 2, 3, 4]
    assert client.next_id == 5


def test_the_ids_of_the_dialler_count_from_the_first_one_on(pair):
    """The other end may have made requests before the two have agreed."""
    early = pair.server.request("early", "me")
    read(pair.server, pair.client.hello(pair.hello, "hello"))
    late = pair.server.welcome(0, pair.hello, extended=True) + pair.server.request("late", "me")

    events = read(pair.client, early + late)

    assert [event[:2] for event in events] == [(REQUEST, 0), (RESULT, "hello"), (REQUEST, 1)]


def test_old_peers_may_choose_their_ids(pair):
    events = pair.feed(pair.server, [REQUEST, 7, "a"], [REQUEST, 7, "b"], [REQUEST, -3, "c"])

    assert events == [(REQUEST, 7, "a"), (REQUEST, 7, "b"), (REQUEST, -3, "c")]


# --- what the extensions are ----------------------------------------------------------------------


def test_options_travel_with_a_request_and_come_before_its_content(extended):
    [(kind, message_id, content)] = read(
        extended.server, extended.client.request("ohai", "me", {"timeout": 1.5})
    )

    assert (kind, message_id) == (CALL, 1)
    assert list(content) == [{"timeout": 1.5}, "ohai"]
    assert read(extended.client, extended.server.frame(RESULT, 1, "cya")) == [(RESULT, "me", "cya")]


@pytest.mark.parametrize("content", [None, "x", [], [1], [{}, 1, 2], {"a": 1}])
def test_malformed_options_are_left_to_who_answers(extended, content):
    """They spoil one request, and not the connection."""
    [bad, good] = extended.feed(extended.server, [CALL, 1, content], [REQUEST, 2, "fine"])

    assert bad[:2] == (CALL, 1)
    assert good == (REQUEST, 2, "fine")


def test_nobody_waits_for_the_reply_to_a_one_way_request(extended):
    [(kind, message_id, content)] = read(
        extended.server, extended.client.one_way("ohai", {"one_way": True})
    )

    assert (kind, message_id) == (CALL, 1)
    assert list(content) == [{"one_way": True}, "ohai"]
    assert list(extended.client.pending) == []


def test_a_reply_to_a_one_way_request_is_dropped(extended):
    extended.client.one_way("ohai", {"one_way": True})

    assert read(extended.client, extended.server.frame(RESULT, 1, "cya")) == []


def test_a_closed_session_sends_no_one_way_requests(extended):
    extended.client.close()

    with pytest.raises(ConnectionLost, match=r"closing.* not sent") as info:
        extended.client.one_way("ohai")
    assert info.value.outcome is Outcome.NOT_SENT


def test_a_cancellation_names_its_request(extended):
    extended.client.request("ohai", "me")

    assert read(extended.server, extended.client.cancel(1)) == [(CANCEL, 1, None)]


def test_a_ping_and_its_answer_carry_the_clocks_of_both_ends_in_milliseconds(extended):
    [(kind, ref, content)] = read(extended.server, extended.client.ping(1.2344))
    assert (kind, ref, content) == (PING, 1234, None)

    assert read(extended.client, extended.server.pong(ref, 99.5)) == [(PONG, 1234, 99500)]


def test_a_ping_needs_no_reply_of_a_request(extended):
    read(extended.server, extended.client.ping(0.0))

    assert list(extended.client.pending) == []
    assert extended.client.next_id == 1


def test_a_failure_says_of_which_kind_it_is_where_extensions_were_agreed(extended):
    extended.client.request("ohai", "me")
    data = extended.server.failure(1, "overloaded", "too much", Outcome.NOT_EXECUTED)

    [(kind, waiter, content)] = read(extended.client, data)

    assert (kind, waiter) == (FAILURE, "me")
    assert list(content) == ["overloaded", "too much", "not_executed"]
    assert list(extended.client.pending) == []


def test_a_failure_is_a_plain_exception_for_an_old_peer(pair):
    pair.client.request("ohai", "me")

    data = pair.server.failure(0, "overloaded", "too much", Outcome.NOT_EXECUTED)

    assert read(pair.client, data) == [(EXCEPTION, "me", "too much")]


def test_a_failure_of_a_request_that_was_never_made_is_a_protocol_error(extended):
    with pytest.raises(ProtocolError, match="request 1, which was never made"):
        extended.feed(extended.client, [FAILURE, 1, ["lookup", "text", "executed"]])


def test_a_failure_that_cannot_be_decoded_spoils_only_its_own_reply(extended):
    extended.client.request("ohai", "me")

    [(kind, waiter, _)] = extended.feed(extended.client, [FAILURE, 1, {"__type__": [9, "x"]}])

    assert (kind, waiter) == (BAD_REPLY, "me")


def test_each_event_has_the_size_of_its_message(extended):
    sizes = []
    for data in (
        extended.client.request("x" * 100, "me"),
        extended.client.request("x" * 200, "me", {}),
        extended.client.ping(0.0),
    ):
        [(*_, size)] = extended.server.feed(data)
        sizes.append((size, len(data) - len(frame(b""))))

    assert all(size == of_payload for size, of_payload in sizes)


# --- forgetting -----------------------------------------------------------------------------------


def test_those_who_have_given_up_are_forgotten(pair):
    for waiter in "abc":
        pair.client.request("ohai", waiter)

    assert pair.client.forget(lambda waiter: waiter in "ac") == [0, 2]
    assert pair.client.waiters() == {1: "b"}
    assert pair.client.forget(lambda waiter: waiter in "ac") == []


def test_one_request_is_forgotten_once(pair):
    pair.client.request("ohai", "me")
    pair.client.request("ohai", "you")

    assert pair.client.forget_one(0) == [0]
    assert pair.client.forget_one(0) == []
    assert pair.client.forget_one(7) == []
    assert pair.client.waiters() == {1: "you"}


def test_a_request_that_has_its_reply_cannot_be_forgotten(pair):
    pair.client.request("ohai", "me")
    pair.feed(pair.client, [RESULT, 0, "cya"])

    assert pair.client.forget_one(0) == []
    assert pair.client.forget(lambda _: True) == []


def test_the_reply_to_a_request_that_was_forgotten_is_dropped(pair):
    pair.client.request("ohai", "me")
    pair.client.forget_one(0)

    assert pair.feed(pair.client, [RESULT, 0, "late"], [RESULT, 0, "later"]) == []


def test_what_was_returned_of_the_waiters_is_not_changed_later(pair):
    pair.client.request("ohai", "me")
    waiters = pair.client.waiters()
    pair.client.request("ohai", "you")

    assert waiters == {0: "me"}


# --- last words -----------------------------------------------------------------------------------


def foreign_codecs(codec: type[Codec]) -> list[type[Codec]]:
    return [other for other in CODECS if other is not codec]


def test_a_peer_with_another_codec_is_told_so_in_its_own(codec):
    for foreign in foreign_codecs(codec):
        ours: Session[str] = Session(codec())
        theirs: Session[str] = Session(foreign())
        question = theirs.hello(Hello().speaking(foreign()), "me")

        with pytest.raises(ProtocolError, match="unreadable frame"):
            read(ours, question)

        assert ours.last_words is not None
        [(kind, waiter, content)] = read(theirs, ours.last_words)
        assert (kind, waiter) == (RESULT, "me")
        reason = _hello.refused(content)
        assert reason is not None
        assert codec.name in reason
        assert foreign.name in reason
        assert not theirs.extended


def test_an_old_peer_with_another_codec_gets_an_exception_in_its_own(codec):
    for foreign in foreign_codecs(codec):
        ours: Session[str] = Session(codec())
        theirs: Session[str] = Session(foreign())

        with pytest.raises(ProtocolError):
            read(ours, theirs.request(["validate_aid", ["0"], {}], "me"))

        assert ours.last_words is not None
        [(kind, waiter, text)] = read(theirs, ours.last_words)
        assert (kind, waiter) == (EXCEPTION, "me")
        assert "HandshakeError" in text


def test_only_the_first_frame_is_looked_at_with_other_codecs(pair, codec):
    [foreign, _] = foreign_codecs(codec)
    read(pair.server, pair.client.request("ohai", "me"))

    with pytest.raises(ProtocolError):
        read(pair.server, Session[str](foreign()).request("ohai", "me"))
    assert pair.server.last_words is None


@pytest.mark.parametrize(
    "message", [[RESULT, 0, "x"], [EXCEPTION, 0, "x"], [5, 0, None], "x", [], [0, "1", "x"]]
)
def test_nothing_is_said_to_who_has_sent_no_request(codec, message):
    for foreign in foreign_codecs(codec):
        session: Session[str] = Session(codec())

        with pytest.raises(ProtocolError):
            read(session, frame(foreign().encode(message)))
        assert session.last_words is None


@pytest.mark.parametrize("payload", [b"", b"\xff\xfe\xc1", b"GET / HTTP/1.1\r\n\r\n"])
def test_nothing_is_said_to_who_speaks_no_codec(pair, payload):
    with pytest.raises(ProtocolError):
        read(pair.server, frame(payload))
    assert pair.server.last_words is None


def test_nothing_is_said_about_what_is_too_large_for_a_first_message(codec):
    noise = "".join(map(chr, range(0x4E00, 0x4E00 + 10_000))) * 3
    for foreign in foreign_codecs(codec):
        session: Session[str] = Session(codec())

        with pytest.raises(ProtocolError):
            read(session, frame(foreign().encode([REQUEST, 0, noise])))
        assert session.last_words is None


def test_what_is_not_sent_says_so(pair):
    with pytest.raises(SerializationError) as unencodable:
        pair.client.request(object(), "me")
    pair.client.close()
    with pytest.raises(ConnectionLost) as closed:
        pair.client.request("ohai", "me")

    assert unencodable.value.outcome is Outcome.NOT_SENT
    assert closed.value.outcome is Outcome.NOT_SENT
