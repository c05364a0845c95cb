"""Calls of many agents in several containers, which are all in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

import aiomas
from aiomas import local_queue
from aiomas.agent import Container
from aiomas.cluster import fanout
from aiomas.cluster.container import ClusterContainer
from aiomas.cluster.fanout import map_calls, starmap_calls
from aiomas.exceptions import (
    ConnectionLost,
    DeadlineExceeded,
    Outcome,
    PartialResult,
    RemoteException,
    RemoteLookupError,
    SerializationError,
)
from aiomas.testing import VirtualTimeLoop

KINDS = ["tcp", "unix", "local"]


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualTimeLoop}


class Backwards(aiomas.codecs.Codec):
    """A codec of a user."""

    def encode(self, data: Any) -> bytes:
        try:
            return json.dumps(data, default=self.serialize_obj).encode()[::-1]
        except TypeError as exc:
            raise SerializationError(str(exc)) from exc

    def decode(self, data: bytes) -> Any:
        return json.loads(data[::-1], object_hook=self.deserialize_obj)


class Part:
    router = aiomas.rpc.Service()

    @aiomas.expose
    def double(self, value: int) -> int:
        return 2 * value


class Unit(aiomas.Agent):
    router = aiomas.rpc.Service(["part"])

    def __init__(self, container: Container) -> None:
        super().__init__(container)
        self.part = Part()
        self.log: list[Any] = []
        self.running = 0

    @aiomas.expose
    def add(self, value: int = 0, *, more: int = 0) -> int:
        self.log.append(value)
        return value + more

    @aiomas.expose
    def name(self) -> str:
        return self.addr

    @aiomas.expose
    def keep(self, values: list[int]) -> None:
        self.log = [values]

    @aiomas.expose
    def fail_for(self, value: int) -> int:
        if value % 2:
            msg = f"boom {value}"
            raise ValueError(msg)
        return value

    @aiomas.expose
    async def wait(self, seconds: float) -> float:
        count = Unit.under_way = Unit.under_way + 1
        Unit.most = max(Unit.most, count)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        finally:
            Unit.under_way -= 1
        return seconds

    @aiomas.expose
    def large(self, size: int) -> str:
        self.log.append(size)
        return "x" * size

    @aiomas.expose
    def unsendable(self, value: int) -> Any:
        return object() if value else 0

    @aiomas.expose
    def itself(self) -> Any:
        return self

    @aiomas.expose
    async def ask(self, other: Any) -> Any:
        return await other.name()

    def hidden(self) -> None:
        """Not exposed."""

    under_way = 0
    most = 0


class World:
    def __init__(self, kind: str, unix_path: str) -> None:
        self.kind = kind
        self.unix_path = unix_path
        self.containers: list[Container] = []

    async def container(self, cls: type[Container] = ClusterContainer, **kwds: Any) -> Any:
        name = str(len(self.containers))
        addr: Any = {"tcp": ("127.0.0.1", 0), "unix": self.unix_path + name}.get(self.kind)
        kwds.setdefault("codec", aiomas.MsgPack)
        container = await cls.create(addr or aiomas.get_queue(name), as_coro=True, **kwds)
        self.containers.append(container)
        return container

    async def agents(self, count: int, *, places: int = 2, **kwds: Any) -> tuple[Any, list[Any]]:
        """Return the driver's container and proxies for agents in turns in the others."""
        driver = await self.container(**kwds)
        others = [await self.container(**kwds) for _ in range(places)]
        self.units = [Unit(others[number % places]) for number in range(count)]
        return driver, [driver.proxy(unit.addr) for unit in self.units]


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, unix_path: str) -> AsyncIterator[World]:
    local_queue.clear_queue_cache()
    Unit.under_way = Unit.most = 0
    world = World(request.param, unix_path)
    yield world
    for container in world.containers:
        await container.shutdown(as_coro=True, timeout=1)


def local_only() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("world", ["local"], indirect=True)


def calls_in(container: Container) -> int:
    return container.stats().calls_in


@pytest.fixture
def messages(monkeypatch) -> list[int]:
    """How many calls each message had."""
    counts: list[int] = []
    call_many = ClusterContainer.call_many

    async def counted(self, method, calls, *args, **kwargs):
        counts.append(len(calls))
        return await call_many(self, method, calls, *args, **kwargs)

    counted.__rpc__ = True  # type: ignore[attr-defined]
    monkeypatch.setattr(ClusterContainer, "call_many", counted)
    return counts


class TestResults:
    async def test_come_in_the_order_of_the_agents(self, world):
        driver, proxies = await world.agents(7)
        assert await map_calls(driver, "name", proxies) == [unit.addr for unit in world.units]

    async def test_all_agents_get_the_same_arguments(self, world):
        driver, proxies = await world.agents(5)
        assert await map_calls(driver, "add", proxies, (3,), {"more": 4}) == [7] * 5

    async def test_each_agent_gets_its_own_arguments(self, world):
        driver, proxies = await world.agents(5)
        calls = [(proxy, number) for number, proxy in enumerate(proxies)]
        assert await starmap_calls(driver, "add", calls, {"more": 1}) == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("codec", [aiomas.JSON, aiomas.MsgPack, aiomas.MsgPackBlosc])
    async def test_any_codec_will_do(self, world, codec):
        driver, proxies = await world.agents(4, codec=codec)
        calls = [(proxy, number) for number, proxy in enumerate(proxies)]
        assert await starmap_calls(driver, "add", calls) == [0, 1, 2, 3]
        assert await map_calls(driver, "large", proxies, (3,)) == ["xxx"] * 4

    async def test_a_codec_that_knows_no_bytes_will_do(self, world, messages):
        driver, proxies = await world.agents(4, codec=Backwards)
        calls = [(proxy, number) for number, proxy in enumerate(proxies)]
        assert await starmap_calls(driver, "add", calls) == [0, 1, 2, 3]
        assert messages == []

    async def test_agents_share_no_arguments(self, world):
        driver, proxies = await world.agents(2, places=1, codec=aiomas.JSON)
        await map_calls(driver, "keep", proxies, ([1, 2],))
        one, other = world.units
        one.log[0].append(3)
        assert other.log == [[1, 2]]

    async def test_a_function_of_a_sub_router(self, world):
        driver, proxies = await world.agents(3)
        assert await map_calls(driver, "part/double", proxies, (4,)) == [8, 8, 8]

    async def test_agents_travel_as_arguments_and_results(self, world):
        driver, proxies = await world.agents(4)
        own = Unit(driver)
        answers = await starmap_calls(driver, "ask", [(proxy, own) for proxy in proxies])
        assert answers == [own.addr] * 4
        answers = await starmap_calls(driver, "ask", [(proxy, proxies[-1]) for proxy in proxies])
        assert answers == [world.units[-1].addr] * 4
        found = await map_calls(driver, "itself", proxies)
        assert [await proxy.name() for proxy in found] == [unit.addr for unit in world.units]

    async def test_of_no_agents(self, world):
        driver, _ = await world.agents(0)
        assert await map_calls(driver, "name", []) == []

    async def test_one_agent_may_be_called_many_times(self, world):
        driver, [proxy] = await world.agents(1)
        calls = [(proxy, number) for number in range(600)]
        assert await starmap_calls(driver, "add", calls) == list(range(600))
        assert world.units[0].log == list(range(600))


class TestAgents:
    async def test_the_drivers_own_ones(self, world, messages):
        driver, proxies = await world.agents(2)
        own = [Unit(driver), Unit(driver)]
        mixed = [own[0], proxies[0], driver.proxy(own[1].addr), proxies[1]]
        expected = [own[0].addr, world.units[0].addr, own[1].addr, world.units[1].addr]
        assert await map_calls(driver, "name", mixed) == expected
        assert sorted(messages) == [1, 1, 2]

    async def test_those_of_other_containers_are_called_one_by_one(self, world):
        driver, proxies = await world.agents(2)
        foreign = await world.container(Container)
        units = [Unit(foreign) for _ in range(300)]
        everyone = [*proxies, *(driver.proxy(unit.addr) for unit in units)]
        expected = [unit.addr for unit in [*world.units, *units]]
        assert await map_calls(driver, "name", everyone) == expected
        assert calls_in(foreign) <= 302

    async def test_options_of_a_proxy_count(self, world):
        driver, proxies = await world.agents(2)
        hurried = [aiomas.with_options(proxies[0], timeout=1.0), proxies[1]]
        late, result = await map_calls(driver, "wait", hurried, (2.0,), return_exceptions=True)
        assert isinstance(late, DeadlineExceeded)
        assert result == 2.0
        hurried = [
            aiomas.with_options(proxy, timeout=seconds) for proxy in proxies for seconds in (2, 9)
        ]
        started = asyncio.get_running_loop().time()
        results = await map_calls(
            driver, "wait", hurried, (20.0,), timeout=4.0, return_exceptions=True
        )
        assert all(isinstance(error, DeadlineExceeded) for error in results)
        assert asyncio.get_running_loop().time() == pytest.approx(started + 4, abs=0.1)

    async def test_options_of_a_proxy_count_if_they_are_stricter(self, world):
        driver, [proxy] = await world.agents(1)
        hurried = aiomas.with_options(proxy, timeout=2.0)
        with pytest.raises(PartialResult, match="DeadlineExceeded"):
            await map_calls(driver, "wait", [hurried], (5.0,), timeout=9.0)

    async def test_those_behind_old_connections_are_called_one_by_one(
        self, world, messages, monkeypatch
    ):
        class Old:
            codec = aiomas.MsgPack()
            extended = False
            peer = "old"

        async def link(base_url: str, deadline: float | None = None) -> Any:
            return Old()

        driver, proxies = await world.agents(2)
        monkeypatch.setattr(driver, "link", link)
        assert await map_calls(driver, "add", proxies, (3,)) == [3, 3]
        assert messages == []

    async def test_a_malformed_url_leads_to_no_other_agent(self, world):
        driver, _ = await world.agents(1, places=1)
        base_url, _, aid = world.units[0].addr.rpartition("/")
        strange = driver.proxy(f"{base_url}/strange/{aid}")
        [error] = await map_calls(driver, "add", [strange], return_exceptions=True)
        assert isinstance(error, RemoteLookupError)
        assert world.units[0].log == []

    async def test_what_is_none_is_refused(self, world):
        driver, proxies = await world.agents(1)
        with pytest.raises(TypeError, match="proxies and agents, got 'him'"):
            await map_calls(driver, "name", [*proxies, "him"])
        with pytest.raises(TypeError, match="for each call"):
            await starmap_calls(driver, "name", proxies)
        assert world.units[0].log == []


class TestMessages:
    async def test_there_are_few_of_them(self, world, messages):
        driver, proxies = await world.agents(2000)
        await map_calls(driver, "name", proxies)
        assert sum(messages) == 2000
        assert len(messages) == 8
        assert [calls_in(container) for container in world.containers[1:]] == [1004, 1004]
        assert driver.stats().calls_out >= 2000

    async def test_large_arguments_make_more_of_them(self, world, messages):
        driver, proxies = await world.agents(10, places=1)
        await starmap_calls(driver, "keep", [(proxy, "x" * 300_000) for proxy in proxies])
        assert messages == [3, 3, 3, 1]

    @pytest.mark.parametrize("codec", [aiomas.JSON, aiomas.MsgPack])
    async def test_results_over_the_frame_limit_come_later_and_nothing_runs_twice(
        self, world, messages, codec
    ):
        limits = aiomas.Limits(max_frame=100_000)
        driver, proxies = await world.agents(20, places=1, limits=limits, codec=codec)
        sizes = [size * 4000 for size in range(20)]
        calls = list(zip(proxies, sizes, strict=True))
        assert [len(r) for r in await starmap_calls(driver, "large", calls)] == sizes
        assert messages == [20]
        assert [unit.log for unit in world.units] == [[size] for size in sizes]
        assert world.containers[1]._kept == {}

    async def test_one_result_over_the_limit_fails_alone(self, world):
        limits = aiomas.Limits(max_frame=10_000)
        driver, proxies = await world.agents(3, places=1, limits=limits)
        calls = list(zip(proxies, [10, 20_000, 30], strict=True))
        first, second, third = await starmap_calls(driver, "large", calls, return_exceptions=True)
        assert (len(first), len(third)) == (10, 30)
        assert isinstance(second, RemoteException)
        assert "max_frame" in str(second)

    async def test_arguments_over_the_limit_fail_alone(self, world):
        limits = aiomas.Limits(max_frame=10_000)
        driver, proxies = await world.agents(3, places=1, limits=limits)
        calls = list(zip(proxies, ["a", "b" * 20_000, "c"], strict=True))
        first, second, third = await starmap_calls(driver, "keep", calls, return_exceptions=True)
        assert (first, third) == (None, None)
        assert isinstance(second, SerializationError)
        assert "max_frame" in str(second)
        assert second.outcome is Outcome.NOT_SENT


class TestFailures:
    async def test_they_are_raised_with_all_results(self, world):
        driver, proxies = await world.agents(5)
        calls = [(proxy, number) for number, proxy in enumerate(proxies)]
        with pytest.raises(PartialResult, match="2 of 5 calls of 'fail_for' failed") as caught:
            await starmap_calls(driver, "fail_for", calls)
        results = caught.value.results
        [message] = str(caught.value).splitlines()
        assert "RemoteException: Origin: " in message
        assert "ValueError: " in message
        assert "Traceback" not in message
        assert "Traceback" in str(caught.value.__cause__)
        assert results[::2] == [0, 2, 4]
        assert caught.value.__cause__ in results
        assert all(type(error) is RemoteException for error in results[1::2])

    async def test_they_look_like_those_of_ordinary_calls(self, world):
        driver, [proxy] = await world.agents(1)

        async def both(method: str, *args: Any) -> tuple[Any, Any]:
            with pytest.raises(RemoteException) as caught:
                await getattr(proxy, method)(*args)
            [error] = await map_calls(driver, method, [proxy], args, return_exceptions=True)
            return caught.value, error

        calls: list[tuple[str, tuple[Any, ...]]] = [
            ("fail_for", (1,)),
            ("hidden", ()),
            ("add", (1, 2, 3)),
            ("nothing", ()),
        ]
        for method, args in calls:
            expected, found = await both(method, *args)
            assert (type(found), str(found)) == (type(expected), str(expected))
            assert found.outcome is expected.outcome
            assert found.origin == expected.origin

    async def test_tracebacks_may_be_kept_back(self, world):
        driver, proxies = await world.agents(1, tracebacks=False)
        [error] = await map_calls(driver, "fail_for", proxies, (1,), return_exceptions=True)
        assert error.remote_traceback == "ValueError: boom 1"

    async def test_an_agent_that_is_not_there(self, world):
        driver, proxies = await world.agents(1, places=1)
        stranger = driver.proxy(world.units[0].addr + "9")
        result, error = await map_calls(
            driver, "name", [*proxies, stranger], return_exceptions=True
        )
        assert result == world.units[0].addr
        assert isinstance(error, RemoteLookupError)
        assert error.outcome is Outcome.NOT_EXECUTED

    async def test_arguments_and_results_that_cannot_be_encoded_fail_alone(self, world):
        driver, proxies = await world.agents(2, places=1)
        calls = [(proxies[0], object()), (proxies[1], 0)]
        error, result = await starmap_calls(driver, "unsendable", calls, return_exceptions=True)
        assert isinstance(error, SerializationError)
        assert error.outcome is Outcome.NOT_SENT
        assert result == 0
        calls = [(proxies[0], 1), (proxies[1], 0)]
        error, result = await starmap_calls(driver, "unsendable", calls, return_exceptions=True)
        assert isinstance(error, RemoteException)
        assert error.outcome is Outcome.EXECUTED
        assert "SerializationError" in str(error)
        assert result == 0

    async def test_a_container_that_ends_takes_its_calls_along(self, world):
        driver, proxies = await world.agents(6)
        calls = asyncio.create_task(map_calls(driver, "wait", proxies, (5.0,)))
        await asyncio.sleep(1)
        for client in world.containers[1]._accepted:
            client.channel.transport.abort()
        world.containers[1]._server.close()
        with pytest.raises(PartialResult) as caught:
            await calls
        results = caught.value.results
        assert results[1::2] == [5.0] * 3
        assert all(isinstance(error, ConnectionLost) for error in results[::2])
        assert {error.outcome for error in results[::2]} == {Outcome.MAYBE_EXECUTED}
        assert len({id(error) for error in results[::2]}) == 3

    async def test_a_container_that_is_not_there(self, world):
        driver, proxies = await world.agents(4)
        await world.containers[1].shutdown(as_coro=True)
        results = await map_calls(driver, "name", proxies, return_exceptions=True)
        assert results[1::2] == [unit.addr for unit in world.units[1::2]]
        assert all(isinstance(error, ConnectionLost) for error in results[::2])
        assert {error.outcome for error in results[::2]} == {Outcome.NOT_SENT}

    @local_only()
    @pytest.mark.parametrize("method", ["_private", "part/_double", "__class__"])
    async def test_private_names_are_refused(self, world, method):
        driver, proxies = await world.agents(1)
        with pytest.raises(AttributeError, match="private"):
            await map_calls(driver, method, proxies)

    @local_only()
    @pytest.mark.parametrize("method", ["", "part/", "/name", 3])
    async def test_what_is_no_name_is_refused(self, world, method):
        driver, proxies = await world.agents(1)
        with pytest.raises(ValueError, match="name of an exposed function"):
            await map_calls(driver, method, proxies)

    @local_only()
    @pytest.mark.parametrize("bad", [{"concurrency": 0}, {"concurrency": True}, {"timeout": 0}])
    async def test_parameters_have_to_be_positive(self, world, bad):
        driver, proxies = await world.agents(1)
        with pytest.raises(ValueError, match="positive number"):
            await map_calls(driver, "name", proxies, **bad)


class TestTime:
    async def test_what_is_late_fails_and_the_others_have_their_results(self, world):
        driver, proxies = await world.agents(6)
        calls = [(proxy, 1.0 if number < 4 else 9.0) for number, proxy in enumerate(proxies)]
        started = asyncio.get_running_loop().time()
        results = await starmap_calls(driver, "wait", calls, timeout=3.0, return_exceptions=True)
        assert asyncio.get_running_loop().time() == pytest.approx(started + 3, abs=0.1)
        assert results[:4] == [1.0] * 4
        assert all(isinstance(error, DeadlineExceeded) for error in results[4:])
        assert {error.outcome for error in results[4:]} == {Outcome.MAYBE_EXECUTED}
        await asyncio.sleep(0.1)
        assert [unit.log for unit in world.units[4:]] == [["cancelled"]] * 2

    async def test_a_default_is_for_each_of_the_calls(self, world):
        driver, proxies = await world.agents(4, places=1, call_timeout=3.0)
        assert await map_calls(driver, "wait", proxies, (2.0,), concurrency=1) == [2.0] * 4
        with pytest.raises(PartialResult, match="DeadlineExceeded"):
            await map_calls(driver, "wait", proxies, (4.0,))
        assert await map_calls(driver, "wait", proxies, (4.0,), timeout=5.0) == [4.0] * 4

    async def test_what_does_not_get_its_turn_is_not_sent(self, world):
        driver, proxies = await world.agents(3, places=1)
        results = await map_calls(
            driver, "wait", proxies, (2.0,), timeout=3.0, concurrency=1, return_exceptions=True
        )
        assert results[0] == 2.0
        assert [error.outcome for error in results[1:]] == [
            Outcome.MAYBE_EXECUTED,
            Outcome.NOT_SENT,
        ]

    async def test_a_silent_container_is_not_waited_for(self, world, monkeypatch):
        driver, proxies = await world.agents(2)
        await map_calls(driver, "name", proxies)
        for client in world.containers[1]._accepted:
            monkeypatch.setattr(client.channel.transport, "write", lambda data: None)
        started = asyncio.get_running_loop().time()
        error, result = await map_calls(
            driver, "name", proxies, timeout=3.0, return_exceptions=True
        )
        assert isinstance(error, DeadlineExceeded)
        assert result == world.units[1].addr
        waited = asyncio.get_running_loop().time() - started
        assert waited == pytest.approx(3 + fanout._GRACE, abs=0.1)

    @pytest.mark.parametrize("concurrency", [1, 3, 8])
    async def test_so_many_calls_are_under_way(self, world, concurrency):
        driver, proxies = await world.agents(20)
        await map_calls(driver, "wait", proxies, (1.0,), concurrency=concurrency)
        assert Unit.most <= concurrency
        assert Unit.most >= concurrency // 2 + 1

    async def test_so_many_single_calls_are_under_way(self, world):
        driver = await world.container()
        foreign = await world.container(Container)
        proxies = [driver.proxy(Unit(foreign).addr) for _ in range(20)]
        await map_calls(driver, "wait", proxies, (1.0,), concurrency=5)
        assert Unit.most == 5

    async def test_cancelling_it_cancels_all_calls(self, world):
        driver, proxies = await world.agents(6)
        own, foreign = Unit(driver), Unit(await world.container(Container))
        everyone = [*proxies, own, driver.proxy(foreign.addr)]
        calls = asyncio.create_task(map_calls(driver, "wait", everyone, (50.0,)))
        await asyncio.sleep(1)
        assert Unit.under_way == 8
        calls.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls
        await asyncio.sleep(1)
        assert Unit.under_way == 0
        assert [unit.log for unit in [*world.units, own, foreign]] == [["cancelled"]] * 8
        assert await map_calls(driver, "add", everyone, (1,)) == [1] * 8
