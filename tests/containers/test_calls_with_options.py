"""Calls with a deadline, without a reply, and that are repeated; what a handler can see of them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import aiomas
from aiomas.exceptions import (
    ConnectionLost,
    DeadlineExceeded,
    Outcome,
    RemoteLookupError,
    ShuttingDown,
)

from .world import Worker, World, cut_all, until


def now() -> float:
    return asyncio.get_running_loop().time()


def connections(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("world", kinds or ("tcp", "unix", "local"), indirect=True)


class Relay(Worker):
    """Looks how much time is left, takes some of it, and calls the next one."""

    @aiomas.expose
    async def pass_on(self, duration: float) -> list[float | None]:
        left = aiomas.current_call().time_left()
        await asyncio.sleep(duration)
        if self.known is None:
            return [left]
        later: list[float | None] = await self.known.pass_on(duration)
        return [left, *later]

    @aiomas.expose
    async def pass_on_with_more_time(self) -> float | None:
        await aiomas.with_options(self.known, timeout=1000.0).note()
        return self.known is None

    @aiomas.expose
    async def note(self) -> None:
        self.log.append(aiomas.current_call().time_left())

    @aiomas.expose
    async def call_too_late(self) -> None:
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            for method in ("echo", "hold"):
                try:
                    await getattr(self.known, method)()
                except DeadlineExceeded as exc:
                    self.log.append(exc.outcome)


class Flaky(Worker):
    """Breaks connections before it replies."""

    @aiomas.expose(idempotent=True)
    async def safe(self) -> int:
        return self.cut_twice()

    @aiomas.expose
    async def unsafe(self) -> int:
        return self.cut_twice()

    def cut_twice(self) -> int:
        self.log.append("called")
        if len(self.log) <= 2:
            cut_all(self.container)
        return len(self.log)


async def relays(world: World, count: int) -> list[Relay]:
    chain: list[Relay] = []
    for _ in range(count):
        relay = Relay(await world.container())
        world.take(relay)
        if chain:
            chain[-1].known = await chain[-1].container.connect(relay.addr)
        chain.append(relay)
    return chain


class TestDeadlines:
    async def test_a_late_call_fails_on_time_and_its_function_is_cancelled(self, world):
        _, other, proxy = await world.pair()
        started = now()
        with pytest.raises(DeadlineExceeded) as caught:
            await aiomas.with_options(proxy, timeout=3.0).hold()
        assert now() == pytest.approx(started + 3, abs=0.01)
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        assert isinstance(caught.value, TimeoutError)
        await until(lambda: other.log == ["cancelled"])
        assert await proxy.echo(1) == 1

    async def test_a_function_in_time_is_left_alone(self, world):
        _, other, proxy = await world.pair()
        call = aiomas.with_options(proxy, timeout=3.0).hold("done")
        await other.holding.wait()
        await asyncio.sleep(2.9)
        other.let_go.set()
        assert await call == "done"
        await asyncio.sleep(1)
        assert other.log == []

    async def test_it_shrinks_over_three_hops(self, world):
        first, *_ = await relays(world, 4)
        caller = await world.worker()
        proxy = await caller.container.connect(first.addr)
        left = await aiomas.with_options(proxy, timeout=10.0).pass_on(1.0)
        assert left == [pytest.approx(expected, abs=0.05) for expected in (10, 9, 8, 7)]

    async def test_it_ends_the_last_of_three_hops(self, world):
        first, *_, last = await relays(world, 4)
        proxy = await (await world.worker()).container.connect(first.addr)
        started = now()
        with pytest.raises(DeadlineExceeded):
            await aiomas.with_options(proxy, timeout=3.5).pass_on(1.0)
        assert now() == pytest.approx(started + 3.5, abs=0.01)
        await until(lambda: not last.container._handlers)

    async def test_a_function_cannot_give_more_time_than_it_has(self, world):
        first, second = await relays(world, 2)
        proxy = await (await world.worker()).container.connect(first.addr)
        await aiomas.with_options(proxy, timeout=5.0).pass_on_with_more_time()
        assert second.log == [pytest.approx(5, abs=0.05)]

    async def test_a_call_whose_time_is_up_when_it_is_made_does_not_run(self, world):
        first, second = await relays(world, 2)
        proxy = await (await world.worker()).container.connect(first.addr)
        with pytest.raises(DeadlineExceeded):
            await aiomas.with_options(proxy, timeout=5.0).call_too_late()
        await until(lambda: len(first.log) == 2)
        assert all(outcome.has_not_run for outcome in first.log)
        assert second.calls == []

    async def test_a_container_has_a_default(self, world):
        _, other, proxy = await world.pair(call_timeout=2.0)
        with pytest.raises(DeadlineExceeded):
            await proxy.hold()
        other.holding.clear()
        longer = aiomas.with_options(proxy, timeout=5.0).hold(1)
        await other.holding.wait()
        await asyncio.sleep(4)
        other.let_go.set()
        assert await longer == 1

    async def test_without_one_there_is_none(self, world):
        _, other, proxy = await world.pair()
        await proxy.echo()
        (call,) = other.calls
        assert call.deadline is None
        assert call.time_left() is None

    @connections("tcp", "unix", "local")
    async def test_it_counts_from_the_call_if_there_is_no_connection_yet(self, world, monkeypatch):
        one = await world.worker()

        async def never(*_args: Any, **_kwds: Any) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr("aiomas.channel.dial", never)
        proxy = one.container.proxy("local://nobody/0")
        started = now()
        with pytest.raises(DeadlineExceeded) as caught:
            await aiomas.with_options(proxy, timeout=3.0).echo()
        assert now() == pytest.approx(started + 3, abs=0.01)
        assert caught.value.outcome is Outcome.NOT_SENT


class Behind:
    """An event loop whose clock has stood still for a while."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def time(self) -> float:
        return self._loop.time() - self._seconds

    def call_at(self, when: float, *args: Any, **kwds: Any) -> asyncio.TimerHandle:
        return self._loop.call_at(when + self._seconds, *args, **kwds)


@pytest.mark.parametrize("world", ["tcp", "unix"], indirect=True)
async def test_a_caller_whose_clock_has_stood_still_is_asked_for_its_time_at_once(world):
    one, other, proxy = await world.pair()
    patient = aiomas.with_options(proxy, timeout=5.0)
    assert await patient.echo(1) == 1
    (client,) = one.container._pool.clients
    protocol = client.channel._protocol
    protocol._loop = protocol.outgoing._loop = Behind(protocol._loop, 20.0)
    with pytest.raises(DeadlineExceeded) as caught:  # it seems to have waited for 20 s
        await patient.echo(2)
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    for value in range(3, 10):
        assert await patient.echo(value) == value
    assert other.log == [1, *range(3, 10)]


class TestOneWay:
    async def test_it_runs_and_there_is_no_result(self, world):
        _, other, proxy = await world.pair()
        assert await aiomas.with_options(proxy, one_way=True).echo(1) is None
        await until(lambda: other.log == [1])
        assert other.calls[0].one_way

    async def test_it_does_not_wait_for_the_end(self, world):
        _, other, proxy = await world.pair()
        await aiomas.with_options(proxy, one_way=True).hold()
        await other.holding.wait()
        assert len(other.container._handlers) == 1

    async def test_they_stay_in_order_with_others(self, world):
        _, other, proxy = await world.pair()
        one_way = aiomas.with_options(proxy, one_way=True)
        for value in range(0, 20, 2):
            one_way.echo(value)
            proxy.echo(value + 1)
        await proxy.echo(20)
        assert other.log == list(range(21))

    async def test_an_error_is_logged_where_it_happened(self, world, caplog):
        _, _, proxy = await world.pair()
        await aiomas.with_options(proxy, one_way=True).fail()
        await proxy.echo()
        (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert record.name.startswith("aiomas.")
        assert "/fail" in record.getMessage()
        assert "boom" in str(record.exc_info)

    async def test_a_call_of_nothing_does_no_harm(self, world):
        _, _, proxy = await world.pair()
        await aiomas.with_options(proxy, one_way=True).nothing()
        assert await proxy.echo(1) == 1

    async def test_with_a_deadline_the_function_is_cancelled(self, world):
        _, other, proxy = await world.pair()
        await aiomas.with_options(proxy, one_way=True, timeout=2.0).hold()
        await other.holding.wait()
        await asyncio.sleep(2.1)
        assert other.log == ["cancelled"]

    async def test_a_caller_that_shuts_down_has_sent_it(self, world):
        if world.kind == "inside":
            return
        one, other, proxy = await world.pair()
        calls = [aiomas.with_options(proxy, one_way=True).echo(i) for i in range(10)]
        await asyncio.gather(*calls)
        await one.container.shutdown(as_coro=True)
        await until(lambda: other.log == list(range(10)))


class TestRetries:
    @connections()
    async def test_an_idempotent_function_is_called_again(self, world):
        one, flaky = await world.worker(), world.take(Flaky(await world.container()))
        proxy = await one.container.connect(flaky.addr)
        assert await aiomas.with_options(proxy, retries=2).safe() == 3
        assert one.container.stats().pending == 0

    @connections()
    async def test_not_more_often_than_asked_for(self, world):
        one, flaky = await world.worker(), world.take(Flaky(await world.container()))
        proxy = await one.container.connect(flaky.addr)
        with pytest.raises(ConnectionLost) as caught:
            await aiomas.with_options(proxy, retries=1).safe()
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        assert flaky.log == ["called"] * 2

    @connections()
    async def test_another_function_runs_once_and_the_first_error_is_raised(self, world):
        one, flaky = await world.worker(), world.take(Flaky(await world.container()))
        proxy = await one.container.connect(flaky.addr)
        with pytest.raises(ConnectionLost) as caught:
            await aiomas.with_options(proxy, retries=5).unsafe()
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        assert flaky.log == ["called"]

    @connections()
    async def test_within_the_time_of_the_call(self, world):
        one, other, proxy = await world.pair()
        await other.container.shutdown(as_coro=True)
        started = now()
        with pytest.raises((ConnectionLost, DeadlineExceeded)) as caught:
            await aiomas.with_options(proxy, retries=1000, timeout=5.0).echo()
        assert caught.value.outcome is Outcome.NOT_SENT
        assert now() <= started + 5.01
        assert one.container.stats().pending == 0

    @connections()
    async def test_it_finds_a_container_that_comes_back(self, world):
        _, other, proxy = await world.pair()
        await other.container.shutdown(as_coro=True)
        call = aiomas.with_options(proxy, retries=20).look()
        await asyncio.sleep(5)
        assert not call.done()
        await world.restart(other)
        assert await call == "seen"

    @connections()
    async def test_one_refused_by_a_container_that_ends_reaches_the_next_one(self, world):
        _, other, proxy = await world.pair()
        held = proxy.hold()
        await other.holding.wait()
        restarting = asyncio.create_task(world.restart(other))
        await asyncio.sleep(1)
        with pytest.raises(ShuttingDown) as caught:
            await proxy.look()
        assert caught.value.outcome is Outcome.NOT_EXECUTED
        call = aiomas.with_options(proxy, retries=20).look()
        await asyncio.sleep(1)
        assert not call.done()
        other.let_go.set()
        again = await restarting
        assert await call == "seen"
        assert again.container.stats().calls_in >= 1
        await asyncio.gather(held, return_exceptions=True)

    async def test_they_change_nothing_where_nothing_fails(self, world):
        _, other, proxy = await world.pair()
        assert await aiomas.with_options(proxy, retries=3).echo(1) == 1
        with pytest.raises(aiomas.RemoteException, match="boom"):
            await aiomas.with_options(proxy, retries=3).fail()
        assert other.log == [1]


class TestCurrentCall:
    async def test_it_says_who_calls_what(self, world):
        one, other, proxy = await world.pair()
        await proxy.echo()
        (call,) = other.calls
        assert call.path == f"agents/{other.aid}/echo"
        assert call.peer_url == one.container.base_url
        assert call.peer is not None
        assert not call.one_way
        assert one.container.base_url in repr(call)

    async def test_it_says_so_to_whoever_is_called_back(self, world):
        one, other, proxy = await world.pair()
        await proxy.ask(one, "echo")
        (call,) = one.calls
        assert call.peer_url == other.container.base_url

    @pytest.mark.parametrize("is_async", [False, True])
    async def test_outside_of_a_call_there_is_none(self, world, is_async):
        with pytest.raises(LookupError, match="current_call"):
            aiomas.current_call()
        _, other, proxy = await world.pair()

        async def outlive() -> None:
            await other.let_go.wait()
            with pytest.raises(LookupError):
                aiomas.current_call()

        tasks = []

        def start() -> None:
            aiomas.current_call()
            tasks.append(asyncio.create_task(outlive()))

        async def start_later() -> None:
            start()

        other.start = aiomas.expose(start_later if is_async else start)
        await proxy.start()
        other.let_go.set()
        await tasks[0]

    async def test_concurrent_calls_see_their_own(self, world):
        _, other, proxy = await world.pair()
        calls = [aiomas.with_options(proxy, timeout=float(t)).hold() for t in (10, 20, 30)]
        await until(lambda: len(other.calls) == 3)
        left = [call.time_left() for call in other.calls]
        assert left == [pytest.approx(t, abs=0.1) for t in (10, 20, 30)]
        other.let_go.set()
        await asyncio.gather(*calls)


async def test_an_unknown_function_is_a_lookup_error_that_has_not_run(world):
    _, _, proxy = await world.pair()
    with pytest.raises(RemoteLookupError) as caught:
        await proxy.nothing()
    assert caught.value.outcome is Outcome.NOT_EXECUTED


async def test_what_a_function_raises_has_run(world):
    _, _, proxy = await world.pair()
    with pytest.raises(aiomas.RemoteException) as caught:
        await proxy.fail()
    assert caught.value.outcome is Outcome.EXECUTED
