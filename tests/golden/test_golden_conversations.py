"""A peer made of literal bytes talks with our containers, RPC connections and channels."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

import aiomas
import aiomas.channel
import aiomas.rpc

from .codecs_under_test import CODECS, need, read_independently, unpacked
from .raw_peer import PATIENCE, RawPeer, RawServer
from .vectors import BARE_RPC, CHANNEL, FRAMES, MSGPACK, Point

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("codec", CODECS)]


class Meter:
    router = aiomas.rpc.Service()

    @aiomas.expose
    def read(self) -> int:
        return 4


class Callee(aiomas.Agent):
    router = aiomas.rpc.Service(["meter"])

    def __init__(self, container: aiomas.Container) -> None:
        self.meter = Meter()
        super().__init__(container)
        self.failure: BaseException | None = None

    @aiomas.expose
    def add(self, a: int, b: int) -> int:
        return a + b

    @aiomas.expose
    async def nothing(self) -> None:
        pass

    @aiomas.expose
    def fail(self) -> None:
        raise ValueError("boom")

    @aiomas.expose
    def echo(self, value: Any) -> Any:
        return value

    @aiomas.expose
    async def call_back(self, caller: Any, number: int) -> int:
        result = await caller.add(number, b=1)
        assert isinstance(result, int)
        return result

    @aiomas.expose
    def get_meter(self) -> Meter:
        return self.meter


class Site:
    """The service of a bare RPC server."""

    router = aiomas.rpc.Service(["meter"])

    def __init__(self) -> None:
        self.meter = Meter()

    @aiomas.expose
    def add(self, a: int, b: int) -> int:
        return a + b

    @aiomas.expose
    def get_meter(self) -> Meter:
        return self.meter


@asynccontextmanager
async def container_of(codec: str) -> AsyncIterator[aiomas.Container]:
    need(codec)
    async with aiomas.Container.open(
        ("127.0.0.1", 0), codec=CODECS[codec], extra_serializers=[Point.__serializer__]
    ) as container:
        yield container


@asynccontextmanager
async def dialled(codec: str) -> AsyncIterator[RawPeer]:
    """A raw peer that has connected to one of our containers."""
    async with container_of(codec) as container:
        port = urlsplit(Callee(container).addr).port
        assert port
        async with RawPeer.dial(port) as peer:
            yield peer


def assert_same(codec: str, frame: bytes, expected: bytes) -> None:
    """Fail if the frames differ, other than by how well Blosc compressed them."""
    if codec == "MsgPackBlosc":
        assert unpacked(codec, frame) == unpacked(codec, expected)
    else:
        assert frame == expected


def assert_says(codec: str, frame: bytes, name: str) -> None:
    assert_same(codec, frame, FRAMES[codec][name])


# --- our container is dialled -----------------------------------------------------------------

CALLS = [
    ("validate_aid", "agent exists"),
    ("call", "result"),
    ("call without arguments", "nothing"),
    ("date", "date reply"),
    ("own type", "own type reply"),
    ("call for a service", "service as result"),
    ("call to a service", "call to a service reply"),
]


async def test_container_answers_each_request_with_the_bytes_that_old_ones_do(codec: str) -> None:
    async with dialled(codec) as peer:
        for request, reply in CALLS:
            await peer.send(FRAMES[codec][request])
            assert_says(codec, await peer.frame(), reply)


async def test_container_takes_all_requests_in_one_segment(codec: str) -> None:
    async with dialled(codec) as peer:
        await peer.send(b"".join(FRAMES[codec][request] for request, _ in CALLS))
        replies = {unpacked(codec, await peer.frame()) for _ in CALLS}
        assert replies == {unpacked(codec, FRAMES[codec][reply]) for _, reply in CALLS}


async def test_container_takes_a_request_byte_by_byte(codec: str) -> None:
    async with dialled(codec) as peer:
        for value in FRAMES[codec]["call"]:
            await peer.send(bytes([value]))
            await asyncio.sleep(0)
        assert_says(codec, await peer.frame(), "result")


async def test_container_without_that_agent_answers_nothing_at_all(codec: str) -> None:
    async with dialled(codec) as peer:
        await peer.send(FRAMES[codec]["validate_aid of nobody"])
        assert_says(codec, await peer.frame(), "no such agent")


async def test_container_never_speaks_first(codec: str) -> None:
    async with dialled(codec) as peer:
        await peer.send(FRAMES[codec]["call"])
        assert_says(codec, await peer.frame(), "result")
        # Whatever it had sent unasked would have come before this.


@pytest.mark.parametrize(
    ("request_name", "message_id", "error"),
    [("failing call", 3, "ValueError: boom"), ("call to nothing", 12, "LookupError")],
)
async def test_container_answers_a_failure_with_a_traceback_as_text(
    codec: str, request_name: str, message_id: int, error: str
) -> None:
    async with dialled(codec) as peer:
        await peer.send(FRAMES[codec][request_name])
        frame = await peer.frame()
        start = {"JSON": b'[2, %d, "' % message_id}.get(codec, b"\x93\x02%c" % message_id)
        assert unpacked(codec, frame).startswith(start)
        kind, ref, content = read_independently(codec, frame)
        assert (kind, ref) == (2, message_id)
        assert isinstance(content, str)
        assert error in content.splitlines()[-1]


async def test_container_calls_the_service_back_that_was_passed_to_it(codec: str) -> None:
    async with dialled(codec) as peer:
        await peer.send(FRAMES[codec]["agent as argument"])
        assert_says(codec, await peer.frame(), "callback")
        await peer.send(FRAMES[codec]["callback result"])
        assert_says(codec, await peer.frame(), "agent as argument reply")


async def test_container_passes_on_the_traceback_that_a_callback_raised(codec: str) -> None:
    # The reply to the callback is an exception whose id is 0 instead of the vector's 3.
    frame = with_id(codec, FRAMES[codec]["exception"], 3, 0)
    async with dialled(codec) as peer:
        await peer.send(FRAMES[codec]["agent as argument"])
        assert_says(codec, await peer.frame(), "callback")
        await peer.send(frame)
        kind, ref, content = read_independently(codec, await peer.frame())
        assert (kind, ref) == (2, 9)
        assert "RemoteException" in content
        assert "ValueError: boom" in content


def with_id(codec: str, frame: bytes, old: int, new: int) -> bytes:
    """Return *frame* with another id below 128 (and, with Blosc, stored plainly)."""
    payload = unpacked(codec, frame)
    if codec == "JSON":
        payload = payload.replace(b", %d, " % old, b", %d, " % new, 1)
    else:
        assert payload[2] == old
        payload = payload[:2] + bytes([new]) + payload[3:]
    if codec == "MsgPackBlosc":
        sizes = struct.pack("<LLL", len(payload), len(payload), len(payload) + 16)
        payload = b"\x02\x01\x13\x08" + sizes + payload
    return struct.pack("!L", len(payload)) + payload


# --- our container dials ----------------------------------------------------------------------


class OldContainer:
    """Answers as an old container does, and records which frames came."""

    def __init__(self, codec: str, peer: RawPeer) -> None:
        self.codec = codec
        self.peer = peer

    async def expect(self, name: str) -> int:
        """Wait for the request *name*, refuse those that old ones do not know; return its id."""
        _, expected_id, (expected_path, *_) = read_independently(
            self.codec, FRAMES[self.codec][name]
        )
        while True:
            frame = await self.peer.frame()
            kind, ref, (path, *_) = read_independently(self.codec, frame)
            assert kind == 0  # until both have agreed, there is nothing but ordinary requests
            if path == expected_path:
                assert_same(
                    self.codec,
                    with_id(self.codec, frame, ref, expected_id),
                    FRAMES[self.codec][name],
                )
                return int(ref)
            await self.send("exception", ref)

    async def send(self, name: str, message_id: int) -> None:
        """Send the reply *name* with the id of the request that it belongs to."""
        frame = FRAMES[self.codec][name]
        old_id = read_independently(self.codec, frame)[1]
        await self.peer.send(with_id(self.codec, frame, old_id, message_id))


@asynccontextmanager
async def dialling(codec: str) -> AsyncIterator[tuple[Callee, RawServer, str]]:
    """An agent of ours, and a raw server with the URL at which the agent can find it."""
    async with RawServer.listen() as server, container_of(codec) as container:
        yield Callee(container), server, f"tcp://127.0.0.1:{server.port}/0"


async def test_dialling_container_asks_for_the_extensions_and_then_for_the_agent(
    codec: str,
) -> None:
    async with dialling(codec) as (agent, server, url), asyncio.TaskGroup() as tasks:
        connecting = tasks.create_task(agent.container.connect(url))
        async with server.accept() as peer:
            kind, ref, (path, (hello,), kwargs) = read_independently(codec, await peer.frame())
            assert (kind, ref, path, kwargs) == (0, 0, "aiomas/hello", {})
            assert hello["url"] == agent.container.base_url
            old = OldContainer(codec, peer)
            await old.send("exception", ref)
            assert await old.expect("validate_aid") == 1  # nothing was sent in between
            await old.send("agent exists", 1)
            proxy = await connecting
            assert url in str(proxy)
            assert "CalleeProxy" in str(proxy)


async def test_dialling_container_takes_an_unknown_agent_for_an_error(codec: str) -> None:
    async with dialling(codec) as (agent, server, url), asyncio.TaskGroup() as tasks:

        async def talk() -> None:
            with pytest.raises(ConnectionError):
                await agent.container.connect(url)

        talking = tasks.create_task(talk())
        async with server.accept() as peer:
            old = OldContainer(codec, peer)
            await old.send("no such agent", await old.expect("validate_aid"))
            await talking


async def test_dialling_container_calls_and_understands_results(codec: str) -> None:
    async with dialling(codec) as (agent, server, url), asyncio.TaskGroup() as tasks:

        async def talk() -> list[Any]:
            proxy = await agent.container.connect(url)
            return [
                await proxy.add(1, b=3),
                await proxy.nothing(),
                await proxy.echo(Point(1, "z")),
                await proxy.meter.read(),
            ]

        talking = tasks.create_task(talk())
        async with server.accept() as peer:
            old = OldContainer(codec, peer)
            await old.send("agent exists", await old.expect("validate_aid"))
            await old.send("result", await old.expect("call"))
            await old.send("nothing", await old.expect("call without arguments"))
            await old.send("own type reply", await old.expect("own type"))
            await old.send("call to a service reply", await old.expect("call to a service"))
            assert await talking == [4, None, Point(1, "z"), 4]


async def test_dialling_container_raises_what_the_peer_failed_with(codec: str) -> None:
    async with dialling(codec) as (agent, server, url), asyncio.TaskGroup() as tasks:

        async def talk() -> None:
            proxy = await agent.container.connect(url)
            with pytest.raises(aiomas.RemoteException, match="ValueError: boom") as caught:
                await proxy.fail()
            assert caught.value.origin == ("127.0.0.1", server.port)
            assert "Traceback (most recent call last)" in caught.value.remote_traceback

        talking = tasks.create_task(talk())
        async with server.accept() as peer:
            old = OldContainer(codec, peer)
            await old.send("agent exists", await old.expect("validate_aid"))
            await old.send("exception", await old.expect("failing call"))
            await talking


async def test_dialling_container_passes_its_agent_and_is_called_back(codec: str) -> None:
    async with dialling(codec) as (agent, server, url), asyncio.TaskGroup() as tasks:

        async def talk() -> Any:
            proxy = await agent.container.connect(url)
            return await proxy.call_back(agent, 5)

        talking = tasks.create_task(talk())
        async with server.accept() as peer:
            old = OldContainer(codec, peer)
            await old.send("agent exists", await old.expect("validate_aid"))
            call = await old.expect("agent as argument")
            await peer.send(FRAMES[codec]["callback"])
            assert_says(codec, await peer.frame(), "callback result")
            await old.send("agent as argument reply", call)
            assert await talking == 6


async def test_dialling_container_gets_a_proxy_for_a_service_in_a_result(codec: str) -> None:
    async with dialling(codec) as (agent, server, url), asyncio.TaskGroup() as tasks:

        async def talk() -> Any:
            proxy = await agent.container.connect(url)
            meter = await proxy.get_meter()
            return await meter.read()

        talking = tasks.create_task(talk())
        async with server.accept() as peer:
            old = OldContainer(codec, peer)
            await old.send("agent exists", await old.expect("validate_aid"))
            await old.send("service as result", await old.expect("call for a service"))
            await old.send("call to a service reply", await old.expect("call to a service"))
            assert await talking == 4


@pytest.mark.parametrize("answered", [True, False], ids=["after_the_hello", "at_the_hello"])
async def test_dialling_container_gives_up_when_the_peer_hangs_up(
    codec: str, answered: bool
) -> None:
    async with dialling(codec) as (agent, server, url), asyncio.TaskGroup() as tasks:

        async def talk() -> None:
            with pytest.raises(ConnectionError):
                await agent.container.connect(url)

        talking = tasks.create_task(talk())
        async with server.accept() as peer:
            if answered:
                old = OldContainer(codec, peer)
                await old.expect("validate_aid")
            else:
                await peer.frame()
        await talking


# --- bare RPC and bare channels ---------------------------------------------------------------


async def test_bare_rpc_server_answers_as_old_ones_do(codec: str) -> None:
    need(codec)
    async with (
        await aiomas.rpc.start_server(("127.0.0.1", 0), Site(), codec=CODECS[codec]) as server,
        RawPeer.dial(server.sockets[0].getsockname()[1]) as peer,
    ):
        for request, reply in BARE_RPC[codec]:
            await peer.send(request)
            assert_same(codec, await peer.frame(), reply)


async def test_bare_rpc_client_asks_as_old_ones_do(codec: str) -> None:
    need(codec)
    async with RawServer.listen() as server, asyncio.TaskGroup() as tasks:

        async def talk() -> list[Any]:
            client = await aiomas.rpc.open_connection(
                ("127.0.0.1", server.port), codec=CODECS[codec]
            )
            site = client.remote
            try:
                results = [await site.add(1, 2)]
                if len(BARE_RPC[codec]) > 1:
                    meter = await site.get_meter()
                    results.append(await meter.read())
                return results
            finally:
                await client.close()

        talking = tasks.create_task(talk())
        async with server.accept() as peer:
            for request, reply in BARE_RPC[codec]:
                assert_same(codec, await peer.frame(), request)
                await peer.send(reply)
            assert await talking == [3, 4][: len(talking.result())]
            assert await peer.at_end()


async def test_bare_channel_serves_and_replies(codec: str) -> None:
    need(codec)
    request, reply = CHANNEL[codec]
    failure = with_id(codec, request, 0, 1)

    async def handle(channel: aiomas.channel.Channel) -> None:
        first = await channel.recv()
        assert first.content == "ohai"
        await first.reply("cya")
        second = await channel.recv()
        await second.fail(ValueError("onoes"))
        await channel.close()

    async with (
        await aiomas.channel.start_server(("127.0.0.1", 0), handle, codec=CODECS[codec]) as server,
        RawPeer.dial(server.sockets[0].getsockname()[1]) as peer,
    ):
        await peer.send(request)
        assert_same(codec, await peer.frame(), reply)
        await peer.send(failure)
        kind, ref, content = read_independently(codec, await peer.frame())
        assert (kind, ref) == (2, 1)
        assert "ValueError: onoes" in content
        assert await peer.at_end()


async def test_bare_channel_sends_nothing_but_the_request(codec: str) -> None:
    need(codec)
    request, reply = CHANNEL[codec]
    async with RawServer.listen() as server:
        channel = await aiomas.channel.open_connection(
            ("127.0.0.1", server.port), codec=CODECS[codec]
        )
        async with server.accept() as peer:
            answer = channel.send("ohai")
            assert_same(codec, await peer.frame(), request)
            await peer.send(reply)
            async with asyncio.timeout(PATIENCE):
                assert await answer == "cya"
            await channel.close()
            assert await peer.at_end()


async def test_long_calls_are_compressed_in_both_directions_if_at_all(codec: str) -> None:
    need(codec)

    class Log:
        router = aiomas.rpc.Service()

        @aiomas.expose
        def log(self, text: str) -> str:
            return text

    service = aiomas.rpc.ServiceDict({"agents": aiomas.rpc.ServiceDict({"0": Log()})})
    async with (
        await aiomas.rpc.start_server(("127.0.0.1", 0), service, codec=CODECS[codec]) as server,
        RawPeer.dial(server.sockets[0].getsockname()[1]) as peer,
    ):
        await peer.send(FRAMES[codec]["compressible call"])
        reply = await peer.frame()
        assert_says(codec, reply, "compressible result")
        assert (len(reply) < len(MSGPACK["compressible result"])) == (codec == "MsgPackBlosc")
