"""Every byte that a container sends to a peer that knows no extensions: never more than types 0-2.

The peer answers the hello as aiomas 2.0.1 does, with an exception, or has dialled and said none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import aiomas
import aiomas.testing
from aiomas import local_queue
from aiomas.exceptions import ConnectionLost, DeadlineExceeded, Outcome, SerializationError

from .codecs_under_test import CODECS, need, read_independently, write_independently
from .raw_peer import RawEnd
from .vectors import TRACEBACK

LONG = 10_000.0
"""Seconds of silence: far more than any heartbeat takes."""

pytestmark = [
    pytest.mark.parametrize("codec", CODECS),
    pytest.mark.parametrize("kind", ["tcp", "local"]),
]


class OldPeer(RawEnd):
    """Answers as aiomas 2.0.1 does, and records all messages that come."""

    def __init__(self, codec: str, to_hello: list[Any] | None = None) -> None:
        super().__init__()
        self.codec = codec
        self.to_hello = to_hello or [2, TRACEBACK]
        self.messages: list[list[Any]] = []

    def frame_received(self, frame: bytes) -> None:
        message = read_independently(self.codec, frame)
        self.messages.append(message)
        kind, ref, content = message
        if kind != 0:
            return
        match content[0]:
            case "validate_aid":
                self.say([1, ref, "Old"])
            case "agents/0/add":
                self.say([1, ref, sum(content[1])])
            case "aiomas/hello":
                self.say([self.to_hello[0], ref, self.to_hello[1]])
            case "agents/0/hold":
                pass
            case "agents/0/hang_up":
                self.transport.close()
            case _:
                self.say([2, ref, TRACEBACK])

    def say(self, message: list[Any]) -> None:
        self.send(write_independently(self.codec, message))

    @property
    def types(self) -> set[int]:
        """The types of all messages that came."""
        assert self.is_done()
        return {type_ for type_, _, _ in self.messages}

    def paths(self) -> list[str]:
        """Return what was requested."""
        return [content[0] for kind, _, content in self.messages if kind == 0]


class New(aiomas.Agent):
    def __init__(self, container: aiomas.Container) -> None:
        super().__init__(container)
        self.other: Any = None
        self.third: Any = None
        self.failures: list[Exception] = []

    @aiomas.expose
    async def use_all_options(self, old: Any) -> None:
        """Call back with everything that there is."""
        try:  # nobody knows where to dial such a peer
            aiomas.with_options(old, retries=3).add(1, 2)
        except ValueError:
            old.add(1, 2).cancel()
        await everything(old, self.failures)

    @aiomas.expose
    def give_third(self) -> Any:
        return self.third

    @aiomas.expose
    async def hold(self) -> None:
        await asyncio.Event().wait()

    @aiomas.expose
    def fail(self) -> None:
        raise ValueError("boom")


async def everything(old: Any, failures: list[Exception]) -> None:
    """Make calls with all options, cancelled ones, and such that take too long."""
    assert await aiomas.with_options(old, timeout=5.0).add(1, 2) == 3
    await aiomas.with_options(old, one_way=True).add(1, 2)
    await aiomas.with_options(old, one_way=True).nothing()  # its exception is nobody's business
    try:
        await aiomas.with_options(old, timeout=5.0).hold()
    except DeadlineExceeded as exc:
        failures.append(exc)
    calls = [old.hold() for _ in range(3)]
    await asyncio.sleep(0.1)
    for call in calls:
        call.cancel()
    await asyncio.sleep(LONG)
    assert await old.add(1, 2) == 3


@asynccontextmanager
async def container_of(codec: str, kind: str) -> AsyncIterator[aiomas.Container]:
    local_queue.clear_queue_cache()
    addr = aiomas.get_queue("new") if kind == "local" else ("127.0.0.1", 0)
    async with aiomas.Container.open(addr, codec=CODECS[codec], call_timeout=100.0) as container:
        yield container


@asynccontextmanager
async def dialled(
    codec: str, kind: str, to_hello: list[Any] | None = None
) -> AsyncIterator[tuple[New, list[OldPeer], str]]:
    """An agent of ours, the connections that an old server got, and the URL of its agent."""
    peers: list[OldPeer] = []

    def factory() -> OldPeer:
        peers.append(OldPeer(codec, to_hello))
        return peers[-1]

    loop = asyncio.get_running_loop()
    async with container_of(codec, kind) as container:
        server: Any
        if kind == "local":
            server = await local_queue.create_server(factory, aiomas.get_queue("old"))
            url = "local://old/0"
        else:
            server = await loop.create_server(factory, "127.0.0.1", 0)
            url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        yield New(container), peers, url
    server.close()
    for peer in peers:
        await peer.lost.wait()


@asynccontextmanager
async def dialling(codec: str, kind: str) -> AsyncIterator[tuple[New, OldPeer]]:
    """An agent of ours, and an old peer that has connected to its container."""
    async with container_of(codec, kind) as container:
        new = New(container)
        if kind == "local":
            queue = aiomas.get_queue("new")
            peer = (await local_queue.create_connection(lambda: OldPeer(codec), queue))[1]
        else:
            assert container._server
            address = container._server.sockets[0].getsockname()
            loop = asyncio.get_running_loop()
            peer = (await loop.create_connection(lambda: OldPeer(codec), *address))[1]
        yield new, peer
    await peer.lost.wait()


@pytest.mark.parametrize(
    "to_hello",
    [
        pytest.param([2, TRACEBACK], id="an_exception"),
        pytest.param([2, ["LookupError", "no"]], id="an_exception_of_another_kind"),
        pytest.param([1, None], id="nothing"),
        pytest.param([1, "hi"], id="nonsense"),
        pytest.param(
            [1, {"version": 1, "extensions": ["cancel"], "codec": "", "serializers": []}],
            id="fewer_extensions",
        ),
        pytest.param(
            [1, {"version": 0, "extensions": [], "codec": "", "serializers": []}],
            id="an_earlier_version",
        ),
    ],
)
def test_one_that_we_dialled_gets_types_0_to_2_only(
    codec: str, kind: str, to_hello: list[Any]
) -> None:
    async def main() -> None:
        async with dialled(codec, kind, to_hello) as (new, peers, url):
            old = await new.container.connect(url)
            assert await aiomas.with_options(old, retries=3, timeout=60.0).add(1, 2) == 3
            failures: list[Exception] = []
            await everything(old, failures)
            assert [type(failure) for failure in failures] == [DeadlineExceeded]
            await asyncio.sleep(LONG)
            (peer,) = peers  # it was not given up in all that time
            assert peer.types == {0}
            assert peer.paths() == [
                "aiomas/hello",
                "validate_aid",
                *["agents/0/add"] * 3,
                "agents/0/nothing",
                *["agents/0/hold"] * 4,
                "agents/0/add",
            ]
            assert [ref for _, ref, _ in peer.messages] == list(range(11))
            assert new.container.stats().pending == 0  # what was given up was forgotten

    need(codec)
    aiomas.testing.run(main())


def test_one_that_dialled_gets_types_0_to_2_only(codec: str, kind: str) -> None:
    async def main() -> None:
        async with dialling(codec, kind) as (new, peer):
            us = {"__type__": [1, "agents/0"]}  # of whoever says it; dates are type 0
            peer.say([0, 0, ["agents/0/use_all_options", [us], {}]])
            peer.say([0, 1, ["agents/0/fail", [], {}]])
            peer.say([0, 2, ["agents/0/nothing", [], {}]])
            peer.say([0, 3, ["agents/9/nothing", [], {}]])
            peer.say([0, 4, "not a call"])
            peer.say([0, 5, ["validate_aid", ["0"], {}]])
            held_at = 6
            peer.say([0, held_at, ["agents/0/hold", [], {}]])
            await asyncio.sleep(3 * LONG)
            assert len(new.failures) == 1
            assert peer.types == {0, 1, 2}
            replies = {ref: type_ for type_, ref, _ in peer.messages if type_ != 0}
            assert replies == {0: 1, 1: 2, 2: 2, 3: 2, 4: 2, 5: 1}
            await new.container.shutdown(as_coro=True, timeout=1)
            assert peer.types == {0, 1, 2}

    need(codec)
    aiomas.testing.run(main())


def test_one_that_dialled_and_hung_up_has_its_calls_served_to_the_end(
    codec: str, kind: str
) -> None:
    async def main() -> None:
        async with dialling(codec, kind) as (new, peer):
            peer.say([0, 0, ["agents/0/hold", [], {}]])
            await asyncio.sleep(1)
            peer.transport.close()
            await asyncio.sleep(1)
            assert len(new.container._handlers) == 1
            await new.container.shutdown(as_coro=True, timeout=0.1)

    need(codec)
    aiomas.testing.run(main())


def test_a_proxy_for_a_third_party_is_not_sent_to_it(codec: str, kind: str) -> None:
    async def main() -> None:
        async with dialled(codec, kind) as (new, peers, url):
            old = await new.container.connect(url)
            third = new.container.proxy("local://third/0")
            with pytest.raises(SerializationError, match="knows nothing of proxies") as caught:
                await old.add(third)
            assert caught.value.outcome is Outcome.NOT_SENT
            assert "pass the agent's address" in str(caught.value)
            assert await old.add(1, 2) == 3  # and the connection lives on
            assert peers[0].paths().count("agents/0/add") == 1

    need(codec)
    aiomas.testing.run(main())


def test_a_proxy_for_a_third_party_is_no_result_for_it(codec: str, kind: str) -> None:
    async def main() -> None:
        async with dialling(codec, kind) as (new, peer):
            new.third = new.container.proxy("local://third/0")
            peer.say([0, 0, ["agents/0/give_third", [], {}]])
            await asyncio.sleep(1)
            ((type_, ref, text),) = peer.messages
            assert (type_, ref) == (2, 0)
            assert "SerializationError" in text
            assert "knows nothing of proxies" in text

    need(codec)
    aiomas.testing.run(main())


def test_a_call_that_may_have_run_is_not_repeated(codec: str, kind: str) -> None:
    async def main() -> None:
        async with dialled(codec, kind) as (new, peers, url):
            old = await new.container.connect(url)
            with pytest.raises(ConnectionLost) as caught:
                await aiomas.with_options(old, retries=5).hang_up()
            assert caught.value.outcome is Outcome.MAYBE_EXECUTED
            await asyncio.sleep(LONG)
            assert [path for peer in peers for path in peer.paths()].count("agents/0/hang_up") == 1
            assert set.union(*(peer.types for peer in peers)) == {0}

    need(codec)
    aiomas.testing.run(main())
