"""Agents and proxies as arguments and results: over several hops, back home, after a loss."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

import aiomas
from aiomas import rpc
from aiomas.agent import url_of
from aiomas.exceptions import ContainerClosedError, Outcome, SerializationError

from .world import Worker, World, cut_all, until

TRANSPORTS = ["tcp", "unix", "local"]
by_connection = pytest.mark.parametrize("world", TRANSPORTS, indirect=True)


class Meter:
    router = rpc.Service()

    @aiomas.expose
    def read(self) -> int:
        return 42


class Metered(Worker):
    router = rpc.Service(["meter"])

    def __init__(self, container: aiomas.Container) -> None:
        super().__init__(container)
        self.meter = Meter()

    @aiomas.expose
    def give_meter(self) -> Meter:
        return self.meter


async def ring(world: World, *kinds: str) -> list[Worker]:
    """Return workers of which each one knows the next one; the last one knows nobody."""
    workers = [await world.worker(kind) for kind in kinds or [""] * 3]
    for one, other in itertools.pairwise(workers):
        one.known = await one.container.connect(other.addr)
    return workers


class TestAgents:
    async def test_one_is_called_back(self, world):
        one, other, proxy = await world.pair()
        assert await proxy.ask(one, "echo", 7) == 7
        assert one.log == [7]
        assert one.calls[0].peer_url == other.container.base_url

    async def test_its_proxy_says_whose_it_is(self, world):
        one, other, proxy = await world.pair()
        await proxy.know(one)
        assert url_of(other.known) == one.addr
        assert one.addr in repr(other.known)

    async def test_as_a_result(self, world):
        _, other, proxy = await world.pair()
        other.known = other
        result = await proxy.give()
        assert url_of(result) == other.addr
        assert await result.echo(1) == 1

    async def test_in_lists_and_maps(self, world):
        one, other, proxy = await world.pair()
        await proxy.know({"agents": [one, [one]]})
        assert [url_of(a) for a in (other.known["agents"][0], other.known["agents"][1][0])] == [
            one.addr
        ] * 2

    async def test_another_agent_of_the_same_container(self, world):
        one, _, proxy = await world.pair()
        sibling = world.take(Worker(one.container))
        await proxy.know(sibling)
        assert await proxy.ask_known("echo", 3) == 3
        assert sibling.log == [3]

    @by_connection
    async def test_one_is_called_over_the_connection_on_which_it_came(self, world):
        one, other, proxy = await world.pair()
        await proxy.ask(one, "echo")
        assert one.container.stats().connections == 1
        assert other.container.stats().connections == 1

    @by_connection
    async def test_during_a_shutdown_one_is_called_to_serve_others_only(self, world):
        one, other, proxy = await world.pair()
        await proxy.know(one)
        serving = proxy.hold_and_ask_known()
        await other.holding.wait()
        shutting_down = asyncio.create_task(other.container.shutdown(as_coro=True))
        await asyncio.sleep(1)
        for call in (other.known.echo, aiomas.with_options(other.known, retries=3).echo):
            with pytest.raises(ContainerClosedError) as caught:
                await call("own")
            assert caught.value.outcome is Outcome.NOT_SENT
        other.let_go.set()
        assert await serving == "served"
        await shutting_down
        assert one.log == ["served"]

    @by_connection
    async def test_one_that_was_kept_is_dialled_when_the_connection_is_gone(self, world):
        one, other, proxy = await world.pair()
        await proxy.know(one)
        cut_all(other.container)
        await until(lambda: not other.container.stats().connections)
        assert await other.known.echo("again") == "again"
        assert one.log == ["again"]

    @by_connection
    async def test_one_of_another_container_has_to_come_as_a_proxy(self, world):
        _, other, proxy = await world.pair()
        with pytest.raises(SerializationError, match="not served"):
            await proxy.know(other)


class TestThirdParties:
    async def test_a_proxy_arrives_as_one_for_the_same_agent(self, world):
        one, other, third = await ring(world)
        third_of_one = await one.container.connect(third.addr)
        await one.known.know(third_of_one)
        assert url_of(other.known) == third.addr
        assert await other.known.echo(1) == 1
        assert third.calls[0].peer_url == other.container.base_url

    async def test_as_a_result(self, world):
        one, _, third = await ring(world)
        result = await one.known.give()  # that the second one has for the third one
        assert url_of(result) == third.addr
        assert await result.echo(1) == 1
        assert third.calls[0].peer_url == one.container.base_url

    async def test_an_agent_goes_round_and_comes_home(self, world):
        one, other, third = await ring(world)
        # other gets one as an agent, passes the proxy on to third, which passes it on to one.
        await one.known.know(one)
        proxy_of_other = other.known
        third_of_other = await other.container.connect(third.addr)
        await third_of_other.know(proxy_of_other)
        one_of_third = await third.container.connect(one.addr)
        await one_of_third.know(third.known)
        assert url_of(one.known) == one.addr
        before = one.container.stats().bytes_out
        assert await one.known.echo("home") == "home"
        assert one.container.stats().bytes_out == before  # by no detour
        assert one.log == ["home"]
        assert await one.known.ask(one, "echo", "deep") == "deep"

    async def test_over_five_hops(self, world):
        workers = await ring(world, *[""] * 6)
        await workers[0].known.know(workers[0])
        for here, there in itertools.pairwise(workers[1:]):
            await (await here.container.connect(there.addr)).know(here.known)
        assert {url_of(worker.known) for worker in workers[1:]} == {workers[0].addr}
        for worker in workers[1:]:
            await worker.known.echo(worker.addr)
        assert workers[0].log == [worker.addr for worker in workers[1:]]

    @by_connection
    async def test_it_works_when_those_in_between_are_gone(self, world):
        one, other, third = await ring(world)
        await one.known.know(one)
        await (await other.container.connect(third.addr)).know(other.known)
        await other.container.shutdown(as_coro=True)
        assert await third.known.echo(1) == 1

    @pytest.mark.parametrize("world", ["tcp"], indirect=True)
    @pytest.mark.parametrize("kinds", list(itertools.permutations(TRANSPORTS)))
    async def test_over_different_transports(self, world, kinds):
        one, other, third = await ring(world, *kinds)
        await one.known.know(await one.container.connect(third.addr))
        assert await other.known.echo(1) == 1
        await third_knows(other, third, one)
        assert url_of(third.known) == one.addr
        assert await third.known.echo(2) == 2

    async def test_a_proxy_without_options_arrives(self, world):
        one, other, third = await ring(world)
        proxy = aiomas.with_options(await one.container.connect(third.addr), timeout=1.0)
        await one.known.know(proxy)
        assert other.known == other.container.proxy(third.addr)

    async def test_one_for_a_part_of_an_agent_cannot_be_passed_on(self, world):
        one = await world.worker()
        metered = world.take(Metered(await world.container()))
        other = await world.worker()
        proxy = await one.container.connect(metered.addr)
        assert await proxy.meter.read() == 42
        to_other = await one.container.connect(other.addr)
        with pytest.raises(SerializationError, match="stands for no agent") as caught:
            await to_other.know(proxy.meter)
        assert caught.value.outcome is Outcome.NOT_SENT

    async def test_a_part_of_an_agent_can_be_called_by_who_gets_it(self, world):
        one = await world.worker()
        metered = world.take(Metered(await world.container()))
        proxy = await one.container.connect(metered.addr)
        meter = await proxy.give_meter()
        assert await meter.read() == 42

    async def test_one_for_nobody_arrives_and_fails_when_it_is_used(self, world):
        one, other, proxy = await world.pair()
        await proxy.know(one.container.proxy(one.container.base_url + "nobody"))
        with pytest.raises(aiomas.RemoteException, match="nobody"):
            await other.known.echo()


async def third_knows(other: Worker, third: Worker, one: Worker) -> None:
    """Let *one* reach *third* by way of *other*."""
    to_other: Any = await one.container.connect(other.addr)
    await to_other.know(one)
    to_third = await other.container.connect(third.addr)
    await to_third.know(other.known)
