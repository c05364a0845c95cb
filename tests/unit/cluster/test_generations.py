"""Containers of several generations: whom they serve, and what becomes of what is lost."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

import aiomas
from aiomas import _hello, _protocol, local_queue, rpc
from aiomas._address import parse_url
from aiomas._endpoint import socket_address
from aiomas._logs import LimitedLog
from aiomas._terms import Terms
from aiomas.agent import Container
from aiomas.cluster.container import ClusterContainer
from aiomas.exceptions import ConnectionLost, HandshakeError, Outcome
from aiomas.testing import VirtualTimeLoop


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture(autouse=True)
def bad_peers(monkeypatch):
    monkeypatch.setattr(_protocol, "bad_peers", LimitedLog(_protocol.logger))


class Unit(aiomas.Agent):
    def __init__(self, container: Container) -> None:
        super().__init__(container)
        self.log: list[Any] = []
        self.let_go = asyncio.Event()

    @aiomas.expose
    def note(self, value: Any) -> Any:
        self.log.append(value)
        return value

    @aiomas.expose
    async def hold(self) -> str:
        self.log.append("held")
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        return "let go"

    @aiomas.expose
    async def ask(self, agent: Any, method: str, *args: Any) -> Any:
        return await getattr(agent, method)(*args)


class Town:
    """Makes containers of one cluster, with an agent in each."""

    def __init__(self, kind: str, unix_path: str) -> None:
        self.kind = kind
        self.unix_path = unix_path
        self.containers: list[ClusterContainer] = []
        self.outdated: list[int] = []

    def addr(self, name: str) -> Any:
        addr = {"tcp": ("127.0.0.1", 0), "unix": self.unix_path + name}.get(self.kind)
        return addr or aiomas.get_queue(name)

    async def unit(self, generation: int = 0, token: str = "secret") -> Unit:
        addr = self.addr(str(len(self.containers)))
        container = await ClusterContainer.create(addr, token=token, as_coro=True)
        container.on_outdated(self.outdated.append)
        container.set_generation(accept=generation, known=generation, use=generation)
        self.containers.append(container)
        return Unit(container)

    async def close(self) -> None:
        for container in self.containers:
            for agent in container.agents.dict.values():
                agent.let_go.set()
            await container.shutdown(as_coro=True, timeout=1)


@pytest.fixture(params=["tcp", "unix", "local"])
async def town(request: pytest.FixtureRequest, unix_path: str) -> AsyncIterator[Town]:
    local_queue.clear_queue_cache()
    town = Town(request.param, unix_path)
    yield town
    await town.close()


over_sockets = pytest.mark.parametrize("town", ["tcp", "unix"], indirect=True)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is no event for what is looked at
            await asyncio.sleep(0.01)


async def proxy(unit: Unit, other: Unit) -> Any:
    return await unit.container.connect(other.addr)


def lose(unit: Unit, *lost: Unit, generation: int = 1) -> None:
    """Do for *unit* what comes with the second of the three rounds."""
    container: Any = unit.container
    container.set_generation(
        accept=generation - 1,
        known=generation,
        use=generation,
        lost=[one.container.base_url for one in lost],
    )


async def disconnect(unit: Unit) -> None:
    await asyncio.gather(*(client.close() for client in unit.container._pool.clients))


class TestWhoIsServed:
    async def test_those_of_the_same_generation(self, town):
        one, other = await town.unit(3), await town.unit(3)
        assert await (await proxy(one, other)).note("spam") == "spam"
        assert await (await proxy(one, other)).ask(one, "note", "back") == "back"
        assert town.outdated == []

    async def test_those_of_an_older_one_are_fenced(self, town, caplog):
        old, new = await town.unit(0), await town.unit(1)
        with pytest.raises(HandshakeError, match="was given up, as its host was taken for lost"):
            await old.container.connect(new.addr, timeout=None)
        with pytest.raises(HandshakeError, match="it is fenced") as caught:
            await old.container.proxy(new.addr).note("spam")
        assert caught.value.outcome is Outcome.NOT_SENT
        assert (new.log, town.outdated) == ([], [])
        await until(lambda: not new.container.stats().connections)
        lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert "Refusing the connection of" in lines[0]

    async def test_those_of_a_newer_one_are_refused_and_we_are_told(self, town):
        old, new = await town.unit(0), await town.unit(2)
        with pytest.raises(HandshakeError, match="belongs to an older generation of its cluster"):
            await proxy(new, old)
        assert (old.log, town.outdated) == ([], [2])

    async def test_a_newer_one_that_is_known_is_served_both_ways(self, town):
        one, other = await town.unit(0), await town.unit(0)
        one.container.set_generation(accept=0, known=1, use=0)
        other.container.set_generation(accept=0, known=1, use=1)
        for here, there in ((one, other), (other, one)):
            to = await proxy(here, there)
            assert await to.note("spam") == "spam"
            assert await to.ask(here, "note", "back") == "back"

    @pytest.mark.parametrize("claimed", [1, 5])
    async def test_a_generation_that_is_not_proven_is_that_of_a_stranger(self, town, claimed):
        unit = await town.unit(1)
        base_url = unit.container.base_url
        client = await rpc.open_connection(socket_address(parse_url(unit.addr)[0]))
        shown = _hello.proof("secret", base_url, 3)
        hello = _hello.Hello(token=shown, codec="json", generation=claimed)
        answer = await client.channel.send(_hello.question(hello))
        assert "which the peer has not shown" in answer["refusal"]
        await client.channel.wait_closed()
        assert town.outdated == []

    async def test_who_has_another_token_cannot_say_that_we_are_outdated(self, town):
        unit, stranger = await town.unit(0), await town.unit(7, token="geheim")
        with pytest.raises(HandshakeError, match="has a token"):
            await proxy(stranger, unit)
        assert town.outdated == []

    async def test_who_is_dialled_has_to_prove_the_generation_of_the_one_that_dials(
        self, town, monkeypatch
    ):
        """An answer that was seen in an older generation proves nothing in this one."""
        one, other = await town.unit(1), await town.unit(1)
        one.container.insist_on([other.container.base_url])
        of_generation = Terms.of_generation
        monkeypatch.setattr(
            Terms,
            "of_generation",
            lambda terms, generation: dataclasses.replace(
                of_generation(terms, generation), hello=terms.hello
            ),
        )
        with pytest.raises(HandshakeError, match="has not shown the token"):
            await proxy(one, other)

    @pytest.mark.parametrize("town", ["tcp"], indirect=True)
    async def test_only_generations_in_their_order_are_taken(self, town):
        unit = await town.unit()
        for accept, known, use in ((1, 1, 0), (0, 0, 1), (1, 0, 0), (-1, 0, 0)):
            with pytest.raises(ValueError, match="accept <= use <= known"):
                unit.container.set_generation(accept=accept, known=known, use=use)

    @pytest.mark.parametrize("town", ["tcp"], indirect=True)
    async def test_without_a_token_there_are_none(self, town):
        container = await ClusterContainer.create(town.addr("x"), as_coro=True)
        with pytest.raises(ValueError, match="has no token"):
            container.set_generation(accept=0, known=1, use=0)
        await container.shutdown(as_coro=True)


class TestWhatIsLost:
    @pytest.mark.parametrize("who", ["dialler", "listener"])
    async def test_calls_under_way_fail_and_handlers_are_cancelled(self, town, who):
        one, other, third = [await town.unit() for _ in range(3)]
        there = await proxy(one, other)
        calls = [asyncio.ensure_future(there.hold()), asyncio.ensure_future(there.hold())]
        back = asyncio.ensure_future(there.ask(one, "hold"))
        kept = asyncio.ensure_future((await proxy(one, third)).hold())
        await until(lambda: len(other.log) == 2 and one.log and third.log)
        survivor, lost = (one, other) if who == "dialler" else (other, one)
        lose(survivor, lost)
        results: list[Any] = await asyncio.gather(*calls, back, return_exceptions=True)
        assert {type(result) for result in results} == {ConnectionLost}
        if who == "dialler":
            url = other.container.base_url
            assert {str(result).split(":")[-1] for result in results} == {
                " the cluster has given up what ran there, and calls it no more"
            }
            assert all(str(result).startswith(f"The host of {url} was") for result in results)
        assert {result.outcome for result in results} == {Outcome.MAYBE_EXECUTED}
        await until(lambda: not len(other.container._handlers) and "cancelled" in one.log)
        assert other.log == ["held", "held", "cancelled", "cancelled"]
        third.let_go.set()
        assert await kept == "let go"

    async def test_calls_that_come_back_fail_as_well(self, town):
        """A call to whoever has dialled us goes over that connection, or a new one to its URL."""
        one, other = await town.unit(), await town.unit()
        call = asyncio.ensure_future((await proxy(one, other)).ask(one, "hold"))
        await until(lambda: one.log)
        lose(other, one)
        with pytest.raises(ConnectionLost):
            await call
        with pytest.raises(ConnectionLost, match="was lost: the cluster has given up") as caught:
            await other.container.proxy(one.addr).note("spam")
        assert caught.value.outcome is Outcome.NOT_SENT
        await until(lambda: one.log == ["held", "cancelled"])

    async def test_further_calls_fail_at_once_until_it_is_found(self, town):
        one, other = await town.unit(), await town.unit()
        there = await proxy(one, other)
        lose(one, other)
        for _ in range(2):  # while the connection ends, and afterwards
            with pytest.raises(ConnectionLost, match="was lost: the cluster") as caught:
                await there.note("spam")
            assert caught.value.outcome is Outcome.NOT_SENT
            with pytest.raises(ConnectionLost, match="was lost: the cluster"):
                await proxy(one, other)
            with pytest.raises(ConnectionLost, match="was lost: the cluster"):
                await one.container.link(other.container.base_url)
            await until(lambda: not one.container.stats().connections)
        one.container.set_generation(accept=1, known=1, use=1)  # does not change that
        with pytest.raises(ConnectionLost, match="was lost: the cluster"):
            await there.note("spam")
        other.container.set_generation(accept=1, known=1, use=1)
        url = other.container.base_url
        one.container.set_generation(accept=1, known=1, use=1, found=[url])
        assert await there.note("back") == "back"
        assert await (await proxy(other, one)).note("back") == "back"
        assert other.log == ["back"]

    async def test_it_is_not_served_although_its_generation_still_is(self, town):
        one, other = await town.unit(), await town.unit()
        lose(one, other)
        with pytest.raises(HandshakeError, match="it is fenced"):
            await proxy(other, one)
        assert one.log == []

    @over_sockets
    async def test_who_waits_for_a_connection_waits_no_more(self, town, unix_path):
        one = await town.unit()
        arrived = asyncio.Event()
        connections: list[asyncio.StreamWriter] = []

        def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(writer)
            arrived.set()

        if town.kind == "tcp":
            server: Any = await asyncio.start_server(silent, "127.0.0.1", 0)
            base_url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        else:
            server = await asyncio.start_unix_server(silent, unix_path + "silent")
            base_url = f"ipc://[{unix_path}silent]/"
        call = one.container.proxy(base_url + "0").note("spam")
        connecting = asyncio.ensure_future(one.container.connect(base_url + "0"))
        await arrived.wait()
        one.container.set_generation(accept=0, known=1, use=1, lost=[base_url])
        started = asyncio.get_running_loop().time()
        for waiting in (call, connecting):
            with pytest.raises(ConnectionLost, match="was lost: the cluster") as caught:
                await waiting
            assert caught.value.outcome is Outcome.NOT_SENT
        assert asyncio.get_running_loop().time() - started < 1
        assert one.container.stats().pending == 0
        for writer in connections:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        server.close()
        await server.wait_closed()


class TestThreeRounds:
    async def test_nothing_is_lost_between_those_who_are_left(self, town):
        units = [await town.unit() for _ in range(3)]
        lost = await town.unit()
        url = lost.container.base_url
        asked = 0

        async def ask_all() -> None:
            """Let each call each other one, over connections of before and over new ones."""
            nonlocal asked
            for unit in units:
                for other in units:
                    assert await (await proxy(unit, other)).note(asked) == asked
                    assert await (await proxy(unit, other)).ask(unit, "note", asked) == asked
                    asked += 1

        await ask_all()
        for unit in units:
            await (await proxy(unit, lost)).note("before")
        held = [asyncio.ensure_future((await proxy(units[0], other)).hold()) for other in units[1:]]
        await until(lambda: all("held" in other.log for other in units[1:]))
        for generation in (1, 2):
            before = generation - 1
            for terms in (
                {"accept": before, "known": generation, "use": before},
                {"accept": before, "known": generation, "use": generation, "lost": [url]},
                {"accept": generation, "known": generation, "use": generation},
            ):
                for unit in units:
                    unit.container.set_generation(**terms)
                    await ask_all()
                    await disconnect(units[1])
                    await ask_all()
        for unit in units:
            unit.let_go.set()
            with pytest.raises(HandshakeError, match="fenced"):
                await proxy(lost, unit)
        # The first one has closed none of its connections, and nobody else has.
        assert await asyncio.gather(*held) == ["let go", "let go"]
        assert town.outdated == []

    async def test_a_hello_that_was_overtaken_is_made_anew(self, town, monkeypatch):
        """The rounds go over other ways than the hello, and may be faster."""
        one, other = await town.unit(), await town.unit()
        greet = _protocol.ChannelProtocol.greet
        greetings = 0

        async def late(self: Any) -> None:
            nonlocal greetings
            greetings += 1
            if greetings == 1:
                for unit in (one, other):
                    unit.container.set_generation(accept=1, known=1, use=1)
            await greet(self)

        monkeypatch.setattr(_protocol.ChannelProtocol, "greet", late)
        assert await one.container.proxy(other.addr).note("spam") == "spam"
        assert greetings == 2
