"""Pieces of messages, and how those that are too large for one are divided."""

from __future__ import annotations

import pytest

from aiomas.cluster.batch import Entry, fill, pack, size_of, take, unpack
from aiomas.codecs import JSON, Codec, MsgPack, MsgPackBlosc
from aiomas.exceptions import DecodeError, SerializationError

VALUES = [None, 7, 'a "b\\c" ü \ud800', [1, [2.5]], {"a": {"b": True}}, "x" * 10_000]


@pytest.mark.parametrize("codec", [JSON(), MsgPack(), MsgPackBlosc()])
class TestPieces:
    @pytest.mark.parametrize("value", VALUES)
    def test_a_piece_travels_as_a_part_of_a_message(self, codec, value):
        if not isinstance(codec, JSON) and "\ud800" in str(value):
            value = "ü"
        piece = codec.decode(codec.encode([pack(codec, value)]))[0]
        expected = codec.decode(codec.encode(value))
        assert unpack(codec, piece) == expected

    @pytest.mark.parametrize("value", VALUES)
    def test_the_size_is_that_in_a_message_or_a_bit_more(self, codec, value):
        if not isinstance(codec, JSON) and "\ud800" in str(value):
            value = "ü"
        piece = pack(codec, value)
        plain = MsgPack() if isinstance(codec, MsgPackBlosc) else codec
        size = len(plain.encode([piece])) - len(plain.encode([]))
        assert size <= size_of(piece) <= size + 8

    def test_what_cannot_be_encoded_has_none(self, codec):
        with pytest.raises(SerializationError, match="object"):
            pack(codec, [object()])

    @pytest.mark.parametrize("piece", [None, 7, [1], b"\xc1", b""])
    def test_what_is_none_is_refused(self, codec, piece):
        with pytest.raises(DecodeError):
            unpack(codec, piece)


def test_pieces_are_not_compressed_for_themselves():
    assert pack(MsgPackBlosc(), "x" * 1000) == pack(MsgPack(), "x" * 1000)


def test_a_codec_of_a_user_may_raise_anything():
    class Bad(Codec):
        def encode(self, data):
            raise KeyError(data)

        def decode(self, data):
            raise KeyError(data)

    with pytest.raises(SerializationError, match="cannot encode a part of a message: KeyError"):
        pack(Bad(), 1)
    with pytest.raises(DecodeError):
        unpack(Bad(), b"1")


class TestRoom:
    entries: tuple[Entry, ...] = tuple((True, bytes(1000 * n)) for n in range(1, 6))

    def test_all_that_fits_is_there(self):
        fitting, kept = fill(self.entries, 20_000)
        assert fitting == list(self.entries)
        assert kept == {}

    def test_what_does_not_fit_is_kept_with_its_position(self):
        fitting, kept = fill(self.entries, 8000)
        assert fitting == [self.entries[0], self.entries[1], self.entries[2], None, None]
        assert kept == {3: self.entries[3], 4: self.entries[4]}

    def test_what_is_kept_is_taken_in_lots(self):
        kept = dict(enumerate(self.entries))
        lots = []
        while kept:
            lots.append([position for position, _ in take(kept, 6500)])
        assert lots == [[0, 1, 2], [3], [4]]
