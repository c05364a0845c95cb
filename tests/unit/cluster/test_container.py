"""What a container does with many calls in one message."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

import aiomas
from aiomas import local_queue
from aiomas.agent import Container
from aiomas.cluster.batch import pack, unpack
from aiomas.cluster.container import ClusterContainer
from aiomas.exceptions import (
    ConnectionLost,
    DeadlineExceeded,
    Outcome,
    PermissionDenied,
    RemoteException,
    ShuttingDown,
)
from aiomas.testing import VirtualTimeLoop
from tests.tls.authority import Authority

mark = contextvars.ContextVar("mark", default="none")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualTimeLoop}


class Unit(aiomas.Agent):
    def __init__(self, container: Container) -> None:
        super().__init__(container)
        self.calls: list[Any] = []
        self.log: list[Any] = []
        self.let_go = asyncio.Event()

    @aiomas.expose
    def note(self, value: Any = None) -> Any:
        self.calls.append(aiomas.current_call())
        self.log.append(value)
        return value

    @aiomas.expose
    async def hold(self, value: Any = None) -> Any:
        self.calls.append(aiomas.current_call())
        self.log.append(mark.get())
        mark.set("set")
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        return value

    @aiomas.expose
    async def leave(self) -> None:
        await self.stop()

    def hidden(self) -> None:
        """Not exposed."""


class Pair:
    """Two containers, of which one calls many agents of the other."""

    def __init__(self, one: ClusterContainer, other: ClusterContainer, count: int) -> None:
        self.one = one
        self.other = other
        self.units = [Unit(other) for _ in range(count)]

    async def call(self, method: str, calls: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Make many calls and return what comes back, decoded."""
        options = kwargs.pop("options", None)
        link = await self.one.link(self.other.base_url)
        shared = pack(link.codec, (args, {}))
        if calls is None:
            calls = [(unit.aid, None) for unit in self.units]
        content = ("call_many", (method, calls, shared), kwargs)
        entries, ticket = await link.send(content, options)
        assert ticket is None
        return [(ok, unpack(link.codec, piece), *rest) for ok, piece, *rest in entries]


@pytest.fixture(params=["tcp", "unix", "local"])
async def pair(request: pytest.FixtureRequest, unix_path: str) -> AsyncIterator[Pair]:
    local_queue.clear_queue_cache()
    containers = []
    for name in ("1", "2"):
        addr: Any = {"tcp": ("127.0.0.1", 0), "unix": unix_path + name}.get(request.param)
        addr = addr or aiomas.get_queue(name)
        containers.append(await ClusterContainer.create(addr, codec=aiomas.MsgPack, as_coro=True))
    pair = Pair(containers[0], containers[1], 4)
    yield pair
    for unit in pair.units:
        unit.let_go.set()
    for container in containers:
        await container.shutdown(as_coro=True, timeout=1)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is no event for what is looked at
            await asyncio.sleep(0.01)


def options(seconds: float) -> Any:
    return aiomas.with_options(aiomas.rpc.Proxy(None, "x"), timeout=seconds)._options  # type: ignore[arg-type]


class TestFunctions:
    async def test_see_their_own_call(self, pair):
        assert await pair.call("note", None, 7) == [(True, 7)] * 4
        calls = [call for unit in pair.units for call in unit.calls]
        assert [call.path for call in calls] == [f"agents/{unit.aid}/note" for unit in pair.units]
        assert {call.peer_url for call in calls} == {pair.one.base_url}
        assert not any(call.active or call.one_way for call in calls)
        assert [call.deadline for call in calls] == [None] * 4

    async def test_see_the_deadline_before_that_of_the_message(self, pair):
        now = asyncio.get_running_loop().time()
        await pair.call("note", options=options(5.0), grace=2.0)
        assert pair.units[0].calls[0].deadline == pytest.approx(now + 3, abs=0.1)

    async def test_see_no_context_of_each_other(self, pair):
        for unit in pair.units:
            unit.let_go.set()
        await pair.call("hold", concurrency=1)
        assert [unit.log for unit in pair.units] == [["none"]] * 4

    async def test_are_those_of_ordinary_paths(self, pair):
        found = [await pair.call(name) for name in ("hidden", "_place", "__init__", "nothing", "")]
        for entries in found:
            assert {(ok, kind, outcome) for ok, _, kind, outcome in entries} == {
                (False, "lookup", "not_executed")
            }
        [(_, text, *_), *_] = found[0]
        assert text == "LookupError: There is no exposed function at 'agents/0/hidden'"

    async def test_of_other_agents_than_those_of_the_container_are_not_reached(self, pair):
        calls = [["../validate_aid", None], ["", None], ["0/0", None], ["_0", None]]
        entries = await pair.call("note", calls)
        assert [entry[2] for entry in entries] == ["lookup"] * 4

    async def test_run_side_by_side(self, pair):
        call = asyncio.ensure_future(pair.call("hold", None, 1))
        await until(lambda: all(unit.log for unit in pair.units))
        for unit in pair.units:
            unit.let_go.set()
        assert await call == [(True, 1)] * 4

    async def test_run_no_more_than_so_many_at_once(self, pair):
        call = asyncio.ensure_future(pair.call("hold", concurrency=2))
        await asyncio.sleep(1)
        assert [len(unit.log) for unit in pair.units] == [1, 1, 0, 0]
        pair.units[1].let_go.set()
        await asyncio.sleep(1)
        assert [len(unit.log) for unit in pair.units] == [1, 1, 1, 0]
        for unit in pair.units:
            unit.let_go.set()
        assert await call == [(True, None)] * 4

    async def test_may_stop_their_agent(self, pair):
        assert await pair.call("leave") == [(True, None)] * 4
        [(ok, text, kind, _), *_] = await pair.call("note")
        assert (ok, kind, text) == (False, "lookup", "LookupError: the agent '0' was stopped")

    async def test_are_counted(self, pair):
        await pair.call("nothing")
        assert pair.other.stats().calls_in == 5
        assert pair.other.stats().errors == 4


class TestEnds:
    async def test_who_gives_up_cancels_all(self, pair):
        call = asyncio.ensure_future(pair.call("hold", concurrency=3))
        await until(lambda: pair.units[2].log)
        call.cancel()
        await until(lambda: pair.units[2].log[1:])
        await asyncio.sleep(1)
        assert [unit.log for unit in pair.units] == [["none", "cancelled"]] * 3 + [[]]
        assert len(pair.other._handlers) == 0

    async def test_a_lost_connection_cancels_all(self, pair):
        call = asyncio.ensure_future(pair.call("hold"))
        await until(lambda: pair.units[3].log)
        for client in pair.one._pool.clients:
            client.channel.transport.abort()
        with pytest.raises(ConnectionLost):
            await call
        await until(lambda: not len(pair.other._handlers))
        assert [unit.log for unit in pair.units] == [["none", "cancelled"]] * 4

    async def test_time_that_is_up_ends_those_that_are_late(self, pair):
        pair.units[1].let_go.set()
        now = asyncio.get_running_loop().time()
        entries = await pair.call("hold", options=options(5.0), grace=2.0)
        assert asyncio.get_running_loop().time() == pytest.approx(now + 3, abs=0.1)
        assert entries[1] == (True, None)
        assert {entry[2:] for entry in entries if not entry[0]} == {("deadline", "maybe_executed")}
        await until(lambda: not len(pair.other._handlers))
        assert pair.units[0].log == ["none", "cancelled"]

    async def test_those_that_clean_up_for_long_are_not_waited_for(self, pair, monkeypatch):
        async def hold(self):
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(5)
                self.log.append("clean")

        monkeypatch.setattr(Unit, "hold", aiomas.expose(hold))
        now = asyncio.get_running_loop().time()
        entries = await pair.call("hold", options=options(5.0), grace=2.0)
        assert asyncio.get_running_loop().time() == pytest.approx(now + 3, abs=0.1)
        assert [entry[2] for entry in entries] == ["deadline"] * 4
        await until(lambda: pair.units[0].log == ["clean"])

    async def test_shutting_down_lets_it_end(self, pair):
        call = asyncio.ensure_future(pair.call("hold", None, 5))
        await until(lambda: pair.units[3].log)
        ending = asyncio.ensure_future(pair.other.shutdown(as_coro=True, timeout=5))
        await asyncio.sleep(1)
        with pytest.raises(ShuttingDown):
            await pair.call("note")
        for unit in pair.units:
            unit.let_go.set()
        assert await call == [(True, 5)] * 4
        await ending

    async def test_its_own_agents_can_be_called(self, pair):
        inside = Pair(pair.other, pair.other, 2)
        assert await inside.call("note", None, 3) == [(True, 3)] * 2
        call = asyncio.ensure_future(inside.call("hold"))
        await until(lambda: inside.units[1].log[1:])
        call.cancel()
        await until(lambda: not len(pair.other._handlers))
        assert inside.units[1].log[1:] == ["none", "cancelled"]


class TestBadCalls:
    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            ((7, []), {}),
            (("note", 7), {}),
            (("note", []), {"concurrency": "many"}),
            (("note", []), {"grace": math.nan}),
            (("note", []), {"grace": math.inf}),
            (("note", []), {"grace": "x"}),
        ],
    )
    async def test_are_refused(self, pair, args, kwargs):
        link = await pair.one.link(pair.other.base_url)
        with pytest.raises(RemoteException, match="TypeError"):
            await link.send(("call_many", args, kwargs))

    async def test_of_too_many_agents_are_refused(self, pair):
        link = await pair.one.link(pair.other.base_url)
        calls = [None] * (aiomas.Limits().max_requests + 1)
        with pytest.raises(RemoteException, match="max_requests"):
            await link.send(("call_many", ("note", calls), {}))

    async def test_a_bad_one_spoils_no_other(self, pair):
        link = await pair.one.link(pair.other.base_url)
        good = pack(link.codec, ([5], {}))
        calls: list[Any] = [
            ("0", good),
            ("0", b"\xc1"),
            ("0", pack(link.codec, 7)),
            ("0", 7),
            (0, good),
            "0",
            ("0", pack(link.codec, ([1, 2, 3], {}))),
            ("1", good),
        ]
        entries = await pair.call("note", calls)
        assert [entry[0] for entry in entries] == [True] + [False] * 6 + [True]
        assert {entry[2:] for entry in entries[1:-1]} == {("bad request", "not_executed")}

    @pytest.mark.parametrize("ticket", [1, None, "1", [1]])
    async def test_for_results_that_are_not_there_are_refused(self, pair, ticket):
        link = await pair.one.link(pair.other.base_url)
        with pytest.raises(RemoteException, match="no results for the ticket"):
            await link.send(("more_results", (ticket,), {}))


class TestResultsWithoutRoom:
    async def keep(self, pair: Pair) -> tuple[Any, int]:
        link = await pair.one.link(pair.other.base_url)
        calls = [("0", pack(link.codec, (["x" * size], {}))) for size in (100, 1500, 1600)]
        content = ("call_many", ("note", calls), {"room": 2000})
        entries, ticket = await link.send(content)
        assert [entry is None for entry in entries] == [False, False, True]
        return link, ticket

    async def test_are_there_for_who_has_called(self, pair):
        link, ticket = await self.keep(pair)
        [[position, entry]], more = await link.send(("more_results", (ticket,), {}))
        assert (position, more) == (2, False)
        assert unpack(link.codec, entry[1]) == "x" * 1600
        assert pair.other._kept == {}

    async def test_are_not_there_for_others(self, pair):
        _, ticket = await self.keep(pair)
        inside = await pair.other.link(pair.other.base_url)
        with pytest.raises(RemoteException, match="no results"):
            await inside.send(("more_results", (ticket,), {}))

    async def test_are_dropped_with_the_connection(self, pair):
        await self.keep(pair)
        for client in pair.one._pool.clients:
            await client.close()
        await until(lambda: not pair.other._kept)

    async def test_of_a_few_calls_are_kept(self, pair, monkeypatch):
        monkeypatch.setattr("aiomas.cluster.container._MOST_KEPT", 2)
        tickets = [(await self.keep(pair))[1] for _ in range(3)]
        assert list(pair.other._kept) == tickets[1:]

    async def test_are_dropped_after_a_while(self, pair):
        link, ticket = await self.keep(pair)
        await asyncio.sleep(70)
        assert pair.other._kept == {}
        with pytest.raises(RemoteException, match="no results"):
            await link.send(("more_results", (ticket,), {}))


class TestLinks:
    async def test_that_cannot_be_made(self, pair):
        await pair.other.shutdown(as_coro=True)
        with pytest.raises(ConnectionLost, match="No connection to") as caught:
            await pair.one.link(pair.other.base_url)
        assert caught.value.outcome is Outcome.NOT_SENT

    async def test_that_are_made_too_late(self, pair, monkeypatch):
        async def never(address: Any) -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr(pair.one._pool, "_dial", never)
        deadline = asyncio.get_running_loop().time() + 2
        with pytest.raises(DeadlineExceeded, match="no connection to") as caught:
            await pair.one.link(pair.other.base_url, deadline)
        assert caught.value.outcome is Outcome.NOT_SENT
        assert asyncio.get_running_loop().time() == pytest.approx(deadline, abs=0.1)

    async def test_of_a_container_that_was_shut_down(self, pair):
        await pair.one.shutdown(as_coro=True)
        with pytest.raises(ConnectionLost):
            await pair.one.link(pair.other.base_url)


@pytest.fixture
async def guarded(tmp_path) -> AsyncIterator[tuple[Pair, list[Any]]]:
    """Two containers with TLS, of which one decides who may call what."""
    certs = Authority(tmp_path, "ca").issue("device").certs
    asked: list[Any] = []

    def authorize(identity: Any, aid: str | None, method: str) -> bool:
        asked.append((aid, method))
        return aid in {"1", None}

    options: dict[str, Any] = {"ssl": certs, "codec": aiomas.MsgPack}
    async with (
        ClusterContainer.open(("localhost", 0), **options) as one,
        ClusterContainer.open(("localhost", 0), authorize=authorize, **options) as other,
    ):
        yield Pair(one, other, 3), asked


async def test_authorize_is_asked_for_each_call(guarded):
    pair, asked = guarded
    entries = await pair.call("note", None, 4)
    assert [entry[0] for entry in entries] == [False, True, False]
    assert entries[0][2:] == ("denied", "not_executed")
    assert asked == [(None, "call_many"), ("0", "note"), ("1", "note"), ("2", "note")]
    assert [unit.log for unit in pair.units] == [[], [4], []]
    with pytest.raises(PermissionDenied):
        await pair.one.proxy(pair.units[0].addr).note()
