"""The session as a state machine: both ends joined without a socket, and a model that knows what
each waiter must have seen: one outcome, and its own.

A new type of message takes a rule that sends it, and an entry in `End.taking` that says what its
arrival means to the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

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
from aiomas.codecs import JSON, Codec, MsgPack, MsgPackBlosc
from aiomas.exceptions import (
    ConnectionLost,
    DecodeError,
    Outcome,
    ProtocolError,
    SerializationError,
)

OPTIONS = {"timeout": 1.5}
MAX_FRAME = 400
UNKNOWN_OBJECT = {"__type__": [9, "x"]}  # is sent as it is, and cannot be made over there
ABANDONED = "abandoned"
GIVEN_UP = "given up"

contents = st.one_of(
    st.none(),
    st.integers(-5, 5),
    st.text("ab", max_size=30),
    st.dictionaries(st.text("ab", max_size=2), st.booleans(), max_size=2),
    st.just(UNKNOWN_OBJECT),
)
ends = st.sampled_from([0, 1])
replies = st.sampled_from([RESULT, EXCEPTION])
unsendable = st.sampled_from([object(), "".join(map(chr, range(0x4E00, 0x4E00 + MAX_FRAME)))])
garbage = st.sampled_from(
    [
        b"\xff\xff\xff\xff",
        frame(b""),
        frame(b"\xff\xfe\xc1"),
        ["spam"],
        [REQUEST, "1", None],
        [8, 0, None],
        [CALL, 10**6, [{}, None]],  # where agreed: a gap in the numbers
        [FAILURE, 10**6, ["lookup", "text", "executed"]],
        [RESULT, 10**6, None],
        [EXCEPTION, -1, None],
    ]
)


@dataclass(eq=False)
class Call:
    """A request in the model, which is also its own waiter."""

    number: int
    content: Any
    options: dict[str, Any] | None = None
    answer: tuple[Any, Any] | None = None  # kind and content of the first reply that was sent
    outcomes: list[Any] = field(default_factory=list)

    def take(self, outcome: Any) -> None:
        """Like a future: who has given up does not see what comes later."""
        if self.outcomes != [GIVEN_UP]:
            self.outcomes.append(outcome)


class End:
    """One end: the session, and what the model knows about it."""

    def __init__(self, codec: Codec) -> None:
        self.session: Session[Call] = Session(codec, Limits(max_frame=MAX_FRAME))
        self.codec = codec
        self.state = State.OPEN
        self.peer: End
        self.wire = bytearray()  # what the peer has sent and did not arrive yet
        self.on_the_way: deque[Call] = deque()  # calls of the peer in there
        self.poisoned = False  # there is garbage at the end of it
        self.calls: list[Call] = []
        self.waiting: list[Call] = []
        self.to_serve: dict[int, Call] = {}
        self.served: dict[int, Call] = {}
        self.taking: dict[int | str, Callable[..., None]] = {
            REQUEST: self.take_request,
            BAD_REQUEST: self.take_request,
            RESULT: self.take_reply,
            EXCEPTION: self.take_reply,
            BAD_REPLY: self.take_reply,
            CALL: self.take_request,
            FAILURE: self.take_reply,
            CANCEL: self.take_cancel,
            PING: self.take_ping,
            PONG: self.take_pong,
        }
        self.cancels: deque[int] = deque()  # of the peer, on their way
        self.pings: deque[int] = deque()
        self.pongs: deque[int] = deque()

    # --- what it does -----------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        # After garbage nothing is read, so the model forgets what would come behind it.
        if not self.peer.poisoned:
            self.peer.wire += data

    def request(self, content: Any, options: dict[str, Any] | None = None) -> None:
        call = Call(self.session.next_id, content, options)
        data = self.session.request(content, call, options)
        self.calls.append(call)
        self.waiting.append(call)
        if not self.peer.poisoned:
            self.peer.on_the_way.append(call)
        self.send(data)

    def reply(self, kind: int, message_id: int, content: Any) -> None:
        call = self.to_serve.pop(message_id, None)
        data = self.session.frame(kind, message_id, content)
        if call is not None:
            self.served[message_id] = call
            call.answer = kind, content
        self.send(data)

    def fail(self, message_id: int) -> None:
        call = self.to_serve.pop(message_id)
        data = self.session.failure(message_id, "lookup", "text", Outcome.NOT_EXECUTED)
        if self.session.extended:
            call.answer = FAILURE, ["lookup", "text", "not_executed"]
        else:
            call.answer = EXCEPTION, "text"
        self.send(data)

    def forget(self, call: Call) -> None:
        """Do what is done for a caller who has given up."""
        call.take(GIVEN_UP)
        assert self.session.forget_one(call.number) == [call.number]
        self.waiting.remove(call)
        if self.session.extended:
            if not self.peer.poisoned:
                self.peer.cancels.append(call.number)
            self.send(self.session.cancel(call.number))

    def ping(self, now: int) -> None:
        if not self.peer.poisoned:
            self.peer.pings.append(now)
        self.send(self.session.ping(now / 1000))

    def feed(self, size: int) -> None:
        data, self.wire[:size] = bytes(self.wire[:size]), b""
        all_read = self.poisoned and not self.wire
        try:
            for kind, ref, content, _ in self.session.feed(data):
                self.taking[kind](kind, ref, content)
        except ProtocolError:
            assert self.poisoned
            assert not self.on_the_way, "what came before the garbage was not read"
            self.lose()
            self.peer.lose()
        else:
            assert not all_read, "garbage was taken for a message"

    def close(self) -> None:
        self.abandon(self.session.close())
        if self.state is State.OPEN:
            self.state = State.CLOSING

    def lose(self) -> None:
        self.abandon(self.session.lost())
        self.state = State.CLOSED
        self.wire.clear()
        self.on_the_way.clear()
        self.to_serve.clear()

    # --- what the model expects -------------------------------------------------------------------

    def take_request(self, kind: Any, message_id: int, content: Any) -> None:
        call = self.on_the_way.popleft()
        assert message_id == call.number
        if kind == CALL:
            options, content = content
            assert options == call.options
            kind = REQUEST
        else:
            assert call.options is None or kind == BAD_REQUEST
        self.check_content(kind, BAD_REQUEST, content, REQUEST, call.content)
        self.to_serve[message_id] = call

    def take_reply(self, kind: Any, call: Call, content: Any) -> None:
        assert call in self.waiting, "the reply to a call of somebody else, or a second one"
        self.waiting.remove(call)
        assert call.answer is not None, "nobody has answered this"
        self.check_content(kind, BAD_REPLY, content, *call.answer)
        call.take(kind)

    def take_cancel(self, _: Any, message_id: int, content: Any) -> None:
        assert message_id == self.cancels.popleft()
        assert content is None
        self.to_serve.pop(message_id, None)

    def take_ping(self, _: Any, ping: int, content: Any) -> None:
        assert (ping, content) == (self.pings.popleft(), None)
        if not self.peer.poisoned:
            self.peer.pongs.append(ping)
        self.send(self.session.pong(ping, 7.0))

    def take_pong(self, _: Any, ping: int, content: Any) -> None:
        assert (ping, content) == (self.pongs.popleft(), 7000)

    def check_content(self, kind: Any, bad: Any, content: Any, sent_as: Any, sent: Any) -> None:
        if sent == UNKNOWN_OBJECT:
            assert kind == bad
            assert isinstance(content, DecodeError)
        else:
            content = list(content) if isinstance(content, tuple) else content
            assert (kind, content) == (sent_as, sent)

    def abandon(self, calls: dict[int, Call]) -> None:
        assert list(calls.values()) == self.waiting
        for call in self.waiting:
            call.take(ABANDONED)
        self.waiting.clear()


class Conversation(RuleBasedStateMachine):
    pair: tuple[End, End]

    @initialize(codec=st.sampled_from([JSON, MsgPack, MsgPackBlosc]), extended=st.booleans())
    def connect(self, codec, extended):
        one, other = self.pair = End(codec()), End(codec())
        one.peer, other.peer = other, one
        if extended:
            own = Hello().speaking(one.codec)
            [(kind, number, theirs, _)] = other.session.feed(
                one.session.hello(own, Call(0, "hello"))
            )
            assert (kind, number, theirs) == (HELLO, 0, own)
            [(kind, _, _, _)] = one.session.feed(other.session.welcome(0, own, extended=True))
            assert kind == RESULT
        assert one.session.extended == other.session.extended == extended

    def connected(self) -> bool:
        return State.CLOSED not in {end.state for end in self.pair}

    # --- requests and replies ---------------------------------------------------------------------

    @rule(end=ends, content=contents)
    def request(self, end, content):
        if self.pair[end].state is State.OPEN:
            self.pair[end].request(content)
        else:
            with pytest.raises(ConnectionLost, match="not sent"):
                self.pair[end].session.request(content, Call(-1, content))

    @rule(end=ends, content=contents)
    def request_with_options(self, end, content):
        if self.pair[end].state is State.OPEN and self.pair[end].session.extended:
            self.pair[end].request(content, OPTIONS)

    @rule(end=ends, data=st.data())
    def refuse(self, end, data):
        if to_serve := sorted(self.pair[end].to_serve):
            self.pair[end].fail(data.draw(st.sampled_from(to_serve)))

    @rule(end=ends, data=st.data())
    def forget(self, end, data):
        if waiting := [call for call in self.pair[end].waiting if not call.outcomes]:
            self.pair[end].forget(data.draw(st.sampled_from(waiting)))

    @rule(end=ends, now=st.integers(0, 10**9))
    def ping(self, end, now):
        if self.pair[end].session.extended and self.connected():
            self.pair[end].ping(now)

    @rule(end=ends, content=unsendable)
    def request_what_cannot_be_sent(self, end, content):
        error = SerializationError if self.pair[end].state is State.OPEN else ConnectionLost
        with pytest.raises(error):
            self.pair[end].session.request(content, Call(-1, content))

    @rule(end=ends, kind=replies, content=contents, data=st.data())
    def reply(self, end, kind, content, data):
        if to_serve := sorted(self.pair[end].to_serve):
            self.pair[end].reply(kind, data.draw(st.sampled_from(to_serve)), content)

    @rule(end=ends, kind=replies, content=contents, data=st.data())
    def reply_once_more(self, end, kind, content, data):
        if served := sorted(self.pair[end].served):
            self.pair[end].reply(kind, data.draw(st.sampled_from(served)), content)

    @rule(end=ends, kind=replies, content=unsendable)
    def reply_what_cannot_be_sent(self, end, kind, content):
        with pytest.raises(SerializationError):
            self.pair[end].session.frame(kind, 0, content)

    @rule(end=ends, data=st.data())
    def give_up(self, end, data):
        # The session is not told, so it goes on to wait for the reply.
        if waiting := [call for call in self.pair[end].waiting if not call.outcomes]:
            data.draw(st.sampled_from(waiting)).take(GIVEN_UP)

    # --- the wire ---------------------------------------------------------------------------------

    @rule(end=ends, size=st.integers(1, 60))
    def deliver(self, end, size):
        if self.connected():
            self.pair[end].feed(size)

    @rule(end=ends)
    def deliver_all(self, end):
        if self.connected():
            self.pair[end].feed(len(self.pair[end].wire))

    @rule(end=ends, kind=replies, content=contents, answer=contents, again=st.booleans())
    def call_and_answer(self, end, kind, content, answer, again):
        """Go a long way in one step, as chance alone seldom does."""
        client = self.pair[end]
        server = client.peer
        if {client.state, server.state} != {State.OPEN} or client.poisoned or server.poisoned:
            return
        client.request(content)
        server.feed(len(server.wire))
        message_id = max(server.to_serve)
        for _ in range(1 + again):
            server.reply(kind, message_id, answer)
        client.feed(len(client.wire))
        assert client.calls[-1] not in client.waiting

    # --- ends -------------------------------------------------------------------------------------

    # One rule, or most conversations would be over before they have begun.
    @rule(end=ends, how=st.sampled_from(["close", "lose", "garbage"]), what=garbage)
    def end(self, end, how, what):
        if how == "close":
            self.pair[end].close()
        elif self.connected():
            if how == "lose":
                self.pair[0].lose()
                self.pair[1].lose()
            else:
                self.inject(self.pair[end], what)

    def inject(self, receiver: End, what: Any) -> None:
        if not receiver.poisoned:
            if not isinstance(what, bytes):
                what = frame(receiver.codec.encode(what))
            receiver.wire += what
            receiver.poisoned = True

    # --- what holds -------------------------------------------------------------------------------

    @invariant()
    def the_session_waits_for_those_that_the_model_waits_for(self):
        for end in self.pair:
            assert list(end.session.pending) == end.waiting
            assert end.session.state is end.state

    @invariant()
    def nobody_has_two_outcomes_and_nobody_is_forgotten(self):
        for end in self.pair:
            for call in end.calls:
                given_up = call.outcomes == [GIVEN_UP]
                assert len(call.outcomes) == (given_up or call not in end.waiting)

    def teardown(self):
        """What is on the way still arrives; whoever waits then learns of the end."""
        if not hasattr(self, "pair"):
            return
        for end in self.pair:
            if self.connected():
                end.feed(len(end.wire))
        for end in self.pair:
            expected = {c for c in end.waiting if c.answer is None or end.poisoned}
            assert set(end.waiting) == expected, "a reply has arrived, and was not passed on"
            end.lose()
            assert all(len(call.outcomes) == 1 for call in end.calls)


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=120, stateful_step_count=40)
