"""Containers of ours and of aiomas 2.0.1 work together, whichever of them dials."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import arrow
import pytest

import aiomas
import aiomas.codecs

from .agents import NewAgent, Point, point_serializer
from .conftest import StartPeer
from .peer import PATIENCE, Peer
from .relay import Relay

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60, func_only=True)]

CODECS: dict[str, type[aiomas.codecs.Codec]] = {
    "JSON": aiomas.JSON,
    "MsgPack": aiomas.MsgPack,
    "MsgPackBlosc": aiomas.MsgPackBlosc,
}
over_unix_sockets_too = pytest.mark.parametrize("transport", ["tcp", "unix"])


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def transport() -> str:
    return "tcp"


class OldEnd:
    """The old container: the program in which it lives, and the URL of its agent."""

    def __init__(self, peer: Peer, url: str) -> None:
        self.peer = peer
        self.url = url

    async def do(self, what: str, *args: Any) -> Any:
        return await self.peer.do(what, *args)


@pytest.fixture
async def old(start_old: StartPeer, codec: str, transport: str, unix_path: str) -> OldEnd:
    return await start_old_container(start_old, codec, transport, unix_path)


async def start_old_container(
    start_old: StartPeer, codec: str, transport: str, unix_path: str
) -> OldEnd:
    path = [f"{unix_path}-old"] if transport == "unix" else []
    peer = await start_old("container.py", codec, *path)
    return OldEnd(peer, await peer.says())


@pytest.fixture
async def new(codec: str, transport: str, unix_path: str) -> AsyncIterator[NewAgent]:
    addr = f"{unix_path}-new" if transport == "unix" else ("127.0.0.1", 0)
    async with aiomas.Container.open(
        addr, codec=CODECS[codec], extra_serializers=[point_serializer]
    ) as container:
        yield NewAgent(container)


def sequence(codec: str, *items: Any) -> Any:
    """Return what a list becomes on its way."""
    return list(items) if codec == "JSON" else items


class TestNewDialsOld:
    @over_unix_sockets_too
    async def test_calls_and_results(self, new: NewAgent, old: OldEnd) -> None:
        proxy = await new.container.connect(old.url)
        assert str(proxy) == f"OldAgentProxy({old.url!r})"
        assert await proxy.add(1, 2) == 3
        assert await proxy.add(1, b=3) == 4
        assert await proxy.nothing() is None
        assert await proxy.later("spam") == "spam"
        assert await proxy.meter.read() == 4

    async def test_values_survive_a_round_trip(
        self, new: NewAgent, old: OldEnd, codec: str
    ) -> None:
        proxy = await new.container.connect(old.url)
        for value in (None, True, False, 0, -1, 2**40, 1.5, float("inf"), "", "ä€😀", {"a": None}):
            assert await proxy.echo(value) == value
        nested = sequence(codec, 1, sequence(codec, 2, 3), {"k": sequence(codec)})
        assert await proxy.echo([1, (2, 3), {"k": []}]) == nested
        if codec != "JSON":
            assert await proxy.kind(b"\x00\xff") == "bytes"
            assert await proxy.echo(b"\x00\xff") == b"\x00\xff"

    async def test_a_large_message_arrives_whole(self, new: NewAgent, old: OldEnd) -> None:
        proxy = await new.container.connect(old.url)
        text = "spam" * 250_000
        assert await proxy.echo(text) == text

    async def test_failures_over_there_are_raised_here(self, new: NewAgent, old: OldEnd) -> None:
        proxy = await new.container.connect(old.url)
        for function, text in {
            "fail": "ValueError: boom",
            "fail_later": "ValueError: boom",
            "hidden": "LookupError: .*not exposed",
            "no_such_thing": "LookupError: .*no_such_thing",
            "later": "TypeError: .*value",  # an argument is missing
            "something_strange": "SerializationError: ",
        }.items():
            with pytest.raises(aiomas.RemoteException, match=text) as caught:
                await getattr(proxy, function)()
            assert caught.value.remote_traceback.startswith("Traceback (most recent call last):\n")
            assert caught.value.origin == ("127.0.0.1", urlsplit(old.url).port)
        assert await proxy.add(1, 2) == 3

    async def test_what_cannot_be_sent_costs_the_connection_nothing(
        self, new: NewAgent, old: OldEnd
    ) -> None:
        proxy = await new.container.connect(old.url)
        with pytest.raises(aiomas.exceptions.SerializationError):
            await proxy.echo(object())
        assert await proxy.add(1, 2) == 3

    async def test_dates(self, new: NewAgent, old: OldEnd) -> None:
        proxy = await new.container.connect(old.url)
        date = arrow.get("2015-06-01T12:34:56.789012+02:00")
        assert await proxy.kind(date) == "Arrow"
        tomorrow = await proxy.next_day(date)
        assert isinstance(tomorrow, arrow.Arrow)
        assert tomorrow.isoformat() == "2015-06-02T12:34:56.789012+02:00"

    async def test_own_types(self, new: NewAgent, old: OldEnd) -> None:
        proxy = await new.container.connect(old.url)
        assert await proxy.kind(Point(1, "z")) == "Point"
        point = await proxy.point(Point(1, "z"))
        assert isinstance(point, Point)
        assert (point.x, point.y) == (2, "z!")

    @over_unix_sockets_too
    async def test_callbacks(self, new: NewAgent, old: OldEnd) -> None:
        proxy = await new.container.connect(old.url)
        assert await proxy.call_back(new, 5) == 6
        assert await proxy.read_meter(new.meter) == 4
        itself = await proxy.myself()
        assert await itself.add(1, 2) == 3
        meter = await proxy.get_meter()
        assert await meter.read() == 4

    async def test_a_callback_may_come_long_after_the_call(
        self, new: NewAgent, old: OldEnd
    ) -> None:
        proxy = await new.container.connect(old.url)
        await proxy.keep(new)
        assert await old.do("call_kept") == 3

    async def test_what_a_callback_raises_comes_back_through_both_ends(
        self, new: NewAgent, old: OldEnd
    ) -> None:
        proxy = await new.container.connect(old.url)
        with pytest.raises(aiomas.RemoteException, match="ValueError: boom") as caught:
            await proxy.call_back_and_fail(new)
        assert "RemoteException" in caught.value.remote_traceback

    async def test_concurrent_calls(self, new: NewAgent, old: OldEnd) -> None:
        proxy = await new.container.connect(old.url)
        results = await asyncio.gather(
            *(proxy.meet(number, 200) for number in range(200)),
            *(proxy.call_back(new, number) for number in range(200)),
        )
        assert results == [*range(200), *range(1, 201)]

    async def test_an_unknown_agent_is_an_error_and_the_others_stay_reachable(
        self, new: NewAgent, old: OldEnd
    ) -> None:
        for _ in range(2):
            with pytest.raises(aiomas.exceptions.AgentNotFoundError, match="99"):
                await new.container.connect(f"{old.url}99")
        proxy = await new.container.connect(old.url)
        assert await proxy.add(1, 2) == 3

    async def test_a_call_given_up_leaves_the_connection_usable(
        self, new: NewAgent, old: OldEnd
    ) -> None:
        proxy = await new.container.connect(old.url)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(proxy.meet(0, 2), 0.05)
        # This call is the second, so now the first one is answered as well, to nobody.
        assert await proxy.meet(1, 2) == 1
        assert await proxy.add(1, 2) == 3

    async def test_the_death_of_the_other_process_fails_its_calls_and_later_ones(
        self, new: NewAgent, old: OldEnd
    ) -> None:
        proxy = await new.container.connect(old.url)
        call = proxy.hang()
        assert await old.peer.says() == "hanging"
        await old.peer.kill()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ConnectionError):
                await call
            with pytest.raises(ConnectionError):
                await proxy.add(1, 2)
            with pytest.raises(ConnectionRefusedError):
                await new.container.connect(old.url)

    @pytest.mark.parametrize("transport", ["unix"])
    async def test_a_proxy_finds_the_successor_of_a_dead_container(
        self, new: NewAgent, old: OldEnd, start_old: StartPeer, codec: str, unix_path: str
    ) -> None:
        proxy = await new.container.connect(old.url)
        assert await proxy.add(1, 2) == 3
        await old.peer.kill()
        successor = await start_old_container(start_old, codec, "unix", unix_path)
        assert successor.url == old.url
        async with asyncio.timeout(PATIENCE):
            again = await new.container.connect(old.url)
        assert await again.add(1, 2) == 3
        assert await proxy.add(1, 2) == 3

    async def test_an_old_container_shuts_down_under_our_calls(
        self, new: NewAgent, old: OldEnd
    ) -> None:
        proxy = await new.container.connect(old.url)
        call = proxy.hang()
        assert await old.peer.says() == "hanging"
        await old.peer.start("shut_down")
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ConnectionError):
                await call


class TestOldDialsNew:
    @over_unix_sockets_too
    async def test_calls_and_results(self, new: NewAgent, old: OldEnd) -> None:
        assert await old.do("connect", new.addr) == f"NewAgentProxy({new.addr!r})"
        assert await old.do("calls", new.addr) == [3, 4, None, "spam", 4]

    async def test_values_survive_a_round_trip(
        self, new: NewAgent, old: OldEnd, codec: str
    ) -> None:
        values = [None, True, False, 0, -1, 2**40, 1.5, "", "ä€😀", [1, [2, []]], {"a": None}]
        assert await old.do("echoes", new.addr, values) == values
        if codec != "JSON":
            assert await old.do("bytes", new.addr) == ["bytes", True]

    async def test_a_large_message_arrives_whole(self, new: NewAgent, old: OldEnd) -> None:
        assert await old.do("large", new.addr, 1_000_000) is True

    async def test_failures_here_are_raised_over_there(self, new: NewAgent, old: OldEnd) -> None:
        for function, text in {
            "fail": "ValueError: boom",
            "fail_later": "ValueError: boom",
            "be_cancelled": "CancelledError",  # an old container would never answer
            "hidden": "LookupError",
            "no_such_thing": "LookupError",
            "later": "TypeError",  # an argument is missing
            "something_strange": "SerializationError",
        }.items():
            caught = await old.do("call", new.addr, function)
            assert caught["types"][0] == "RemoteException", function
            assert text in caught["text"]
        assert await old.do("calls", new.addr) == [3, 4, None, "spam", 4]

    async def test_dates(self, new: NewAgent, old: OldEnd) -> None:
        result = await old.do("dates", new.addr)
        assert result == ["Arrow", "Arrow", "2015-06-02T12:34:56.789012+02:00"]

    async def test_own_types(self, new: NewAgent, old: OldEnd) -> None:
        assert await old.do("points", new.addr) == ["Point", "Point", 2, "z!"]

    @over_unix_sockets_too
    async def test_callbacks(self, new: NewAgent, old: OldEnd) -> None:
        assert await old.do("callbacks", new.addr) == [6, 4, 3, 4]

    async def test_a_callback_may_come_long_after_the_call(
        self, new: NewAgent, old: OldEnd
    ) -> None:
        assert await old.do("let_keep", new.addr) is None
        assert await new.kept.add(1, b=2) == 3

    async def test_what_a_callback_raises_comes_back_through_both_ends(
        self, new: NewAgent, old: OldEnd
    ) -> None:
        caught = await old.do("failing_callback", new.addr)
        assert caught["types"][0] == "RemoteException"
        assert "RemoteException" in caught["text"]
        assert "ValueError: boom" in caught["text"]

    async def test_concurrent_calls(self, new: NewAgent, old: OldEnd) -> None:
        assert await old.do("concurrent", new.addr, 200) == [*range(200), *range(1, 201)]

    async def test_both_dial_each_other_at_once(self, new: NewAgent, old: OldEnd) -> None:
        await old.peer.start("concurrent", new.addr, 50)
        proxy = await new.container.connect(old.url)
        results = await asyncio.gather(*(proxy.call_back(new, number) for number in range(50)))
        assert results == [*range(1, 51)]
        assert await old.peer.says() == [*range(50), *range(1, 51)]

    async def test_an_unknown_agent_is_an_error(self, new: NewAgent, old: OldEnd) -> None:
        caught = await old.do("connect", f"{new.addr}99")
        assert caught["types"][0] == "ConnectionError"

    async def test_a_cut_connection_fails_the_call_and_our_handler_runs_on(
        self, new: NewAgent, old: OldEnd
    ) -> None:
        port = urlsplit(new.addr).port
        assert port
        async with Relay.to(port) as relay:
            await old.peer.start("wait_for_the_end", f"tcp://127.0.0.1:{relay.port}/0")
            async with asyncio.timeout(PATIENCE):
                await new.hanging.wait()
            relay.cut()
            for caught in await old.peer.says():
                assert caught["types"][0] == "ConnectionResetError"
            # An old peer never learns of a cancellation, so it is not made one.
            new.let_go.set()
            async with asyncio.timeout(PATIENCE):
                await new.returned.wait()

    async def test_an_agent_whose_process_died_cannot_be_called_back(
        self, new: NewAgent, old: OldEnd
    ) -> None:
        assert await old.do("let_keep", new.addr) is None
        await old.peer.kill()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ConnectionError):
                await new.kept.add(1, b=2)

    async def test_our_container_shuts_down_under_an_old_caller(
        self, new: NewAgent, old: OldEnd
    ) -> None:
        assert await old.do("connect", new.addr)
        await old.peer.start("wait_for_the_end", new.addr)
        async with asyncio.timeout(PATIENCE):
            await new.hanging.wait()
            shutting_down = asyncio.ensure_future(new.container.shutdown(as_coro=True))
            new.let_go.set()  # the call that is being served may end
            await shutting_down
        served, refused = await old.peer.says()
        assert served is None
        assert refused["types"][0] in {"ConnectionResetError", "RemoteException"}
