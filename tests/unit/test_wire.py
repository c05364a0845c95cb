"""Framing: however the stream is cut into pieces, the payloads are the same."""

from __future__ import annotations

import itertools
import struct
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiomas._limits import Limits
from aiomas._wire import HEADER_SIZE, FrameReader, Spare, TlsRecordError, frame
from aiomas.exceptions import ProtocolError

MAX_FRAME = Limits().max_frame

payload_lists = st.lists(st.binary(max_size=40), max_size=8)


def cut(data: bytes, positions: list[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(data) + 1) for position in positions), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def read(reader: FrameReader, chunks: list[bytes]) -> list[bytes]:
    return [payload for chunk in chunks for payload in reader.feed(chunk)]


def test_a_frame_is_the_length_in_network_byte_order_and_the_payload():
    assert frame(b"spam") == b"\x00\x00\x00\x04spam"
    assert frame(b"") == b"\x00\x00\x00\x00"
    assert frame(b"x" * 0x010203)[:4] == b"\x00\x01\x02\x03"


@given(payload_lists, st.lists(st.integers(min_value=0), max_size=12))
@example([b"", b"a"], [1, 2, 3])
@example([b"spam", b"eggs"], [4, 8, 12])
def test_any_split_of_the_stream_gives_the_same_payloads(payloads, positions):
    stream = b"".join(map(frame, payloads))

    assert read(FrameReader(MAX_FRAME), cut(stream, positions)) == payloads


@given(payload_lists)
def test_a_stream_that_arrives_byte_by_byte_gives_the_same_payloads(payloads):
    stream = b"".join(map(frame, payloads))

    assert read(FrameReader(MAX_FRAME), [stream[i : i + 1] for i in range(len(stream))]) == payloads


def test_a_payload_is_yielded_as_soon_as_its_last_byte_is_there():
    reader = FrameReader(MAX_FRAME)

    assert list(reader.feed(frame(b"spam")[:-1])) == []
    assert list(reader.feed(b"m")) == [b"spam"]


def test_what_follows_a_payload_is_kept_for_the_next_time():
    reader = FrameReader(MAX_FRAME)
    second = frame(b"eggs")

    assert list(reader.feed(frame(b"spam") + second[:2])) == [b"spam"]
    assert list(reader.feed(second[2:6])) == []
    assert list(reader.feed(second[6:])) == [b"eggs"]


def test_a_frame_of_exactly_the_limit_is_accepted():
    assert list(FrameReader(max_frame=4).feed(frame(b"spam"))) == [b"spam"]


def test_a_larger_frame_is_refused_by_its_header_alone():
    reader = FrameReader(max_frame=4)

    with pytest.raises(ProtocolError, match=r"5 bytes.*max_frame=4"):
        list(reader.feed(struct.pack("!L", 5)))


def test_the_default_limit_refuses_what_no_message_is_meant_to_be():
    with pytest.raises(ProtocolError, match=str(MAX_FRAME)):
        list(FrameReader(MAX_FRAME).feed(b"GET / HTTP/1.1\r\n\r\n"))


def test_payloads_before_a_frame_that_is_too_large_are_yielded_first():
    reader = FrameReader(max_frame=4)
    payloads = reader.feed(frame(b"spam") + frame(b"x" * 5))

    assert next(payloads) == b"spam"
    with pytest.raises(ProtocolError):
        next(payloads)


def test_a_large_frame_in_small_pieces_is_joined_once():
    # With a join per piece this would copy a terabyte.
    payload = bytes(8 * 1024 * 1024)
    stream = frame(payload)
    pieces = [stream[i : i + 64] for i in range(0, len(stream), 64)]

    assert read(FrameReader(MAX_FRAME), pieces) == [payload]


def test_a_frame_in_tiny_pieces_takes_about_as_much_memory_as_its_bytes():
    payload = bytes(range(256)) * 1024
    stream = frame(payload) + frame(b"the next one")
    reader = FrameReader(MAX_FRAME)
    got: list[bytes] = []

    tracemalloc.start()
    try:
        for position in range(0, len(stream), 2):
            got += reader.feed(stream[position : position + 2])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert got == [payload, b"the next one"]
    assert peak < 3.5 * len(payload)


def test_the_size_of_the_header_is_part_of_the_format():
    assert HEADER_SIZE == 4


def test_a_large_frame_that_looks_like_tls_is_one_if_it_is_not_the_first():
    header = bytes.fromhex("16 03 01 00")
    reader = FrameReader(2**32 - 1)
    assert list(reader.feed(bytes(4) + header)) == [b""]
    with pytest.raises(TlsRecordError):
        list(FrameReader(2**32 - 1).feed(header))
    with pytest.raises(ProtocolError, match="max_frame") as caught:
        list(FrameReader(10).feed(bytes(4) + header))
    assert not isinstance(caught.value, TlsRecordError)


def receive(reader: FrameReader, data: bytes, piece: int) -> list[bytes]:
    """Let *data* arrive in pieces, as a transport that asks for room puts it there."""
    payloads: list[bytes] = []
    while data:
        room = reader.room()
        if room is None:
            payloads += reader.feed(data[:piece])
            data = data[piece:]
            continue
        size = min(len(room), piece, len(data))
        room[:size] = data[:size]
        room.release()
        payloads += [bytes(payload) for payload in reader.fill(size)]
        data = data[size:]
    return payloads


@pytest.mark.parametrize("piece", [1_000, 65_536, 262_144, 10_000_000])
def test_large_frames_may_come_in_pieces_of_any_size(piece):
    payloads = [b"short", bytes(range(256)) * 2_000, b"", b"x" * 200_000, b"y" * 300_000, b"end"]
    assert receive(FrameReader(MAX_FRAME), b"".join(map(frame, payloads)), piece) == payloads


def test_a_header_alone_sets_no_memory_aside():
    reader = FrameReader(MAX_FRAME)
    assert list(reader.feed(struct.pack("!L", MAX_FRAME))) == []
    room = reader.room()
    assert room is not None
    assert len(room) < 300_000


def test_the_buffer_of_a_large_frame_is_used_again_and_released():
    spare = Spare()
    for _ in range(2):
        reader = FrameReader(MAX_FRAME, spare)
        assert receive(reader, frame(b"x" * 200_000), 65_536) == [b"x" * 200_000]
        assert reader.room() is None
    buffer = spare.take()
    assert len(buffer) >= 200_000
    buffer.clear()  # which nobody can do while there is a view of it
    assert not spare.take()


class TestSpare:
    def test_who_finds_none_gets_a_new_one(self):
        spare = Spare()
        assert spare.take() == b""
        assert spare.take() is not spare.take()

    def test_what_is_given_back_is_taken_once(self):
        spare, buffer = Spare(), bytearray(5)
        spare.give_back(buffer)
        assert spare.take() is buffer
        assert not spare.take()

    @pytest.mark.parametrize("sizes", [(5, 7), (7, 5), (7, 7)])
    def test_the_largest_is_kept(self, sizes):
        spare = Spare()
        for size in sizes:
            spare.give_back(bytearray(size))
        assert len(spare.take()) == 7
        assert not spare.take()

    def test_a_huge_one_is_not_kept(self):
        spare = Spare()
        spare.give_back(bytearray((17 << 20) + 1))
        assert not spare.take()
        spare.give_back(bytearray(16 << 20))
        assert len(spare.take()) == 16 << 20
