"""A container with a token: whom it serves, what others are told, and what nobody learns."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import aiomas
from aiomas import _hello, _protocol, _strangers, channel, local_queue, rpc
from aiomas._address import parse_url
from aiomas._endpoint import socket_address
from aiomas._logs import LimitedLog
from aiomas.agent import Container
from aiomas.exceptions import (
    ConnectionLost,
    HandshakeError,
    Outcome,
    PermissionDenied,
    RemoteException,
)

from .world import Worker, until

over_each_transport = pytest.mark.parametrize("world", ["tcp", "unix", "local"], indirect=True)


@pytest.fixture(autouse=True)
def bad_peers(monkeypatch):
    monkeypatch.setattr(_protocol, "bad_peers", LimitedLog(_protocol.logger))


def address(agent: aiomas.Agent) -> Any:
    return socket_address(parse_url(agent.addr)[0])


def warnings(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


async def raw(agent: aiomas.Agent, **kwds: Any) -> rpc.RpcClient:
    """Connect as a program does that is no container."""
    return await rpc.open_connection(address(agent), **kwds)


class Probe:
    """Something that a deserializer makes; notes that it was made."""

    made = 0

    @classmethod
    def make(cls, _: Any) -> Probe:
        cls.made += 1
        return cls()


def probe_serializer() -> tuple[Any, Any, Any]:
    return Probe, lambda _: 0, Probe.make


@over_each_transport
class TestWhoIsServed:
    async def test_who_has_the_token(self, world):
        one, other, proxy = await world.pair(token="secret")
        assert await proxy.echo("spam") == "spam"
        assert await proxy.ask(one, "echo", "back") == "back"
        assert one.log == ["back"]
        assert other.log == ["spam"]

    async def test_agents_of_the_same_container(self, world):
        one = await world.worker(token="secret")
        other = world.take(Worker(one.container))
        proxy = await one.container.connect(other.addr)
        assert await proxy.echo("spam") == "spam"

    async def test_who_has_it_by_way_of_a_third_one(self, world):
        one, other, proxy = await world.pair(token="secret")
        third = await world.worker(token="secret")
        assert await proxy.ask(await one.container.connect(third.addr), "echo", 1) == 1
        assert other.container is not third.container

    async def test_a_container_without_a_token_serves_everybody(self, world):
        one = await world.worker(token="secret")
        other = await world.worker()
        proxy = await one.container.connect(other.addr)
        assert await proxy.echo("spam") == "spam"

    async def test_it_is_found_again_after_a_restart(self, world):
        one, other = await world.worker(token="secret"), await world.worker(token="secret")
        proxy = await one.container.connect(other.addr)
        await other.container.shutdown(as_coro=True)
        new = world.take(Worker(await world.again(other.container, token="secret")))
        assert await proxy.echo("spam") == "spam"
        assert new.log == ["spam"]

    async def test_a_container_can_be_made_by_hand(self, world):
        worker = await world.worker(token="secret")
        by_hand = Container("local://by hand/", connect_kwargs={"token": "secret"})
        assert await (await by_hand.connect(worker.addr)).echo(1) == 1
        await by_hand.shutdown(as_coro=True)


@over_each_transport
class TestWhoIsNot:
    @pytest.mark.parametrize("token", [None, "Secret", "secret "])
    async def test_a_container_without_it_or_with_another(self, world, caplog, token):
        worker, stranger = await world.worker(token="secret"), await world.worker(token=token)
        with pytest.raises(HandshakeError, match="belongs to a cluster") as caught:
            await stranger.container.connect(worker.addr, timeout=None)
        assert "secret" not in str(caught.value)
        await self.closed(worker, caplog)

    async def test_a_call_is_refused_that_was_made_before_there_was_a_connection(self, world):
        worker, stranger = await world.worker(token="secret"), await world.worker()
        call = stranger.container.proxy(worker.addr).echo("spam")
        with pytest.raises(HandshakeError, match="token") as caught:
            await call
        assert caught.value.outcome is Outcome.NOT_SENT
        assert worker.log == []

    @pytest.mark.parametrize("method", ["agents/0/echo", "validate_aid", "nope"])
    async def test_a_request_without_a_hello(self, world, caplog, method):
        worker = await world.worker(token="secret")
        client = await raw(worker)
        with pytest.raises(RemoteException, match="HandshakeError: this container belongs to a"):
            await client.channel.send((method, ("0",), {}))
        await client.channel.wait_closed()
        await self.closed(worker, caplog)

    async def test_a_request_that_is_nonsense(self, world, caplog):
        worker = await world.worker(token="secret")
        client = await raw(worker)
        with pytest.raises(RemoteException, match="HandshakeError"):
            await client.channel.send(None)
        await client.channel.wait_closed()
        await self.closed(worker, caplog)

    async def test_one_that_asks_for_nothing_but_the_extensions(self, world, caplog):
        worker = await world.worker(token="secret")
        with pytest.raises(HandshakeError, match="token"):
            await raw(worker, extensions=True)
        await self.closed(worker, caplog)

    async def test_a_one_way_call(self, world, caplog):
        worker = await world.worker(token="secret")
        client = await raw(worker)
        echo = getattr(client.remote.agents, "0").echo
        await aiomas.with_options(echo, one_way=True)("spam")
        await client.channel.wait_closed()
        await self.closed(worker, caplog)

    async def test_a_flood_of_requests_runs_nothing_and_is_one_line(self, world, caplog):
        worker = await world.worker(token="secret")
        client = await raw(worker)
        echo = getattr(client.remote.agents, "0").echo
        answers = await asyncio.gather(*(echo(n) for n in range(50)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {RemoteException, ConnectionLost}
        await client.channel.wait_closed()
        await self.closed(worker, caplog)

    async def test_a_hello_after_something_else(self, world, caplog):
        worker = await world.worker(token="secret")
        base_url = worker.container.base_url
        hello = _hello.Hello(token=_hello.proof("secret", base_url))
        client = await raw(worker)
        first = client.channel.send(("validate_aid", ("0",), {}))
        second = client.channel.send(_hello.question(hello))
        with pytest.raises(RemoteException, match="HandshakeError"):
            await first
        with pytest.raises(ConnectionLost):
            await second
        await self.closed(worker, caplog)

    async def test_no_code_runs_for_what_a_stranger_sends(self, world, caplog):
        worker = await world.worker(token="secret", extra_serializers=[probe_serializer])
        made = Probe.made
        client = await raw(
            worker, extra_serializers=[aiomas.util.arrow_serializer, probe_serializer]
        )
        with pytest.raises(RemoteException, match="HandshakeError"):
            await getattr(client.remote.agents, "0").echo(Probe())
        await client.channel.wait_closed()
        assert Probe.made == made
        await self.closed(worker, caplog)

    async def test_a_stranger_has_nothing_large_to_say(self, world):
        worker = await world.worker(token="secret")
        client = await raw(worker)
        with pytest.raises((RemoteException, ConnectionLost)):
            await getattr(client.remote.agents, "0").echo("x" * 100_000)
        await client.channel.wait_closed()
        assert worker.container.stats().limits_hit == {"max_frame": 1}
        assert worker.log == []

    async def test_but_who_has_shown_the_token_has(self, world):
        one, other, proxy = await world.pair(token="secret")
        assert len(await proxy.echo("x" * 100_000)) == 100_000
        assert len(await proxy.ask(one, "echo", "x" * 100_000)) == 100_000
        assert other is not one

    async def test_but_all_types_travel_among_those_who_know_the_token(self, world):
        kwds: Any = {"token": "secret", "extra_serializers": [probe_serializer]}
        one, other, proxy = await world.pair(**kwds)
        assert type(await proxy.echo(Probe())) is Probe
        assert type(other.log[0]) is Probe
        assert one.log == []

    async def test_who_was_dialled_and_has_not_shown_it(self, world):
        """Whoever listens at a URL that an agent dials could be anybody."""
        one, stranger = await world.worker(token="secret"), await world.worker()
        proxy = await one.container.connect(stranger.addr)
        await proxy.know(one)
        for _ in range(2):
            with pytest.raises(RemoteException, match="PermissionDenied") as caught:
                await proxy.ask_known("echo", "spam")
            assert "has a token, which the peer has not shown" in str(caught.value)
        assert one.log == []
        assert await proxy.echo("goes on") == "goes on"

    async def test_who_was_dialled_gets_a_typed_error(self, world):
        one, stranger = await world.worker(token="secret"), await world.worker()
        await (await one.container.connect(stranger.addr)).know(one)
        with pytest.raises(PermissionDenied) as caught:
            await stranger.known.echo("spam")
        assert caught.value.outcome is Outcome.NOT_EXECUTED
        await aiomas.with_options(stranger.known, one_way=True).echo("spam")
        with pytest.raises(PermissionDenied):
            await stranger.known.echo("spam")
        assert one.log == []

    async def test_who_has_another_token_and_was_dialled_serves_nobody(self, world):
        one, other = await world.worker(token="secret"), await world.worker(token="geheim")
        for here, there in ((one, other), (other, one)):
            with pytest.raises(HandshakeError, match="for another token"):
                await here.container.connect(there.addr)

    async def test_nothing_is_left_of_who_was_refused(self, world):
        worker, stranger = await world.worker(token="secret"), await world.worker()
        for _ in range(20):
            with pytest.raises(HandshakeError):
                await stranger.container.connect(worker.addr)
        await until(lambda: not worker.container.stats().connections)
        assert stranger.container.stats().connections == 0
        assert worker.container.stats().serving == 0

    async def closed(self, worker: Worker, caplog: Any) -> None:
        """Nothing has run, nothing is left, and there is one line about it."""
        await until(lambda: not worker.container.stats().connections)
        assert worker.log == []
        [line] = warnings(caplog)
        assert "belongs to a cluster" in line
        assert "secret" not in line


@over_each_transport
class TestWhatIsShown:
    async def test_the_token_itself_never_travels(self, world, monkeypatch):
        worker = await world.worker()
        seen: list[Any] = []
        self.listen_in(monkeypatch, worker, seen)
        one = await world.worker(token="secret")
        await one.container.connect(worker.addr)
        [hello] = seen
        assert hello.token == _hello.proof("secret", worker.container.base_url)

    async def test_what_a_stranger_was_shown_is_of_no_use_elsewhere(self, world, monkeypatch):
        stranger, one = await world.worker(), await world.worker(token="secret")
        seen: list[Any] = []
        self.listen_in(monkeypatch, stranger, seen)
        other = await world.worker(token="secret")
        await one.container.connect(stranger.addr)
        client = await raw(other)
        answer = await client.channel.send(_hello.question(self.like(seen[0].token)))
        assert "for another token, or for another name" in answer["refusal"]
        await client.channel.wait_closed()

    async def test_nobody_answers_with_what_he_was_shown(self, world):
        """It proves that the one who has dialled knows the token, and not who was dialled."""
        one, stranger = await world.worker(token="secret"), await world.worker()
        shown = _hello.proof("secret", stranger.container.base_url)
        terms = stranger.container._terms
        object.__setattr__(terms.hello, "token", shown)
        await (await one.container.connect(stranger.addr)).know(one)
        with pytest.raises(PermissionDenied):
            await stranger.known.echo("spam")

    async def test_a_container_without_a_token_shows_nothing(self, world, monkeypatch):
        worker, one = await world.worker(), await world.worker()
        seen: list[Any] = []
        self.listen_in(monkeypatch, worker, seen)
        await one.container.connect(worker.addr)
        assert [hello.token for hello in seen] == [None]

    async def test_it_is_in_no_text(self, world):
        container = await world.container(token="secret")
        assert "secret" not in repr(container) + str(container.stats())

    def listen_in(self, monkeypatch: Any, worker: Worker, seen: list[Any]) -> None:
        """Keep the hellos that arrive at the container of *worker*."""
        greeted = _protocol.ChannelProtocol._greeted

        def listening(self: Any, message_id: int, peer: Any) -> None:
            if self.terms.hello.url == worker.container.base_url:
                seen.append(peer)
            greeted(self, message_id, peer)

        monkeypatch.setattr(_protocol.ChannelProtocol, "_greeted", listening)

    def like(self, token: str) -> Any:
        return _hello.Hello(token=token, codec="json", serializers=("Arrow", "object"))


@pytest.mark.parametrize("world", ["tcp"], indirect=True)
async def test_another_name_of_the_same_host_is_told_the_right_one(world):
    worker, one = await world.worker(token="secret"), await world.worker(token="secret")
    wrong = worker.addr.replace("127.0.0.1", "localhost")
    with pytest.raises(HandshakeError, match="dial it by its URL " + worker.container.base_url):
        await one.container.connect(wrong)


@pytest.mark.parametrize("world", ["local"], indirect=True)
class TestWhatATokenIs:
    @pytest.mark.parametrize("token", [b"secret", 5])
    async def test_a_string(self, token, world):
        with pytest.raises(TypeError, match="token is a string") as caught:
            await Container.create(local_queue.get_queue("t"), token=token, as_coro=True)
        assert "secret" not in str(caught.value)

    async def test_not_an_empty_one(self, world):
        with pytest.raises(ValueError, match="token is empty"):
            await Container.create(local_queue.get_queue("t"), token="", as_coro=True)


@over_each_transport
class TestSomebodyElseAtAnAddress:
    """Where the token was shown once, nobody is called who does not show it."""

    async def test_is_not_called(self, world):
        one, other, proxy = await world.pair(token="secret")
        await other.container.shutdown(as_coro=True)
        impostor = world.take(Worker(await world.again(other.container)))
        with pytest.raises(HandshakeError, match="has not shown the token") as caught:
            await proxy.echo("for other")
        assert caught.value.outcome is Outcome.NOT_SENT
        with pytest.raises(HandshakeError, match="has not shown the token"):
            await one.container.connect(other.addr, timeout=None)
        with pytest.raises(HandshakeError, match="has not shown the token"):
            await one.container.ping(other.container.base_url)
        await until(lambda: not impostor.container.stats().connections)
        assert impostor.log == []
        assert impostor.container.stats().calls_in <= 3  # hellos
        await impostor.container.shutdown(as_coro=True)
        world.take(Worker(await world.again(other.container, token="secret")))
        assert await proxy.echo("back") == "back"

    async def test_is_not_called_either_if_it_knows_nothing_of_tokens(self, world, monkeypatch):
        one, other, proxy = await world.pair(token="secret")
        await other.container.shutdown(as_coro=True)
        received = []

        def fail(request: Any) -> None:
            received.append(request.content[0])
            request.fail("LookupError: nobody knows that")

        monkeypatch.setattr(_hello, "asked", lambda _: None)
        server = await channel.start_server(address(other), lambda found: found.serve(fail))
        with pytest.raises(HandshakeError, match="has not shown the token"):
            await proxy.echo("for other")
        with pytest.raises(HandshakeError, match="has not shown the token"):
            await one.container.connect(other.addr)
        assert received == [_hello.PATH] * 2
        server.close()
        await server.wait_closed()

    async def test_is_called_where_nobody_has_ever_shown_it(self, world):
        one, other = await world.worker(token="secret"), await world.worker()
        proxy = await one.container.connect(other.addr)
        assert await proxy.echo("spam") == "spam"
        assert one.container._terms.proven == set()


class TestWhoSaysNothing:
    """Everybody can connect; but it is no way to take the descriptors of a container."""

    @pytest.mark.parametrize("world", ["tcp", "unix"], indirect=True)
    async def test_it_is_cut(self, world, caplog):
        worker = await world.worker(token="secret", limits=aiomas.Limits(handshake_timeout=0.2))
        silent = [await raw(worker) for _ in range(3)]
        async with asyncio.timeout(10):
            for client in silent:
                await client.channel.wait_closed()
        await until(lambda: not worker.container.stats().connections)
        lines = warnings(caplog)
        assert len(lines) == 3
        assert "not shown the token within handshake_timeout=0.2 s" in lines[0]

    @pytest.mark.parametrize("world", ["tcp", "unix"], indirect=True)
    async def test_who_has_shown_the_token_may_be_silent(self, world):
        limits = aiomas.Limits(handshake_timeout=0.2)
        one, other = [await world.worker(token="secret", limits=limits) for _ in range(2)]
        proxy = await one.container.connect(other.addr)
        for _ in range(3):
            silent = await raw(other)
            await silent.channel.wait_closed()  # it came later, and is gone
        assert one.container.stats().connections == 1
        assert await proxy.echo("spam") == "spam"
        assert len(other.container._terms.strangers) == 0

    @pytest.mark.parametrize("world", ["tcp"], indirect=True)
    async def test_there_are_not_too_many(self, world, monkeypatch, caplog):
        monkeypatch.setattr(_strangers, "MOST", 5)
        one, other = await world.worker(token="secret"), await world.worker(token="secret")
        silent = [await raw(other) for _ in range(20)]
        proxy = await one.container.connect(other.addr)
        assert await proxy.echo("spam") == "spam"
        assert await (await one.container.connect(other.addr)).echo("spam") == "spam"
        await until(lambda: other.container.stats().connections <= 6)
        lines = warnings(caplog)
        assert len(lines) == 10  # others were left out
        assert "more than 5 peers that have not shown the token" in lines[0]
        for client in silent:
            await client.close()

    @pytest.mark.parametrize("world", ["tcp", "unix"], indirect=True)
    async def test_without_a_token_silence_is_no_offence(self, world):
        worker = await world.worker(limits=aiomas.Limits(handshake_timeout=0.1))
        guarded = await world.worker(token="secret", limits=aiomas.Limits(handshake_timeout=0.2))
        silent, stranger = await raw(worker), await raw(guarded)
        await stranger.channel.wait_closed()
        assert silent.channel.is_open
        await silent.close()
