"""Framing as a state machine: whatever is sent, and wherever the stream is cut, a model knows what
has to come out, and when."""

from __future__ import annotations

import struct
import tracemalloc
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aiomas._limits import Limits
from aiomas._wire import HEADER_SIZE, FrameReader, frame
from aiomas.exceptions import ProtocolError

MAX_FRAME = 50


class Stream(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.reader = FrameReader(MAX_FRAME)
        self.sent = b""
        self.fed = 0  # so many of these bytes have arrived
        self.ends: list[tuple[int, bytes]] = []  # where each payload is complete
        self.refused_at: int | None = None  # where a header is complete that is too much
        self.received: list[bytes] = []
        self.failed = False

    @rule(payload=st.binary(max_size=MAX_FRAME) | st.just(b"x" * MAX_FRAME))
    def send(self, payload):
        self.sent += frame(payload)
        if self.refused_at is None:
            self.ends.append((len(self.sent), payload))

    @precondition(lambda self: self.refused_at is None)
    @rule(size=st.integers(MAX_FRAME + 1, 2**32 - 1), rest=st.binary(max_size=2 * MAX_FRAME))
    def announce_too_much(self, size, rest):
        self.sent += struct.pack("!L", size)
        self.refused_at = len(self.sent)
        self.sent += rest

    @precondition(lambda self: not self.failed)
    @rule(size=st.integers(0, 2 * MAX_FRAME))
    def deliver(self, size):
        self._feed(self.sent[self.fed : self.fed + size])

    @precondition(lambda self: not self.failed)
    @rule()
    def deliver_all(self):
        self._feed(self.sent[self.fed :])

    @precondition(lambda self: not self.failed)
    @rule(size=st.integers(0, 2 * MAX_FRAME))
    def deliver_byte_by_byte(self, size):
        for _ in range(size):
            if not self.failed:
                self._feed(self.sent[self.fed : self.fed + 1])

    def _feed(self, data: bytes) -> None:
        self.fed += len(data)
        try:
            self.received.extend(self.reader.feed(data))
        except ProtocolError:
            self.failed = True

    @invariant()
    def every_payload_that_is_complete_was_received_and_nothing_else(self):
        assert self.received == [payload for end, payload in self.ends if end <= self.fed]

    @invariant()
    def a_frame_is_refused_with_the_last_byte_of_its_header(self):
        assert self.failed == (self.refused_at is not None and self.fed >= self.refused_at)


TestStream = Stream.TestCase
TestStream.settings = settings(max_examples=60, stateful_step_count=30)


def test_a_header_alone_sets_no_memory_aside():
    reader = FrameReader(Limits().max_frame)
    tracemalloc.start()
    try:
        assert list(reader.feed(struct.pack("!L", 8 * 1024 * 1024))) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024


def test_no_more_is_kept_than_what_has_arrived_of_one_frame():
    size = 1024 * 1024
    stream = frame(bytes(size)) * 3 + frame(bytes(size))[: HEADER_SIZE + 100]
    reader = FrameReader(Limits().max_frame)
    tracemalloc.start()
    try:
        for start in range(0, len(stream), 64 * 1024):
            deque(reader.feed(stream[start : start + 64 * 1024]), maxlen=0)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 80 * 1024
    assert peak < 3.5 * size  # the pieces, the whole, and the payload in it
