"""One end speaks TLS, and the other does not, or no further than it has to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct

import pytest

import aiomas
from aiomas import Limits
from aiomas.channel import open_connection, start_server
from aiomas.exceptions import ConnectTimeout, HandshakeError
from tests.tls.world import LIMIT, RawTls, port_of, worker

QUICK = Limits(handshake_timeout=0.3)


@contextlib.asynccontextmanager
async def raw(port: int):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def plain_server(answer):
    """Serve what has nothing to do with aiomas, on a port of its own."""

    async def serve(reader, writer):
        with contextlib.suppress(OSError):
            await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Return what the other end has sent before it closed the connection."""
    data = b""
    async with asyncio.timeout(LIMIT):
        with contextlib.suppress(ConnectionResetError):
            while more := await reader.read(1000):
                data += more
    return data


async def test_plaintext_to_tls(certs, caplog):
    async with worker(certs) as there, worker(None) as here, asyncio.timeout(LIMIT):
        # It is not tried again and again: it will not get better.
        with pytest.raises(HandshakeError, match=r"alert of TLS.*ssl=") as caught:
            await here.container.connect(there.addr, timeout=60)
        assert isinstance(caught.value, ConnectionError)
    assert "Refusing a client that does not speak TLS" in caplog.text


async def test_plaintext_to_tls_by_a_bare_channel(certs):
    async with worker(certs) as there, asyncio.timeout(LIMIT):
        channel = await open_connection(("127.0.0.1", port_of(there)))
        with pytest.raises(HandshakeError, match=r"alert of TLS.*ssl="):
            await channel.send("ohai")


async def test_plaintext_to_a_tls_port_that_says_nothing():
    async def close(reader, writer):
        await reader.read(1)

    async with plain_server(close) as port, worker(None) as here, asyncio.timeout(LIMIT):
        with pytest.raises(ConnectionError, match="perhaps expects TLS"):
            await here.container.connect(f"tcp://127.0.0.1:{port}/0")


async def test_tls_to_plaintext(certs, caplog):
    async with worker(None) as there, worker(certs) as here, asyncio.timeout(LIMIT):
        with pytest.raises(HandshakeError, match="does not speak TLS") as caught:
            await here.container.connect(there.addr, timeout=60)
        assert isinstance(caught.value.__cause__, ssl.SSLError)
    assert "the beginning of TLS, which this end was not made for" in caplog.text


async def test_tls_to_plaintext_where_frames_may_be_as_large_as_it_looks_like(certs, caplog):
    limits = Limits(max_frame=2**32 - 1)
    async with worker(None, limits=limits) as there, worker(certs) as here:
        async with asyncio.timeout(LIMIT):
            with pytest.raises(HandshakeError, match="does not speak TLS"):
                await here.container.connect(there.addr)


async def test_the_error_of_a_server_that_was_taken_for_one_of_tls(certs):
    channels: list[aiomas.channel.Channel] = []
    server = await start_server(("127.0.0.1", 0), channels.append)
    async with server, asyncio.timeout(LIMIT):
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(HandshakeError):
            await open_connection(("127.0.0.1", port), ssl=aiomas.make_ssl_client_context(*certs))
        with pytest.raises(HandshakeError, match="the beginning of TLS"):
            await channels[0].recv()


async def test_tls_to_a_server_that_waits(certs):
    async def wait(reader, writer):
        while await reader.read(1000):
            pass

    async with plain_server(wait) as port, worker(certs, limits=QUICK) as here:
        async with asyncio.timeout(LIMIT):
            with pytest.raises(ConnectTimeout, match=r"took more than 0\.3 s for the TLS handsh"):
                await here.container.connect(f"tcp://127.0.0.1:{port}/0")


async def test_tls_to_a_server_that_hangs_up(certs):
    async def hang_up(reader, writer):
        await reader.read(1)

    async with plain_server(hang_up) as port, worker(certs) as here, asyncio.timeout(LIMIT):
        with pytest.raises(ConnectionResetError, match="it may not speak TLS"):
            await here.container.connect(f"tcp://127.0.0.1:{port}/0")


async def test_http_to_tls(certs, caplog):
    async with worker(certs) as there, raw(port_of(there)) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await reader.readexactly(7))[0] == 0x15
    assert "does not speak TLS" in caplog.text


async def test_silent_connect(certs):
    async with worker(certs, limits=QUICK) as there, raw(port_of(there)) as (reader, _):
        assert await ended(reader) == b""


async def test_silent_connect_to_a_bare_server(certs):
    context = aiomas.make_ssl_server_context(*certs)
    server = await start_server(("127.0.0.1", 0), lambda _: None, ssl=context, limits=QUICK)
    async with server, raw(server.sockets[0].getsockname()[1]) as (reader, _):
        assert await ended(reader) == b""


async def test_half_a_client_hello(certs):
    context = aiomas.make_ssl_client_context(*certs)
    async with (
        worker(certs, limits=QUICK) as there,
        RawTls.connect(port_of(there), context) as client,
    ):
        hello = client.first_bytes()
        assert hello[:2] == b"\x16\x03"
        client._writer.write(hello[: len(hello) // 2])
        assert await ended(client._reader) == b""


async def test_who_goes_on_sending_after_a_refusal_is_cut_off(certs):
    async with worker(certs) as there, raw(port_of(there)) as (reader, writer):
        writer.write(b"no TLS at all")
        assert (await reader.readexactly(7))[0] == 0x15
        writer.write(b"and still none")
        started = asyncio.get_running_loop().time()
        assert await ended(reader) == b""
        assert asyncio.get_running_loop().time() - started < 1


async def test_200_half_open_connections_while_a_good_client_is_served(certs):
    async with worker(certs) as there, worker(certs) as here, contextlib.AsyncExitStack() as stack:
        address = ("127.0.0.1", port_of(there))
        loop = asyncio.get_running_loop()
        for n in range(200):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            if n % 2:
                sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        async with asyncio.timeout(LIMIT):
            proxy = await here.container.connect(there.addr)
            assert await asyncio.gather(*(proxy.echo(n) for n in range(100))) == list(range(100))


async def test_oversize_first_frame(certs, caplog):
    context = aiomas.make_ssl_client_context(*certs)
    async with worker(certs) as there, RawTls.connect(port_of(there), context) as client:
        await client.shake_hands()
        await client.write(struct.pack("!L", 2**32 - 1) + b"x" * 100)
        async with asyncio.timeout(LIMIT):
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                assert await client.read() == b""
        # And others are served.
        async with worker(certs) as here:
            assert await (await here.container.connect(there.addr)).echo(1) == 1
    assert "over the limit max_frame" in caplog.text
