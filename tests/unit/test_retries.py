"""Repetitions: only where they are asked for, allowed, and of use; and what is said in the end."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import pytest

from aiomas import channel as channels
from aiomas import local_queue, rpc
from aiomas._address import IpcAddress
from aiomas._current import CallOptions
from aiomas._outgoing import NotIdempotent
from aiomas._peers import Pool
from aiomas._retries import Retries
from aiomas.exceptions import (
    ConnectionLost,
    ContainerClosedError,
    DeadlineExceeded,
    HandshakeError,
    Outcome,
    Overloaded,
    PeerUnresponsive,
    ProtocolError,
    RemoteException,
    RemoteLookupError,
    SerializationError,
)
from aiomas.rpc import Proxy, with_options
from aiomas.testing import VirtualTimeLoop

NOT_SENT, NOT_EXECUTED = Outcome.NOT_SENT, Outcome.NOT_EXECUTED
MAYBE, EXECUTED = Outcome.MAYBE_EXECUTED, Outcome.EXECUTED


@pytest.fixture
def anyio_backend():
    """Pauses take no time here."""
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture(autouse=True)
def longest_pauses(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda _, longest: longest)


class Attempts:
    """Stands for a peer: each attempt to call it ends with the next one of `results`."""

    def __init__(self, *results) -> None:
        self.results = list(results)
        self.seen: list[tuple[float, CallOptions]] = []
        self.retries = Retries(self.send, asyncio.get_running_loop())

    def send(self, content, options) -> asyncio.Future:
        assert content == "content"
        loop = asyncio.get_running_loop()
        self.seen.append((loop.time(), options))
        result = self.results.pop(0)
        if isinstance(result, Raised):
            raise result.error
        future = loop.create_future()
        if isinstance(result, Exception):
            loop.call_soon(lambda: future.done() or future.set_exception(result))
        elif result is not None:
            loop.call_soon(future.set_result, result)
        return future

    def call(self, retries=3, deadline=None, **kwds) -> asyncio.Future:
        return self.retries.send("content", CallOptions(retries=retries, **kwds), deadline)

    @property
    def times(self) -> list[float]:
        return [time for time, _ in self.seen]


class Raised:
    """An error that is raised at the call itself."""

    def __init__(self, error) -> None:
        self.error = error


def lost(outcome=MAYBE) -> ConnectionLost:
    return ConnectionLost("lost").of_call(outcome)


def overloaded(outcome=NOT_EXECUTED) -> Overloaded:
    return Overloaded("peer", "too much").of_call(outcome)


def not_idempotent() -> NotIdempotent:
    return NotIdempotent("peer", "not idempotent").of_call(NOT_EXECUTED)


class TestAttempts:
    async def test_one_that_succeeds_is_the_only_one(self):
        attempts = Attempts("fine")
        assert await attempts.call() == "fine"
        ((_, options),) = attempts.seen
        assert not options.again

    @pytest.mark.parametrize(
        "error", [lost(), lost(NOT_SENT), overloaded(), PeerUnresponsive("?").of_call(MAYBE)]
    )
    async def test_one_that_may_pass_is_followed_by_a_repetition(self, error):
        attempts = Attempts(error, "fine")
        assert await attempts.call() == "fine"
        # The other end has to know that it is one.
        assert [options.again for _, options in attempts.seen] == [False, True]
        assert [options.retries for _, options in attempts.seen] == [0, 0]

    async def test_there_are_no_more_than_were_asked_for(self):
        attempts = Attempts(*[lost() for _ in range(9)])
        with pytest.raises(ConnectionLost):
            await attempts.call(retries=4)
        assert len(attempts.seen) == 1 + 4

    async def test_the_pauses_grow_up_to_a_limit(self):
        attempts = Attempts(*[lost() for _ in range(11)])
        with pytest.raises(ConnectionLost):
            await attempts.call(retries=10)
        pauses = [b - a for a, b in zip(attempts.times, attempts.times[1:], strict=False)]
        assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2, 2, 2, 2])

    async def test_the_pauses_are_random(self, monkeypatch):
        drawn: list = []
        monkeypatch.setattr(random, "uniform", lambda *bounds: drawn.append(bounds) or 0.01)
        attempts = Attempts(lost(), lost(), "fine")
        await attempts.call()
        assert drawn == [(0, 0.05), (0, 0.1)]
        assert attempts.times == pytest.approx([0, 0.01, 0.02])

    @pytest.mark.parametrize(
        "error",
        [
            RemoteException("peer", "boom").of_call(EXECUTED),
            RemoteLookupError("peer", "no such function").of_call(NOT_EXECUTED),
            DeadlineExceeded("peer", "late").of_call(MAYBE),
            ContainerClosedError("closed").of_call(NOT_SENT),
            HandshakeError("another codec").of_call(NOT_SENT),
            ProtocolError("garbage").of_call(MAYBE),
            SerializationError("no serializer").of_call(NOT_SENT),
            ValueError("a bug"),
        ],
        ids=lambda error: type(error).__name__,
    )
    @pytest.mark.parametrize("at_once", [False, True])
    async def test_what_will_be_no_better_is_not_repeated(self, error, at_once):
        attempts = Attempts(lost(), Raised(error) if at_once else error)
        with pytest.raises(type(error)) as caught:
            await attempts.call()
        assert caught.value is error
        assert len(attempts.seen) == 2

    async def test_what_is_wrong_with_the_call_is_raised_at_the_call(self):
        attempts = Attempts(Raised(SerializationError("no serializer")))
        with pytest.raises(SerializationError):
            attempts.call()

    async def test_the_deadline_is_that_of_all_of_them(self):
        attempts = Attempts(*[lost() for _ in range(10)])
        with pytest.raises(ConnectionLost):
            await attempts.call(retries=9, deadline=0.5, timeout=0.5)
        assert attempts.times == pytest.approx([0, 0.05, 0.15, 0.35])
        assert {options.deadline for _, options in attempts.seen} == {0.5}

    async def test_one_who_gives_up_ends_the_attempt_under_way(self):
        attempts = Attempts(lost(), None)
        call = attempts.call()
        await asyncio.sleep(1)
        assert len(attempts.seen) == 2
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not attempts.retries._tasks

    async def test_one_who_gives_up_in_a_pause_is_not_served_any_more(self):
        attempts = Attempts(lost(), "nobody waits")
        call = attempts.call()
        await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.sleep(10)
        assert len(attempts.seen) == 1


class TestTheOutcome:
    @pytest.mark.parametrize(
        ("errors", "expected"),
        [
            ([lost(), lost(NOT_SENT)], MAYBE),
            ([lost(NOT_SENT), lost(NOT_SENT)], NOT_SENT),
            ([lost(NOT_SENT), overloaded()], NOT_EXECUTED),
            ([lost(NOT_SENT), lost()], MAYBE),
            ([lost(), overloaded()], MAYBE),
            ([lost(), Raised(ContainerClosedError("closed").of_call(NOT_SENT))], MAYBE),
            ([lost(), ContainerClosedError("closed").of_call(NOT_SENT)], MAYBE),
            ([lost(), DeadlineExceeded("peer", "no connection").of_call(NOT_SENT)], MAYBE),
            ([lost(), RemoteLookupError("peer", "gone").of_call(NOT_EXECUTED)], MAYBE),
            ([lost(), RemoteException("peer", "boom").of_call(EXECUTED)], EXECUTED),
        ],
        ids=itertools.count(),
    )
    async def test_of_an_attempt_that_may_have_run_is_kept(self, errors, expected):
        attempts = Attempts(*errors)
        with pytest.raises((ConnectionLost, RemoteException)) as caught:
            await attempts.call(retries=1)
        assert caught.value.outcome is expected

    async def test_a_function_that_must_not_be_repeated_leaves_the_first_failure(self):
        first = lost()
        with pytest.raises(ConnectionLost) as caught:
            await Attempts(first, not_idempotent()).call()
        assert caught.value is first
        assert caught.value.outcome is MAYBE

    async def test_or_the_last_one_if_nothing_is_left_open(self):
        last = overloaded()
        with pytest.raises(Overloaded) as caught:
            await Attempts(lost(NOT_SENT), last, not_idempotent()).call()
        assert caught.value is last
        assert caught.value.outcome is NOT_EXECUTED


class Shop:
    """Loses the connection, when it is told to, after a function has run."""

    router = rpc.Service()

    def __init__(self) -> None:
        self.connection: Any = None
        self.log: list = []
        self.losses = 0

    def work(self, what) -> int:
        self.log.append(what)
        if self.losses:
            self.losses -= 1
            self.connection.transport.abort()
        return len(self.log)

    @rpc.expose(idempotent=True)
    def look(self):
        return self.work("look")

    @rpc.expose(idempotent=True)
    async def look_closely(self):
        return self.work("look closely")

    @rpc.expose
    def buy(self):
        return self.work("buy")


class Town:
    """A shop, and a pool whose calls go there."""

    def __init__(self, *, extensions=True) -> None:
        self.shop = Shop()
        self.extensions = extensions
        self.queue = local_queue.LocalQueue("shop")
        self.pool = Pool(self.dial, asyncio.get_running_loop())
        self.peer = self.pool.peer(IpcAddress("shop"))
        self.remote = Proxy(self.peer, "")
        self.clients: list[rpc.RpcClient] = []

    async def dial(self, _) -> rpc.RpcClient:
        self.clients.append(await rpc.open_connection(self.queue, extensions=self.extensions))
        return self.clients[-1]

    async def __aenter__(self):
        def connected(client):
            self.shop.connection = client.channel

        self.server = await rpc.start_server(self.queue, self.shop, connected)
        return self

    async def __aexit__(self, *exc_info) -> None:
        self.server.close()
        await self.pool.close()
        for client in self.clients:
            await client.close()


class TestOverConnections:
    @pytest.mark.parametrize("name", ["look", "look_closely"])
    async def test_an_idempotent_function_is_called_again(self, name):
        async with Town() as town:
            town.shop.losses = 2
            assert await getattr(with_options(town.remote, retries=3), name)() == 3
            assert len(town.clients) == 3

    async def test_any_other_is_not(self):
        async with Town() as town:
            town.shop.losses = 1
            with pytest.raises(ConnectionLost) as caught:
                await with_options(town.remote, retries=3).buy()
            assert caught.value.outcome is MAYBE
            assert town.shop.log == ["buy"]
            assert await town.remote.buy() == 2

    async def test_nor_one_for_which_nobody_has_asked(self):
        async with Town() as town:
            town.shop.losses = 1
            with pytest.raises(ConnectionLost):
                await town.remote.look()
            assert town.shop.log == ["look"]

    async def test_an_old_peer_gets_no_repetition(self):
        async with Town(extensions=False) as town:
            town.shop.losses = 1
            with pytest.raises(ConnectionLost) as caught:
                await with_options(town.remote, retries=3).look()
            assert caught.value.outcome is MAYBE
            assert town.shop.log == ["look"]

    async def test_the_time_of_a_call_is_that_of_all_attempts(self):
        async with Town() as town:
            town.shop.losses = 100
            start = asyncio.get_running_loop().time()
            with pytest.raises(ConnectionLost):
                await with_options(town.remote, retries=99, timeout=1.0).look()
            assert asyncio.get_running_loop().time() - start <= 1
            assert 3 <= len(town.shop.log) <= 6

    async def test_a_bare_connection_refuses(self):
        async with Town() as town:
            client = await town.dial(None)
            with pytest.raises(ValueError, match="proxy of a container"):
                with_options(client.remote, retries=1).look()
            assert isinstance(client.channel, channels.Channel)
