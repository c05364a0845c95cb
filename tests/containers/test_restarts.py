"""A container that comes back at its address: old proxies work again, wherever they came from."""

from __future__ import annotations

import pytest

from aiomas.exceptions import ConnectionLost, Outcome

from .world import until

pytestmark = pytest.mark.parametrize("world", ["tcp", "unix", "local"], indirect=True)


async def test_a_proxy_works_again(world):
    _, other, proxy = await world.pair()
    assert await proxy.echo(1) == 1
    again = await world.restart(other)
    assert await proxy.echo(2) == 2
    assert again.log == [2]


async def test_a_proxy_works_again_each_time(world):
    _, other, proxy = await world.pair()
    for count in range(5):
        other = await world.restart(other)
        assert await proxy.echo(count) == count


async def test_meanwhile_calls_fail_unsent(world):
    _, other, proxy = await world.pair()
    await other.container.shutdown(as_coro=True)
    with pytest.raises(ConnectionLost) as caught:
        await proxy.echo(1)
    assert caught.value.outcome is Outcome.NOT_SENT
    again = await world.restart(other)
    assert await proxy.echo(2) == 2
    assert again.log == [2]


async def test_a_proxy_that_came_as_an_agent_works_again(world):
    one, other, proxy = await world.pair()
    await proxy.know(one)
    again = await world.restart(one)
    await until(lambda: not other.container._accepted)
    assert await other.known.echo(1) == 1
    assert again.log == [1]


async def test_a_proxy_that_came_as_a_proxy_works_again(world):
    one, other, proxy = await world.pair()
    third = await world.worker()
    await proxy.know(await one.container.connect(third.addr))
    assert await other.known.echo(1) == 1
    again = await world.restart(third)
    assert await other.known.echo(2) == 2
    assert again.log == [2]


async def test_a_proxy_that_came_as_a_result_works_again(world):
    _, other, proxy = await world.pair()
    other.known = other
    result = await proxy.give()
    again = await world.restart(other)
    assert await result.echo(1) == 1
    assert again.log == [1]


async def test_one_that_comes_back_knows_nothing_of_its_calls(world):
    _, other, proxy = await world.pair()
    call = proxy.hold()
    await other.holding.wait()
    other.let_go.set()
    assert await call is None
    again = await world.restart(other)
    assert again.container.stats().calls_in == 0
    await proxy.echo()
    assert again.container.stats().serving == 0
