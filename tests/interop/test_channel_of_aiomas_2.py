"""Channels work between ours and aiomas 2.0.1, in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

import aiomas
import aiomas.codecs
from aiomas.channel import Channel, Request, open_connection, start_server

from .conftest import StartPeer
from .peer import Peer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60, func_only=True)]

CODECS: dict[str, type[aiomas.codecs.Codec]] = {
    "JSON": aiomas.JSON,
    "MsgPack": aiomas.MsgPack,
    "MsgPackBlosc": aiomas.MsgPackBlosc,
}


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def transport() -> str:
    return "tcp"


over_unix_sockets_too = pytest.mark.parametrize("transport", ["tcp", "unix"])


async def serve(channel: Channel) -> None:
    """Answer requests as the twin of this function in `peers/aiomas_2/channel.py` does."""
    held: list[Request] = []
    with suppress(ConnectionError):
        while True:
            request = await channel.recv()
            what, *args = request.content
            match what:
                case "echo":
                    await request.reply(args[0])
                case "fail":
                    await request.fail(ValueError("boom"))
                case "ask back":
                    await request.reply(await channel.send(["echo", args[0]]))
                case "hold":  # answer in the reverse order
                    held.append(request)
                    if len(held) == args[0]:
                        for number, kept in enumerate(reversed(held)):
                            await kept.reply(number)
                case "hang up":
                    await channel.close()


@pytest.fixture
async def old(start_old: StartPeer, codec: str, transport: str, unix_path: str) -> tuple[Peer, Any]:
    """The old program, and the address of its server."""
    path = [f"{unix_path}-old"] if transport == "unix" else []
    peer = await start_old("channel.py", codec, *path)
    addr = await peer.says()
    return peer, tuple(addr) if isinstance(addr, list) else addr


@pytest.fixture
async def channel(old: tuple[Peer, Any], codec: str) -> AsyncIterator[Channel]:
    """Our channel to the old server, which can also ask back."""
    channel = await open_connection(old[1], codec=CODECS[codec])
    serving = asyncio.create_task(serve(channel))
    yield channel
    await channel.close()
    await serving


@pytest.fixture
async def addr(codec: str, transport: str, unix_path: str) -> AsyncIterator[Any]:
    """The address of our server."""
    addr = f"{unix_path}-new" if transport == "unix" else ("127.0.0.1", 0)
    channels: list[Channel] = []

    async def connected(channel: Channel) -> None:
        channels.append(channel)
        await serve(channel)

    async with await start_server(addr, connected, codec=CODECS[codec]) as server:
        yield server.sockets[0].getsockname()
    for channel in channels:
        await channel.close()


class TestNewDialsOld:
    @over_unix_sockets_too
    async def test_requests_are_answered(self, channel: Channel) -> None:
        assert await channel.send(["echo", {"a": "ä"}]) == {"a": "ä"}
        assert await channel.send(["ask back", "spam"]) == "spam"
        with pytest.raises(aiomas.RemoteException) as caught:
            await channel.send(["fail"])
        assert caught.value.remote_traceback == "ValueError: boom\n"

    async def test_replies_may_come_in_any_order(self, channel: Channel) -> None:
        replies = await asyncio.gather(*(channel.send(["hold", 100]) for _ in range(100)))
        assert replies == list(reversed(range(100)))

    async def test_a_request_fails_when_the_old_end_hangs_up(self, channel: Channel) -> None:
        with pytest.raises(ConnectionResetError):
            await channel.send(["hang up"])


class TestOldDialsNew:
    @over_unix_sockets_too
    async def test_requests_are_answered(self, old: tuple[Peer, Any], addr: Any) -> None:
        await old[0].do("connect", addr)
        assert await old[0].do("send", ["echo", {"a": "ä"}]) == {"a": "ä"}
        assert await old[0].do("send", ["ask back", "spam"]) == "spam"
        caught = await old[0].do("send", ["fail"])
        assert caught["types"][0] == "RemoteException"
        assert caught["text"].splitlines()[1:] == ["ValueError: boom"]

    async def test_replies_may_come_in_any_order(self, old: tuple[Peer, Any], addr: Any) -> None:
        await old[0].do("connect", addr)
        replies = await old[0].do("send_many", [["hold", 100]] * 100)
        assert replies == list(reversed(range(100)))

    async def test_a_request_fails_when_our_end_hangs_up(
        self, old: tuple[Peer, Any], addr: Any
    ) -> None:
        await old[0].do("connect", addr)
        assert "ConnectionResetError" in (await old[0].do("send_too_late"))["types"]
