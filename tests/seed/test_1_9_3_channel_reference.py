"""Section 1.9.3: aiomas.channel."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import pytest

import aiomas
from aiomas.channel import Channel, ChannelProtocol, Request, open_connection, start_server

LOOPBACK = ("127.0.0.1", 0)


@asynccontextmanager
async def connected(serve, addr=LOOPBACK, **kwds: Any):
    """Start a server, for which `serve(channel)` is started, and connect to it."""
    async with await start_server(addr, serve, **kwds) as server:
        addr = server.sockets[0].getsockname() if addr is LOOPBACK else addr
        channel = await open_connection(addr, **kwds)
        try:
            yield channel
        finally:
            await channel.close()


@asynccontextmanager
async def pair(**kwds: Any):
    """Connect, and return the channels of both ends."""
    accepted: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
    async with connected(accepted.set_result, **kwds) as channel:
        yield channel, await accepted


async def echo(channel):
    try:
        while True:
            request = await channel.recv()
            await request.reply(request.content)
    except ConnectionError:
        await channel.close()


def test_section_1_9_3_default_codec():
    assert aiomas.channel.DEFAULT_CODEC is aiomas.JSON


async def test_section_1_9_3_open_connection_addr():
    async with connected(echo) as channel:
        assert isinstance(channel, Channel)
        assert isinstance(channel.codec, aiomas.JSON)
        assert await channel.send("tcp") == "tcp"


async def test_section_1_9_3_open_connection_addr_unix(unix_path):
    async with connected(echo, unix_path) as channel:
        assert await channel.send("unix") == "unix"


async def test_section_1_9_3_open_connection_parameters():
    options = {
        "loop": asyncio.get_running_loop(),
        "codec": aiomas.MsgPack,
        "extra_serializers": [lambda: (complex, str, complex)],
    }
    async with connected(echo, **options) as channel:
        assert isinstance(channel.codec, aiomas.MsgPack)
        assert await channel.send([b"x", 1j]) == (b"x", 1j)


async def test_section_1_9_3_open_connection_kwds_go_to_asyncio(certs):
    async with await start_server(
        LOOPBACK, echo, backlog=5, ssl=aiomas.make_ssl_server_context(*certs)
    ) as server:
        channel = await open_connection(
            server.sockets[0].getsockname(),
            ssl=aiomas.make_ssl_client_context(*certs),
            server_hostname="localhost",
        )
        assert channel.get_extra_info("cipher")
        assert await channel.send("tls") == "tls"
        await channel.close()


@pytest.mark.parametrize("callback", ["a function", "a coroutine function"])
async def test_section_1_9_3_start_server_client_connected_cb(callback):
    channels: asyncio.Queue[Channel] = asyncio.Queue()

    async def coroutine_function(channel):
        channels.put_nowait(channel)

    async with await start_server(
        addr=LOOPBACK,
        client_connected_cb=channels.put_nowait if callback == "a function" else coroutine_function,
    ) as server:
        clients = [await open_connection(server.sockets[0].getsockname()) for _ in range(3)]
        accepted = [await channels.get() for _ in clients]

        assert len({id(channel) for channel in accepted}) == 3
        assert all(isinstance(channel, Channel) for channel in accepted)
        for channel in clients:
            await channel.close()


class TestChannelProtocol:
    """Sections about ChannelProtocol: used directly with the methods of the event loop."""

    @asynccontextmanager
    async def joined(self, client_connected_cb=None):
        loop = asyncio.get_running_loop()
        accepted: list[ChannelProtocol] = []

        def accept() -> ChannelProtocol:
            accepted.append(ChannelProtocol(aiomas.JSON(), client_connected_cb, loop=loop))
            return accepted[-1]

        server = await loop.create_server(accept, *LOOPBACK)
        transport, protocol = await loop.create_connection(
            lambda: ChannelProtocol(codec=aiomas.JSON(), client_connected_cb=None, loop=loop),
            *server.sockets[0].getsockname(),
        )
        try:
            yield protocol, transport, accepted
        finally:
            server.close()
            await protocol.channel.close()

    async def test_section_1_9_3_channelprotocol_connection_made_makes_a_channel(self):
        async with self.joined(echo) as (protocol, transport, _):
            assert isinstance(protocol.channel, Channel)
            assert protocol.channel.transport is transport
            assert await protocol.channel.send("ohai") == "ohai"

    async def test_section_1_9_3_channelprotocol_data_received_waits_for_a_whole_message(self):
        async with self.joined() as (protocol, _, _):
            payload = b'[0, 7, "ohai"]'
            for byte in len(payload).to_bytes(4, "big") + payload:
                protocol.data_received(bytes([byte]))
            request = await protocol.channel.recv()

        assert (request.content, request.message_id) == ("ohai", 7)

    async def test_section_1_9_3_channelprotocol_write_sends_a_serialized_message(self):
        channels: asyncio.Queue[Channel] = asyncio.Queue()
        async with self.joined(channels.put_nowait) as (protocol, _, _):
            await protocol.write(content=[0, 3, "ohai"])
            request = await (await channels.get()).recv()

        assert (request.content, request.message_id) == ("ohai", 3)

    async def test_section_1_9_3_channelprotocol_pause_and_resume_writing(self):
        async with self.joined(echo) as (protocol, _, _):
            assert not protocol.paused
            protocol.pause_writing()
            assert protocol.paused
            reply = protocol.channel.send("held back")
            waiting = asyncio.ensure_future(protocol.write([0, 99, "as well"]))
            await asyncio.sleep(0)
            assert not waiting.done()

            protocol.resume_writing()
            assert not protocol.paused
            await waiting
            assert await reply == "held back"

    @pytest.mark.parametrize("event", ["connection_lost", "eof_received"])
    async def test_section_1_9_3_channelprotocol_end_of_a_connection(self, event):
        channels: asyncio.Queue[Channel] = asyncio.Queue()
        async with self.joined(channels.put_nowait) as (protocol, _, _):
            pending = protocol.channel.send("ohai")
            peer = await channels.get()
            if event == "eof_received":
                peer.transport.write_eof()  # type: ignore[attr-defined]
            else:
                peer.transport.abort()  # type: ignore[attr-defined]

            with pytest.raises(ConnectionResetError):
                await pending
            with pytest.raises(ConnectionResetError):
                await protocol.channel.recv()
            await peer.close()


async def test_section_1_9_3_request_content():
    async with pair() as (client, server):
        reply = client.send({"any": ["value"]})
        request = await server.recv()

        assert isinstance(request, Request)
        assert request.content == {"any": ["value"]}
        await request.reply(None)
        assert await reply is None


async def test_section_1_9_3_request_reply():
    async with pair() as (client, server):
        reply = client.send("ohai")
        await (await server.recv()).reply(result="cya")

        assert await reply == "cya"


async def test_section_1_9_3_request_fail():
    async with pair() as (client, server):
        reply = client.send("ohai")
        await (await server.recv()).fail(exception=ValueError("boom"))

        with pytest.raises(aiomas.RemoteException, match="ValueError: boom") as info:
            await reply
        assert info.value.origin == client.get_extra_info("peername")


async def test_section_1_9_3_request_parameters():
    async with pair() as (client, server):
        pending = client.send("ohai")
        arrived = await server.recv()
        request = Request(
            content=arrived.content, message_id=arrived.message_id, protocol=arrived.source
        )
        await request.reply("cya")

        assert await pending == "cya"


async def test_section_1_9_3_channel_codec():
    async with pair(codec=aiomas.MsgPackBlosc) as channels:
        for channel in channels:
            assert isinstance(channel.codec, aiomas.MsgPackBlosc)
            assert isinstance(channel.codec, aiomas.codecs.Codec)


async def test_section_1_9_3_channel_transport():
    async with pair() as channels:
        for channel in channels:
            # Transports of some loops are no subclasses of asyncio's.
            assert channel.transport.get_extra_info("peername") == channel.get_extra_info(
                "peername"
            )
            assert not channel.transport.is_closing()


async def test_section_1_9_3_channel_send_returns_a_future():
    async with connected(echo) as channel:
        futures = [channel.send(content=i) for i in range(3)]

        assert all(asyncio.isfuture(future) for future in futures)
        assert await asyncio.gather(*futures) == [0, 1, 2]


async def test_section_1_9_3_channel_send_raises_when_the_connection_closes():
    async with pair() as (client, server):
        pending = client.send("ohai")
        await server.recv()
        server.close()

        with pytest.raises(ConnectionResetError):
            await pending
        with pytest.raises(ConnectionError):
            await client.send("too late")


@pytest.mark.parametrize("method", ["send", "recv"])
async def test_section_1_9_3_channel_raises_runtimeerror_for_an_invalid_message_type(method):
    async with pair() as (client, server):
        pending = client.send("ohai") if method == "send" else client.recv()
        await server._protocol.write([5, 0, "no such type"])

        with pytest.raises(RuntimeError):
            await pending


async def test_section_1_9_3_channel_send_of_a_cancelled_caller_harms_nobody():
    async with pair() as (client, server):
        cancelled, other = client.send("a"), client.send("b")
        cancelled.cancel()
        for _ in range(2):
            request = await server.recv()
            await request.reply(request.content)

        assert await other == "b"


async def test_section_1_9_3_channel_recv_returns_requests_in_order():
    async with pair() as (client, server):
        replies = [client.send(i) for i in range(5)]
        requests = [await server.recv() for _ in range(5)]

        assert [request.content for request in requests] == [0, 1, 2, 3, 4]
        for request in requests:
            await request.reply(None)
        await asyncio.gather(*replies)


async def test_section_1_9_3_channel_recv_raises_when_the_connection_closes():
    async with pair() as (client, server):
        waiting = asyncio.ensure_future(server.recv())
        await asyncio.sleep(0)
        client.close()

        with pytest.raises(ConnectionResetError):
            await waiting


async def test_section_1_9_3_channel_recv_is_for_one_process_at_a_time():
    async with pair() as (client, server):
        waiting = asyncio.ensure_future(server.recv())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await server.recv()
        reply = client.send("ohai")

        await (await waiting).reply("cya")
        assert await reply == "cya"


async def test_section_1_9_3_channel_close():
    async with pair() as (client, _):
        client.close()

        assert client.transport.is_closing()
        with pytest.raises(ConnectionError):
            await client.recv()


async def test_section_1_9_3_channel_get_extra_info():
    async with pair() as (client, server):
        assert client.get_extra_info("sockname") == server.get_extra_info("peername")
        assert client.get_extra_info("nothing") is None
        assert client.get_extra_info(name="nothing", default="x") == "x"


async def test_section_1_9_3_channel_parameters():
    async with pair() as (client, _):
        loop = asyncio.get_running_loop()
        channel = Channel(
            protocol=client._protocol, codec=client.codec, transport=client.transport, loop=loop
        )
        assert channel.get_extra_info("peername") == client.get_extra_info("peername")
