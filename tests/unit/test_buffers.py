"""The memory into which connections receive: one per event loop, and nobody reads another's."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from typing import Any

import pytest

from aiomas import channel
from aiomas._buffers import Buffers
from aiomas._limits import Limits
from aiomas._wire import LARGE_FRAME, frame
from aiomas.channel import Channel, ChannelProtocol
from aiomas.codecs import JSON

SMALL = 64 * 1024
LARGE = 300_000
HUGE = 17 << 20
assert SMALL < LARGE_FRAME < LARGE


def requests(*texts: str) -> bytes:
    return b"".join(frame(json.dumps([0, n, text]).encode()) for n, text in enumerate(texts))


class Transport(asyncio.Transport):
    """Takes what is written, and forgets it."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        pass


class Connection:
    """One end of a connection to which a test hands what it receives, as a transport does."""

    def __init__(self, transport: Transport | None = None) -> None:
        self.received: list[Any] = []
        loop = asyncio.get_running_loop()
        limits = Limits(max_frame=2 * HUGE)
        self.protocol = ChannelProtocol(JSON(), self._connected, loop=loop, limits=limits)
        self.protocol.connection_made(transport or Transport())

    def _connected(self, channel: Channel) -> None:
        channel.serve(lambda request: self.received.append(request.content))

    def receive(self, data: bytes) -> bytes:
        """Receive as much of *data* as there is room for, and return the rest."""
        with memoryview(self.protocol.get_buffer(-1)) as room:
            size = min(len(room), len(data))
            room[:size] = data[:size]
        self.protocol.buffer_updated(size)
        return data[size:]


def receive_all(*streams: tuple[Connection, bytes]) -> None:
    """Let each connection receive its stream, taking turns."""
    rest = list(streams)
    while rest:
        rest = [(connection, connection.receive(data)) for connection, data in rest]
        rest = [(connection, data) for connection, data in rest if data]


@pytest.fixture
def loops():
    loops = [asyncio.new_event_loop() for _ in range(2)]
    yield loops
    for loop in loops:
        loop.close()


def test_a_loop_has_one_for_all_its_connections(loops):
    one, other = loops
    assert Buffers.of(one) is Buffers.of(one)
    assert Buffers.of(one) is not Buffers.of(other)
    assert Buffers.of(one).small.obj is not Buffers.of(other).small.obj


def test_it_keeps_no_loop_alive_and_ends_with_it(loops):
    buffers, loop = weakref.ref(Buffers.of(loops[0])), weakref.ref(loops[0])
    loops.pop(0).close()
    gc.collect()
    assert loop() is None
    assert buffers() is None


def test_the_small_one_has_room_for_what_a_system_hands_over_at_once(loops):
    small = Buffers.of(loops[0]).small
    assert len(small) == SMALL
    assert not small.readonly


class TestConnections:
    async def test_all_of_them_receive_short_frames_into_the_same_memory(self):
        small = Buffers.of(asyncio.get_running_loop()).small
        for connection in (Connection(), Connection()):
            assert connection.protocol.get_buffer(-1).obj is small.obj

    async def test_a_frame_that_has_begun_is_not_written_over_by_that_of_another(self):
        one, other = Connection(), Connection()
        data = requests("of one")
        one.receive(data[:10])
        other.receive(requests("of the other" * 10))
        one.receive(data[10:])
        assert one.received == ["of one"]
        assert other.received == ["of the other" * 10]

    async def test_large_frames_that_come_in_turns_do_not_mix(self):
        one, other, third = Connection(), Connection(), Connection()
        receive_all(
            (one, requests("1" * LARGE, "one")),
            (other, requests("2" * 2 * LARGE, "two")),
            (third, requests(*"three")),
        )
        assert one.received == ["1" * LARGE, "one"]
        assert other.received == ["2" * 2 * LARGE, "two"]
        assert third.received == [*"three"]

    async def test_the_memory_of_a_large_frame_is_used_again_by_another_connection(self):
        one, other = Connection(), Connection()
        spare = Buffers.of(asyncio.get_running_loop()).spare
        receive_all((one, requests("1" * LARGE)))
        kept = spare.take()
        assert len(kept) >= LARGE
        spare.give_back(kept)
        rest = other.receive(requests("2" * LARGE))  # only now it is known that it is large
        with other.protocol.get_buffer(-1) as room:
            assert room.obj is kept
        receive_all((other, rest))
        assert (one.received, other.received) == (["1" * LARGE], ["2" * LARGE])

    async def test_the_memory_of_a_huge_frame_is_not_kept(self):
        connection = Connection()
        receive_all((connection, requests("#" * HUGE)))
        assert [len(text) for text in connection.received] == [HUGE]
        assert not Buffers.of(asyncio.get_running_loop()).spare.take()


class TransportOfUvloop(Transport):
    """Notices only when it begins to read again that it has another protocol."""

    __module__ = "uvloop.loop"

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = None
        self.reads_for: Any = None
        self.closing = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol
        self.reads_for = self.reads_for or protocol

    def pause_reading(self) -> None:
        self.reads_for = None

    def resume_reading(self) -> None:
        self.reads_for = self.reads_for or self.protocol

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True


class TestTransportsOfUvloop:
    async def test_they_ask_for_no_memory_until_a_large_frame_comes(self):
        transport = TransportOfUvloop()
        connection = Connection(transport)
        assert not isinstance(transport.reads_for, asyncio.BufferedProtocol)
        data = requests("one", "two", "3" * LARGE, "four")
        transport.reads_for.data_received(data[:20])
        transport.reads_for.data_received(data[20:100])
        assert connection.received == ["one", "two"]
        assert transport.reads_for is transport.protocol is connection.protocol
        receive_all((connection, data[100:]))
        assert connection.received == ["one", "two", "3" * LARGE, "four"]

    async def test_what_is_received_in_one_go_is_taken_in_parts_of_that_size(self, monkeypatch):
        transport = TransportOfUvloop()
        connection = Connection(transport)
        texts = [str(number) * 1000 for number in range(300)]
        data = requests(*texts)
        parts: list[bytes] = []
        with monkeypatch.context() as context:
            context.setattr(connection.protocol, "data_received", parts.append)
            transport.reads_for.data_received(data)
        assert max(map(len, parts)) == SMALL < len(data)
        for part in parts:
            transport.reads_for.data_received(part)
        assert connection.received == texts

    async def test_nothing_is_taken_after_what_ends_the_connection(self, monkeypatch):
        transport = TransportOfUvloop()
        connection = Connection(transport)
        parts = []

        def end(data: bytes) -> None:
            parts.append(data)
            transport.abort()

        monkeypatch.setattr(connection.protocol, "data_received", end)
        transport.reads_for.data_received(b"#" * 3 * SMALL)
        assert parts == [b"#" * SMALL]

    @pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])
    async def test_messages_of_all_sizes_come_back(self):
        ends: list[Channel] = []

        def serve(end: Channel) -> None:
            ends.append(end)
            end.serve(lambda request: request.reply(request.content))

        async with await channel.start_server(("127.0.0.1", 0), serve) as server:
            end = await channel.open_connection(server.sockets[0].getsockname())
            for sizes, is_simple in [((1, 10, 1000), True), ((LARGE, 1, LARGE, SMALL), False)]:
                for size in sizes:
                    assert await end.send("x" * size) == "x" * size
                for one in (end, *ends):
                    protocol = one.transport.get_protocol()
                    assert isinstance(protocol, asyncio.BufferedProtocol) is not is_simple
            await end.close()
