"""The shortest way for ordinary messages: what takes it, and what it must not lose on the way."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
import subprocess
import sys
from collections import Counter
from typing import Any

import msgpack
import pytest

from aiomas import _protocol, rpc
from aiomas._limits import Limits
from aiomas._logs import LimitedLog
from aiomas._protocol import ChannelProtocol
from aiomas._session import REQUEST
from aiomas._terms import Terms
from aiomas.codecs import JSON, Codec, MsgPack
from aiomas.exceptions import ConnectionLost, RemoteException, SerializationError
from aiomas.rpc import RpcClient, Service, expose
from tests.ids import plain
from tests.kept_transport import KeptTransport

MIB = 1024**2
LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]
PACK: dict[type[Codec], Any] = {
    MsgPack: msgpack.packb,
    JSON: lambda message: json.dumps(message).encode(),
}
UNPACK: dict[type[Codec], Any] = {MsgPack: msgpack.unpackb, JSON: json.loads}
both_codecs = pytest.mark.parametrize("cls", [MsgPack, JSON], ids=plain)


class Odd:
    """Cannot be encoded, and neither can what it says of itself."""

    def __repr__(self) -> str:
        return "<Odd \udc80>"


class Spam:
    router = Service()

    def __init__(self) -> None:
        self.asked: list[Any] = []

    @expose
    def echo(self, value: Any = None) -> Any:
        self.asked.append(value)
        return value

    @expose
    def big(self) -> bytes:
        return b"x" * MIB

    @expose
    def odd(self) -> Any:
        return Odd()

    @expose
    async def odd_later(self) -> Any:
        await asyncio.sleep(0)
        return Odd()


@pytest.fixture(autouse=True)
def bad_peers(monkeypatch):
    monkeypatch.setattr(_protocol, "bad_peers", LimitedLog(_protocol.logger))


class Server:
    """A server, and what it has accepted."""

    def __init__(self, codec: type[Codec]) -> None:
        self.codec = codec
        self.service = Spam()
        self.accepted: asyncio.Queue[RpcClient] = asyncio.Queue()
        self.clients: list[RpcClient] = []
        self.server: Any = None

    async def start(self) -> None:
        self.server = await rpc.start_server(
            ("127.0.0.1", 0), self.service, self.accepted.put_nowait, codec=self.codec
        )
        self.addr = self.server.sockets[0].getsockname()

    async def connect(self) -> tuple[Any, RpcClient]:
        """Return the remote service, and the connection as the server has it."""
        self.clients.append(await rpc.open_connection(self.addr, codec=self.codec))
        self.clients.append(await self.accepted.get())
        return self.clients[-2].remote, self.clients[-1]

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        self.server.close()
        await self.server.wait_closed()


@pytest.fixture(params=[MsgPack], ids=plain)
async def server(request):
    server = Server(request.param)
    await server.start()
    yield server
    await server.close()


def framed(payload: bytes) -> bytes:
    return struct.pack("!L", len(payload)) + payload


@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_a_peer_that_never_reads_gets_no_more_than_the_buffers_hold(server):
    loop = asyncio.get_running_loop()
    asked = 300
    with socket.create_connection(server.addr) as peer:
        peer.setblocking(False)
        served = await server.accepted.get()
        server.clients.append(served)
        protocol = served.channel._protocol
        most = 0
        for number in range(asked):
            await loop.sock_sendall(peer, framed(msgpack.packb([0, number, ["big", [], {}]])))
            while protocol._counters.calls_in <= number:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
            most = max(most, protocol._transport.get_write_buffer_size())
        assert protocol.outbox.paused
        assert protocol.intake.requests > asked / 2  # which wait to be served
        # One that is over the mark when it comes is the last one.
        assert most <= protocol.terms.limits.write_high_water + 2 * MIB
        protocol._transport.abort()


@pytest.mark.parametrize("anyio_backend", LOOPS)
@pytest.mark.parametrize("in_flight", [1000, 5000])
@pytest.mark.parametrize("size", [40, 200])
async def test_many_calls_in_flight_all_take_the_shortest_way(server, monkeypatch, in_flight, size):
    remote, served = await server.connect()
    await remote.echo(1)
    protocol = served.channel._protocol
    long_way: Counter[int] = Counter()
    take = ChannelProtocol._take

    def counted(self: ChannelProtocol, kind: Any, *args: Any) -> None:
        long_way[self is protocol and kind == REQUEST] += 1
        take(self, kind, *args)

    monkeypatch.setattr(ChannelProtocol, "_take", counted)
    for _ in range(3):
        calls = [remote.echo(b"x" * size) for _ in range(in_flight)]
        assert len(set(await asyncio.gather(*calls))) == 1
    assert len(server.service.asked) == 3 * in_flight + 1
    assert long_way[True] <= in_flight / 100


@pytest.mark.parametrize("server", [MsgPack, JSON], indirect=True, ids=plain)
@pytest.mark.parametrize("name", ["odd", "odd_later"])
async def test_what_cannot_even_be_described_is_an_error_of_one_call(server, name):
    remote, _ = await server.connect()
    for _ in range(2):
        calls = remote.echo("before"), getattr(remote, name)(), remote.echo("after")
        async with asyncio.timeout(5):
            results: Any = await asyncio.gather(*calls, return_exceptions=True)
        before, odd, after = results
        assert isinstance(odd, RemoteException)
        assert r"<Odd \udc80>" in str(odd)
        assert (before, after) == ("before", "after")


class Terse(MsgPack):
    """Knows no words for what went wrong."""

    def encode(self, data: Any) -> bytes:
        if data[0] == 2:
            msg = "there are no words for this"
            raise SerializationError(msg)
        return super().encode(data)


class TerseAtOnce(Terse):
    """The same, but for what it says of messages that need no care."""

    def shortcuts(self) -> Any:
        return MsgPack().shortcuts()


@pytest.mark.parametrize("server", [Terse, TerseAtOnce], indirect=True, ids=plain)
@pytest.mark.parametrize("name", ["odd", "missing"])
async def test_what_cannot_be_answered_at_all_ends_the_connection(server, caplog, name):
    remote, _ = await server.connect()
    other, _ = await server.connect()
    assert await remote.echo("fine") == "fine"
    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    calls = getattr(remote, name)(), remote.echo("never served")
    async with asyncio.timeout(5):
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(result, ConnectionLost) for result in results] == [True, True]
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len([line for line in lines if "cannot be answered" in line]) == 1
    assert len(lines) == 1
    assert not errors
    assert "never served" not in server.service.asked
    assert await other.echo("goes on") == "goes on"


@pytest.mark.parametrize("server", [Terse, TerseAtOnce], indirect=True, ids=plain)
async def test_nor_can_that_of_a_coroutine_function(server):
    remote, _ = await server.connect()
    async with asyncio.timeout(5):
        with pytest.raises(ConnectionLost):
            await remote.odd_later()


class End:
    """The accepting end of a connection, whose peer's bytes come from the tests."""

    def __init__(self, codec: type[Codec], limits: Limits) -> None:
        self.service = Spam()
        self.cls = codec
        self.terms = Terms(limits=limits)
        self.transport = KeptTransport()
        self.clients: list[RpcClient] = []
        self.protocol = ChannelProtocol(
            codec(),
            lambda channel: self.clients.append(RpcClient(channel, self.service)),
            loop=asyncio.get_running_loop(),
            terms=self.terms,
        )
        self.protocol.connection_made(self.transport)

    def echo(self, number: int, value: Any) -> bytes:
        return framed(PACK[self.cls]([0, number, ["echo", [value], {}]]))

    def sent(self) -> list[Any]:
        """Return the messages that were sent."""
        data, messages = self.transport.data, []
        while data:
            (size,) = struct.unpack_from("!L", data)
            messages.append(UNPACK[self.cls](data[4 : 4 + size]))
            data = data[4 + size :]
        return messages


@both_codecs
@pytest.mark.parametrize("max_frame", [1000, 5000, 100_000])
@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("after", [0, 2])
async def test_a_frame_over_the_limit_in_the_midst_of_a_chunk_ends_the_connection(
    cls, max_frame, before, after, caplog
):
    end = End(cls, Limits(max_frame=max_frame))
    large = end.echo(before, "x" * max_frame)
    ordinary = [end.echo(number, number) for number in range(before)]
    more = [end.echo(before + 1 + number, "after") for number in range(after)]
    end.protocol.data_received(b"".join([*ordinary, large, *more]))
    assert end.transport.closing
    end.protocol.connection_lost(None)

    assert end.service.asked == list(range(before))
    assert end.terms.counters.limits_hit == {"max_frame": 1}
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "max_frame" in line


@both_codecs
@pytest.mark.parametrize("max_frame", [1000, 5000])
async def test_a_frame_of_exactly_the_limit_is_an_ordinary_one(cls, max_frame):
    end = End(cls, Limits(max_frame=max_frame))
    rest = max_frame - (len(end.echo(0, "x" * 500)) - 4 - 500)
    frames = [end.echo(0, "x" * rest), end.echo(1, 1)]
    assert len(frames[0]) == 4 + max_frame
    end.protocol.data_received(b"".join(frames))
    end.protocol.outbox.flush()
    assert [message[:2] for message in end.sent()] == [[1, 0], [1, 1]]
    assert not end.transport.closing
    end.protocol.connection_lost(None)


LOOP_ENDS = """
import asyncio, gc
import aiomas

class Agent(aiomas.Agent):
    @aiomas.expose
    def quick(self):
        return 1

    @aiomas.expose
    async def wait(self):
        print("waits", flush=True)
        await asyncio.sleep(100)

    @aiomas.expose
    async def stop(self):
        asyncio.get_running_loop().stop()

async def start():
    one, other = [
        await aiomas.Container.create(("127.0.0.1", 0), codec=aiomas.MsgPack) for _ in range(2)
    ]
    proxy = await one.connect(Agent(other).addr)
    await proxy.quick()
    return one, other, proxy

def burst():
    calls.extend([proxy.wait(), proxy.wait(), proxy.stop(), proxy.wait(), proxy.wait()])

calls = []
loop = asyncio.new_event_loop()
one, other, proxy = loop.run_until_complete(start())
loop.call_soon(burst)
loop.run_forever()
loop.close()
del one, other, proxy, calls, loop
gc.collect()
print("end")
"""


def test_what_a_closed_loop_has_left_unfinished_ends_without_a_word_of_ours():
    done = subprocess.run(
        # Nobody has closed the sockets, which Python would mention.
        [sys.executable, "-W", "default", "-W", "ignore::ResourceWarning", "-c", LOOP_ENDS],
        timeout=30,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split()[-1] == "end"
    assert "waits" in done.stdout
    assert "Exception ignored" not in done.stderr
    assert "never awaited" not in done.stderr
    of_asyncio = ("Task was destroyed but it is pending!", "task: <Task pending ")
    others = [line for line in done.stderr.splitlines() if not line.startswith(of_asyncio)]
    assert not others
