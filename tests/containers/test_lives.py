"""Containers that take the place of others: ids of agents that are made again, and of new ones."""

from __future__ import annotations

import asyncio

import pytest

import aiomas
from aiomas.agent import Container
from aiomas.exceptions import (
    AgentNotFoundError,
    ConnectionLost,
    Outcome,
    RemoteException,
    RemoteLookupError,
    ShuttingDown,
)

from .world import Worker, World, until

LIFE = 10**9
one_kind = pytest.mark.parametrize("world", ["local"], indirect=True)


def aids(container: Container, *asked_for: str | None) -> list[str]:
    return [Worker(container, aid=aid).aid for aid in asked_for]


async def restarted(world: World, life: int = 1, *gone: str) -> tuple[Worker, Container]:
    """Return an agent that calls, and a container that has begun a life and that it calls."""
    caller = await world.worker()
    container = await world.container()
    if world.kind != "inside":
        container._population.begin_life(life, gone)
    return caller, container


@one_kind
class TestNumbers:
    async def test_no_life_has_those_of_another(self, world):
        container = await world.container()
        container._population.begin_life(3)
        assert aids(container, None, None) == [f"{3 * LIFE}", f"{3 * LIFE + 1}"]

    async def test_the_first_life_needs_no_beginning(self, world):
        container = await world.container()
        container._population.begin_life(0)
        assert aids(container, None, "x", None) == ["0", "x", "1"]

    @pytest.mark.parametrize("aid", ["0", "7", str(LIFE - 1)])
    async def test_those_of_former_lives_are_for_nobody(self, world, aid):
        container = await world.container()
        container._population.begin_life(1)
        with pytest.raises(ValueError, match="was the id of another agent"):
            Worker(container, aid=aid)
        assert aids(container, str(LIFE), None) == [str(LIFE), str(LIFE + 1)]

    async def test_nor_are_names_that_are_known_to_be_gone(self, world):
        container = await world.container()
        container._population.begin_life(1, ["market", str(LIFE)])
        with pytest.raises(ValueError, match="was the id of another agent"):
            Worker(container, aid="market")
        assert aids(container, None, "other") == [str(LIFE + 1), "other"]

    @pytest.mark.parametrize("aid", ["0", "market"])
    async def test_who_calls_one_of_a_former_life_is_told(self, world, aid):
        caller, container = await restarted(world, 1, "market")
        with pytest.raises(RemoteLookupError, match="lost when its container was restarted"):
            await caller.container.proxy(container.base_url + aid).echo(1)
        with pytest.raises(AgentNotFoundError):
            await caller.container.connect(container.base_url + aid)

    async def test_one_of_this_life_was_stopped_and_not_lost(self, world):
        caller, container = await restarted(world)
        agent = Worker(container)
        proxy = await caller.container.connect(agent.addr)
        await agent.stop()
        with pytest.raises(RemoteLookupError, match="was stopped") as caught:
            await proxy.echo(1)
        assert "lost" not in str(caught.value)

    @pytest.mark.parametrize("life", [-1, LIFE])
    async def test_a_life_has_a_number(self, world, life):
        with pytest.raises(ValueError, match="A life has a number"):
            (await world.container())._population.begin_life(life)

    async def test_a_life_does_not_begin_in_the_middle(self, world):
        container = await world.container()
        agent = Worker(container)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="has had agents"):
                container._population.begin_life(1)
            await agent.stop()


@one_kind
class TestFormerIds:
    async def test_agents_get_them_in_their_order(self, world):
        _, container = await restarted(world)
        with container._population.assigning(["5", "3"]) as made:
            assert aids(container, None, None) == ["5", "3"]
        assert made == ["5", "3"]
        assert aids(container, None) == [str(LIFE)]

    async def test_further_agents_get_fresh_ones(self, world):
        _, container = await restarted(world)
        with container._population.assigning(["5"]) as made:
            assert aids(container, None, None) == ["5", str(LIFE)]
        assert made == ["5", str(LIFE)]

    async def test_names_are_for_those_who_ask_for_them(self, world):
        _, container = await restarted(world, 1, "market", "bank")
        with container._population.assigning(["market", "5", "6"]) as made:
            assert aids(container, None, None, None) == ["5", "6", str(LIFE)]
            assert aids(container, "market") == ["market"]
            with pytest.raises(ValueError, match="was the id of another agent"):
                Worker(container, aid="bank")
            with pytest.raises(ValueError, match="is the id of another agent"):
                Worker(container, aid="market")
        assert made == ["5", "6", str(LIFE), "market"]

    async def test_a_number_that_was_asked_for_is_not_given_to_another(self, world):
        _, container = await restarted(world)
        with container._population.assigning(["5", "6"]):
            assert aids(container, "5", None, None) == ["5", "6", str(LIFE)]

    async def test_all_ids_are_collected_in_the_first_life_too(self, world):
        container = await world.container()
        with container._population.assigning([]) as made:
            aids(container, None, "market", None)
        aids(container, None)
        assert made == ["0", "market", "1"]

    async def test_a_failed_factory_can_be_tried_again(self, world):
        _, container = await restarted(world, 1, "market")
        with container._population.assigning(["5", "market"]) as made:
            aids(container, None, "market")
        for aid in made:
            await container.agents.dict[aid].stop()
        with container._population.assigning(made):
            assert aids(container, None, "market") == ["5", "market"]

    async def test_an_id_that_is_in_use_is_not_given_away_again(self, world):
        _, container = await restarted(world)
        with container._population.assigning(["5"]):
            aids(container, None)
        with container._population.assigning(["5"]):
            assert aids(container, None) == [str(LIFE)]

    async def test_of_a_restored_agent_is_gone_after_its_end(self, world):
        _, container = await restarted(world)
        with container._population.assigning(["5"]):
            agent = Worker(container)
        await agent.stop()
        with pytest.raises(ValueError, match="was the id of another agent"):
            Worker(container, aid="5")

    async def test_they_are_for_one_container_only(self, world):
        caller, container = await restarted(world)
        with container._population.assigning(["5"]) as made:
            assert aids(caller.container, None) == ["1"]
            assert aids(container, None) == ["5"]
        assert made == ["5"]

    async def test_factories_that_run_at_the_same_time_do_not_mix(self, world):
        _, container = await restarted(world)
        turn = asyncio.Event()

        async def factory(*former: str) -> list[str]:
            with container._population.assigning(former) as made:
                aids(container, None)
                await turn.wait()
                async with asyncio.TaskGroup() as group:
                    group.create_task(asyncio.to_thread(lambda: None))
                    group.create_task(later())
                return made

        async def later() -> None:
            aids(container, None)

        factories = [asyncio.create_task(factory(f"{n}", f"{n + 1}")) for n in (10, 20, 30)]
        await asyncio.sleep(0)
        assert aids(container, None) == [str(LIFE)]
        turn.set()
        assert await asyncio.gather(*factories) == [["10", "11"], ["20", "21"], ["30", "31"]]

    async def test_what_a_factory_leaves_running_gets_fresh_ones(self, world):
        _, container = await restarted(world)
        turn = asyncio.Event()

        async def later() -> list[str]:
            await turn.wait()
            return aids(container, None)

        with container._population.assigning(["5", "6"]) as made:
            aids(container, None)
            task = asyncio.create_task(later())
        turn.set()
        assert await task == [str(LIFE)]
        assert made == ["5"]

    async def test_calls_that_are_served_meanwhile_get_fresh_ones(self, world):
        class Maker(Worker):
            @aiomas.expose
            def make(self) -> str:
                return Worker(self.container).aid

        caller, container = await restarted(world)
        maker = Maker(container)
        with container._population.assigning(["5"]) as made:
            proxies = [c.proxy(maker.addr) for c in (caller.container, container)]
            assert [await p.make() for p in proxies] == [str(LIFE + 1), str(LIFE + 2)]
            assert aids(container, None) == ["5"]
        assert made == ["5"]

    async def test_many_are_no_work(self, world):
        _, container = await restarted(world)
        many = [str(n) for n in range(20_000)]
        with container._population.assigning(many) as made:
            for _ in many:
                container._register(object(), None)
        assert made == many


class TestAwaiting:
    async def test_a_call_is_refused_until_the_agent_is_there(self, world):
        caller, container = await restarted(world)
        container._population.await_agents(["77", "78"])
        proxy = caller.container.proxy(container.base_url + "77")
        with pytest.raises(ShuttingDown, match="agent '77' is being restored, its") as caught:
            await proxy.echo(1)
        assert caught.value.outcome is Outcome.NOT_EXECUTED
        with container._population.assigning(["77"]):
            agent = world.take(Worker(container))
            with pytest.raises(ShuttingDown, match="agent '77' is being restored, its"):
                await proxy.echo(1)  # it has not got back what it had
        assert await proxy.echo(2) == 2
        assert agent.log == [2]
        await agent.stop()
        with pytest.raises(RemoteLookupError, match="was stopped"):
            await proxy.echo(3)
        with pytest.raises(ShuttingDown, match="'78'"):
            await caller.container.proxy(container.base_url + "78").echo(1)

    async def test_until_it_is_given_up(self, world):
        caller, container = await restarted(world)
        container._population.await_agents(["77"])
        container._population.give_up(["77", "78"])
        with pytest.raises(RemoteLookupError):
            await caller.container.proxy(container.base_url + "77").echo(1)

    async def test_retries_go_on_until_it_is_there(self, world):
        caller, container = await restarted(world)
        container._population.await_agents(["77"])
        proxy = aiomas.with_options(caller.container.proxy(container.base_url + "77"), retries=99)
        call = proxy.look()
        before = container.stats().calls_in
        await until(lambda: container.stats().calls_in > before + 1)
        assert not call.done()
        with container._population.assigning(["77"]):
            world.take(Worker(container))
        assert await call == "seen"

    async def test_retries_end_when_it_is_given_up(self, world):
        caller, container = await restarted(world)
        container._population.await_agents(["77"])
        call = aiomas.with_options(
            caller.container.proxy(container.base_url + "77"), retries=99
        ).look()
        before = container.stats().calls_in
        await until(lambda: container.stats().calls_in > before)
        container._population.give_up(["77"])
        with pytest.raises(RemoteLookupError):
            await call

    async def test_retries_are_for_what_may_be_repeated(self, world):
        caller, container = await restarted(world)
        container._population.await_agents(["77"])
        proxy = aiomas.with_options(caller.container.proxy(container.base_url + "77"), retries=99)
        call = proxy.echo(1)
        before = container.stats().calls_in
        await until(lambda: container.stats().calls_in > before)
        with container._population.assigning(["77"]):
            agent = world.take(Worker(container))
        with pytest.raises(RemoteException) as caught:
            await call
        assert caught.value.outcome is Outcome.NOT_EXECUTED
        assert agent.log == []

    async def test_connecting_waits_for_it(self, world):
        caller, container = await restarted(world)
        container._population.await_agents(["77"])
        url = container.base_url + "77"
        with pytest.raises(ConnectionLost, match="agent '77' is being restored"):
            await caller.container.connect(url)
        connecting = asyncio.create_task(caller.container.connect(url, timeout=60))
        await asyncio.sleep(5)
        assert not connecting.done()
        with container._population.assigning(["77"]):
            world.take(Worker(container))
            await asyncio.sleep(5)
            assert not connecting.done()
        assert await (await connecting).echo(1) == 1

    async def test_those_that_are_there_are_not_awaited(self, world):
        caller, container = await restarted(world)
        agent = world.take(Worker(container, aid="x"))
        container._population.await_agents(["x"])
        assert await caller.container.proxy(agent.addr).echo(1) == 1
        await agent.stop()
        with pytest.raises(RemoteLookupError, match="was stopped"):
            await caller.container.proxy(agent.addr).echo(1)
