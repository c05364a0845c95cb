"""Ids of agents, and the ends of agents: alone, all together, and at awkward moments."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import aiomas
from aiomas.agent import Container
from aiomas.exceptions import (
    AgentNotFoundError,
    ContainerClosedError,
    Outcome,
    RemoteLookupError,
)

from .world import Worker, World


class Mortal(Worker):
    """Notes its end, and can be told how to behave then."""

    def __init__(self, container: Container, *, aid: str | None = None) -> None:
        super().__init__(container, aid=aid)
        self.stopping = asyncio.Event()
        self.at_end: Any = None

    async def on_stop(self) -> None:
        self.log.append("on_stop")
        self.stopping.set()
        if self.at_end is not None:
            self.log.append(await self.at_end())

    @aiomas.expose
    async def stop_yourself(self) -> str:
        await self.stop()
        return "stopped"

    @aiomas.expose
    async def stop_another_and_go_on(self) -> None:
        await self.known.stop()
        self.holding.set()
        await self.let_go.wait()
        self.log.append("went on to the end")

    @aiomas.expose
    async def stop_after_a_while(self) -> None:
        self.holding.set()
        await self.let_go.wait()
        await self.stop()


async def mortals(world: World) -> tuple[Worker, Mortal, Any]:
    """Return a worker, an agent, and the proxy that the worker's container has for it."""
    worker = await world.worker()
    mortal = Mortal(await world.container())
    world.take(mortal)
    return worker, mortal, await worker.container.connect(mortal.addr)


one_kind = pytest.mark.parametrize("world", ["local"], indirect=True)


def now() -> float:
    return asyncio.get_running_loop().time()


async def hang() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise ValueError("boom")


@one_kind
class TestIds:
    async def test_they_are_numbers_from_0(self, world):
        container = await world.container()
        assert [Worker(container).aid for _ in range(3)] == ["0", "1", "2"]

    async def test_they_can_be_names(self, world):
        worker, other = await world.worker(), await world.worker()
        agent = world.take(Worker(other.container, aid="market"))
        assert agent.aid == "market"
        assert agent.addr == other.container.base_url + "market"
        proxy = await worker.container.connect(agent.addr)
        assert await proxy.echo(1) == 1
        assert agent.calls[0].path == "agents/market/echo"

    async def test_names_do_not_count(self, world):
        container = await world.container()
        given = [None, "x", None, "y", None]
        assert [Worker(container, aid=aid).aid for aid in given] == ["0", "x", "1", "y", "2"]

    async def test_a_number_that_was_chosen_is_left_out(self, world):
        container = await world.container()
        given = ["1", None, None, "7", None]
        assert [Worker(container, aid=aid).aid for aid in given] == ["1", "0", "2", "7", "3"]

    @pytest.mark.parametrize("name", ["a", "0x", "00", "A.b_c~d-e", "9" * 30, "x" * 255])
    async def test_many_names_are_possible(self, world, name):
        worker, other = await world.worker(), await world.worker()
        agent = world.take(Worker(other.container, aid=name))
        assert await (await worker.container.connect(agent.addr)).echo(name) == name

    @pytest.mark.parametrize("name", ["", "_a", "a/b", "a b", "ä", "-a", ".", "..", "x" * 256])
    async def test_some_are_not(self, world, name):
        container = await world.container()
        with pytest.raises(ValueError, match="cannot be an agent's id"):
            Worker(container, aid=name)
        assert Worker(container).aid == "0"

    async def test_a_number_is_a_string(self, world):
        with pytest.raises(TypeError, match="string"):
            Worker(await world.container(), aid=1)  # type: ignore[arg-type]

    @pytest.mark.parametrize("aid", ["0", "market"])
    async def test_an_agent_that_is_there_keeps_its_own(self, world, aid):
        container = await world.container()
        worker = Worker(container, aid=aid)
        with pytest.raises(ValueError, match=f"'{aid}' is the id of another agent"):
            Worker(container, aid=aid)
        assert container.agents.dict == {aid: worker}

    @pytest.mark.parametrize("aid", [None, "0", "5", "market"])
    async def test_that_of_one_that_was_stopped_is_not_used_again(self, world, aid):
        container = await world.container()
        agent = Worker(container, aid=aid)
        aid = agent.aid
        await agent.stop()
        with pytest.raises(ValueError, match=f"'{aid}' was the id of another agent"):
            Worker(container, aid=aid)
        others = [Worker(container).aid for _ in range(10)]
        assert aid not in others
        assert len(set(others)) == 10

    async def test_in_a_container_that_was_shut_down_there_are_none(self, world):
        container = await world.container()
        await container.shutdown(as_coro=True)
        with pytest.raises(ContainerClosedError):
            Worker(container, aid="late")


class TestStopping:
    async def test_new_calls_are_refused_and_say_why(self, world):
        worker, mortal, proxy = await mortals(world)
        await mortal.stop()
        with pytest.raises(RemoteLookupError, match="was stopped") as caught:
            await proxy.echo()
        assert caught.value.outcome is Outcome.NOT_EXECUTED
        with pytest.raises(AgentNotFoundError):
            await worker.container.connect(mortal.addr)

    async def test_its_siblings_live_on(self, world):
        worker, mortal, _ = await mortals(world)
        sibling = world.take(Worker(mortal.container))
        await mortal.stop()
        assert await (await worker.container.connect(sibling.addr)).echo(1) == 1

    async def test_calls_that_run_may_end_before_it_cleans_up(self, world):
        _, mortal, proxy = await mortals(world)
        call = proxy.hold("done")
        await mortal.holding.wait()
        stopping = asyncio.create_task(mortal.stop())
        await asyncio.sleep(5)
        with pytest.raises(RemoteLookupError):
            await proxy.echo()
        assert mortal.log == []
        mortal.let_go.set()
        assert await call == "done"
        await stopping
        assert mortal.log == ["on_stop"]

    async def test_calls_that_take_too_long_are_cancelled(self, world):
        _, mortal, proxy = await mortals(world)
        call = proxy.hold()
        await mortal.holding.wait()
        started = now()
        await mortal.stop(timeout=3.0)
        assert now() == pytest.approx(started + 3, abs=0.1)
        with pytest.raises(aiomas.RemoteException, match="CancelledError"):
            await call
        assert mortal.log == ["cancelled", "on_stop"]

    async def test_an_own_function_can_do_it(self, world):
        _, mortal, proxy = await mortals(world)
        async with asyncio.timeout(5):
            assert await proxy.stop_yourself() == "stopped"
        assert mortal.log == ["on_stop"]

    async def test_several_own_functions_can_do_it(self, world):
        _, mortal, proxy = await mortals(world)
        calls = [proxy.stop_after_a_while() for _ in range(3)]
        await mortal.holding.wait()
        await asyncio.sleep(1)
        mortal.let_go.set()
        async with asyncio.timeout(5):
            await asyncio.gather(*calls)
        assert mortal.log == ["on_stop"]

    async def test_a_function_of_a_sibling_can_do_it(self, world):
        _, mortal, _ = await mortals(world)

        class Killer(Worker):
            @aiomas.expose
            async def kill(self) -> None:
                await mortal.stop()

        killer = world.take(Killer(mortal.container))
        async with asyncio.timeout(5):
            await (await killer.container.connect(killer.addr)).kill()
        assert mortal.log == ["on_stop"]

    async def test_twice_one_after_the_other_and_at_once(self, world):
        _, mortal, _ = await mortals(world)
        await asyncio.gather(mortal.stop(), mortal.stop(), mortal.stop())
        await mortal.stop()
        assert mortal.log == ["on_stop"]

    async def test_one_who_is_cancelled_does_not_cancel_it(self, world):
        _, mortal, _ = await mortals(world)
        gate = asyncio.Event()
        mortal.at_end = gate.wait
        stopping, other = asyncio.create_task(mortal.stop()), asyncio.create_task(mortal.stop())
        await mortal.stopping.wait()
        stopping.cancel()
        await asyncio.sleep(1)
        assert stopping.cancelled()
        gate.set()
        await other
        assert mortal.log == ["on_stop", True]

    async def test_a_clean_up_that_fails_is_raised(self, world):
        _, mortal, proxy = await mortals(world)
        mortal.at_end = fail
        with pytest.raises(ValueError, match="boom"):
            await mortal.stop()
        with pytest.raises(RemoteLookupError):
            await proxy.echo()
        await mortal.stop()  # it has ended
        assert mortal.log == ["on_stop"]

    async def test_a_clean_up_that_hangs_is_given_up(self, world):
        _, mortal, proxy = await mortals(world)
        mortal.at_end = hang
        started = now()
        with pytest.raises(TimeoutError):
            await mortal.stop(timeout=2.0)
        assert now() == pytest.approx(started + 2, abs=0.1)
        with pytest.raises(RemoteLookupError):
            await proxy.echo()

    async def test_a_clean_up_can_call_others(self, world):
        worker, mortal, _ = await mortals(world)
        mortal.known = await mortal.container.connect(worker.addr)
        mortal.at_end = lambda: mortal.known.echo("bye")
        await mortal.stop()
        assert mortal.log == ["on_stop", "bye"]
        assert worker.log == ["bye"]

    async def test_a_stopped_agent_can_still_call(self, world):
        worker, mortal, _ = await mortals(world)
        await mortal.stop()
        assert await (await mortal.container.connect(worker.addr)).echo(1) == 1


class TestShutdown:
    async def test_all_clean_up_once(self, world):
        _, mortal, _ = await mortals(world)
        others = [Mortal(mortal.container) for _ in range(10)]
        await others[0].stop()
        await mortal.container.shutdown(as_coro=True)
        assert all(each.log == ["on_stop"] for each in [mortal, *others])

    async def test_a_clean_up_can_call_others(self, world):
        worker, mortal, _ = await mortals(world)
        proxy = await mortal.container.connect(worker.addr)
        mortal.at_end = lambda: proxy.hold("bye")
        stopping = asyncio.create_task(mortal.container.shutdown(as_coro=True))
        await mortal.stopping.wait()
        if world.kind == "inside":  # where no calls are served any more
            await stopping
            return
        await worker.holding.wait()
        worker.let_go.set()
        await stopping
        assert mortal.log == ["on_stop", "bye"]

    @pytest.mark.parametrize("world", ["tcp", "unix", "local"], indirect=True)
    async def test_a_clean_up_can_connect_to_others(self, world):
        worker, mortal, _ = await mortals(world)

        async def say_bye() -> Any:
            return await (await mortal.container.connect(worker.addr)).echo("bye")

        mortal.at_end = say_bye
        await mortal.container.shutdown(as_coro=True)
        assert mortal.log == ["on_stop", "bye"]

    async def test_it_comes_after_the_calls(self, world):
        _, mortal, _ = await mortals(world)
        third = await world.worker()
        proxy = await third.container.connect(mortal.addr)
        mortal.at_end = mortal.let_go.wait
        call = proxy.hold("served") if world.kind != "inside" else None
        if call is not None:
            await mortal.holding.wait()
        stopping = asyncio.create_task(mortal.container.shutdown(as_coro=True))
        await asyncio.sleep(1)
        assert mortal.stopping.is_set() == (call is None)
        mortal.let_go.set()
        if call is not None:
            assert await call == "served"
        await stopping
        assert mortal.log == ["on_stop", True]

    async def test_a_clean_up_that_fails_is_logged_and_the_others_go_on(self, world, caplog):
        _, mortal, _ = await mortals(world)
        other = Mortal(mortal.container)
        mortal.at_end = fail
        await mortal.container.shutdown(as_coro=True)
        assert other.log == ["on_stop"]
        (record,) = [r for r in caplog.records if "on_stop" in r.getMessage()]
        assert record.levelname == "ERROR"
        assert mortal.addr in record.getMessage()
        assert "boom" in str(record.exc_info)

    async def test_a_clean_up_that_hangs_is_given_up(self, world, caplog):
        _, mortal, _ = await mortals(world)
        other = Mortal(mortal.container)
        mortal.at_end = hang
        started = now()
        await mortal.container.shutdown(as_coro=True, timeout=3.0)
        assert now() <= started + 7
        assert other.log == ["on_stop"]
        assert any(
            "timeout=3.0" in r.getMessage() and mortal.addr in r.getMessage()
            for r in caplog.records
        )

    async def test_one_that_is_being_stopped_is_waited_for(self, world):
        _, mortal, _ = await mortals(world)
        gate = asyncio.Event()
        mortal.at_end = gate.wait
        stopping = asyncio.create_task(mortal.stop())
        await mortal.stopping.wait()
        shutting_down = asyncio.create_task(mortal.container.shutdown(as_coro=True))
        await asyncio.sleep(1)
        assert not shutting_down.done()
        gate.set()
        await asyncio.gather(stopping, shutting_down)
        assert mortal.log == ["on_stop", True]

    @pytest.mark.parametrize("world", ["tcp", "unix", "local"], indirect=True)
    async def test_one_that_is_being_stopped_can_still_call_others(self, world):
        worker, mortal, _ = await mortals(world)
        proxy = await mortal.container.connect(worker.addr)
        gate = asyncio.Event()

        async def wait_and_say_bye() -> Any:
            await gate.wait()
            return await proxy.echo("bye")

        mortal.at_end = wait_and_say_bye
        stopping = asyncio.create_task(mortal.stop())
        await mortal.stopping.wait()
        shutting_down = asyncio.create_task(mortal.container.shutdown(as_coro=True))
        await asyncio.sleep(1)
        gate.set()
        await asyncio.gather(stopping, shutting_down)
        assert mortal.log == ["on_stop", "bye"]

    async def test_one_that_is_being_stopped_has_no_more_time_than_the_others(self, world):
        _, mortal, _ = await mortals(world)
        mortal.at_end = hang
        stopping = asyncio.create_task(mortal.stop(timeout=100.0))
        await mortal.stopping.wait()
        started = now()
        await mortal.container.shutdown(as_coro=True, timeout=2.0)
        assert now() <= started + 5
        with pytest.raises(TimeoutError, match="shut down"):
            await stopping

    async def test_one_that_is_stopped_meanwhile_ends_once(self, world):
        _, mortal, _ = await mortals(world)
        async with asyncio.timeout(5):
            await asyncio.gather(
                mortal.container.shutdown(as_coro=True), mortal.stop(), mortal.stop()
            )
        assert mortal.log == ["on_stop"]

    async def test_one_that_is_stopped_during_its_clean_up_ends_once(self, world):
        _, mortal, _ = await mortals(world)
        mortal.at_end = lambda: asyncio.sleep(2)
        shutting_down = asyncio.create_task(mortal.container.shutdown(as_coro=True))
        await mortal.stopping.wait()
        await mortal.stop()
        await shutting_down
        assert mortal.log == ["on_stop", None]

    async def test_one_that_is_stopped_afterwards_does_no_harm(self, world):
        _, mortal, _ = await mortals(world)
        await mortal.container.shutdown(as_coro=True)
        await mortal.stop()
        assert mortal.log == ["on_stop"]

    async def test_a_clean_up_may_stop_its_agent(self, world):
        _, mortal, _ = await mortals(world)
        mortal.at_end = mortal.stop
        async with asyncio.timeout(60):
            await mortal.container.shutdown(as_coro=True)
        assert mortal.log == ["on_stop", None]

    async def test_who_has_stopped_another_one_and_goes_on_is_waited_for(self, world):
        _, mortal, proxy = await mortals(world)
        mortal.known = Mortal(mortal.container)
        call = proxy.stop_another_and_go_on()
        await mortal.holding.wait()
        shutting_down = asyncio.create_task(mortal.container.shutdown(as_coro=True))
        await asyncio.sleep(5)
        assert not shutting_down.done()
        mortal.let_go.set()
        await shutting_down
        await asyncio.gather(call, return_exceptions=True)
        assert mortal.log == ["went on to the end", "on_stop"]

    async def test_a_stop_of_an_own_function_and_a_shutdown_end(self, world):
        _, mortal, proxy = await mortals(world)
        call = proxy.stop_after_a_while()
        await mortal.holding.wait()
        shutting_down = asyncio.create_task(mortal.container.shutdown(as_coro=True))
        await asyncio.sleep(0)
        mortal.let_go.set()
        async with asyncio.timeout(9):
            await asyncio.gather(call, return_exceptions=True)
            await shutting_down
        assert mortal.log == ["on_stop"]
