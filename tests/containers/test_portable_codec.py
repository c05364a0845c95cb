"""Values that travel from container to container without a connection between them."""

from __future__ import annotations

from typing import Any

import arrow
import pytest

import aiomas
from aiomas import codecs, rpc
from aiomas.exceptions import DecodeError, SerializationError

from .world import Worker

CODECS = [codecs.JSON, codecs.MsgPack]


class Part:
    router = rpc.Service()


class Whole(Worker):
    router = rpc.Service(["part"])

    def __init__(self, container: Any) -> None:
        super().__init__(container)
        self.part = Part()


async def test_an_agent_arrives_as_a_proxy(world):
    one, other = await world.worker(), await world.worker()
    value = {"agents": [one, other.container.proxy(one.addr)]}
    data = one.container._portable_codec().encode({"agents": [one]})
    [proxy] = other.container._portable_codec().decode(data)["agents"]
    assert await proxy.echo("spam") == "spam"
    assert one.log == ["spam"]
    assert aiomas.agent.url_of(proxy) == one.addr
    assert value["agents"][0] is one


async def test_a_proxy_arrives_as_one_wherever_its_agent_is(world):
    one, other, third = [await world.worker() for _ in range(3)]
    proxy = await one.container.connect(third.addr)
    data = one.container._portable_codec().encode([proxy, one])
    there, back = other.container._portable_codec().decode(data)
    assert await there.echo("spam") == "spam"
    assert third.log == ["spam"]
    home, _ = third.container._portable_codec().decode(data)
    assert await home.echo("eggs") == "eggs"
    assert back == other.container.proxy(one.addr)


@pytest.mark.parametrize("world", ["local"], indirect=True)
class TestCodec:
    @pytest.mark.parametrize("codec", CODECS)
    async def test_it_is_that_of_the_container(self, world, codec):
        kwds: Any = {"codec": codec, "extra_serializers": [codecs.uuid_serializer]}
        one = await world.worker(**kwds)
        portable = one.container._portable_codec()
        assert type(portable) is codec
        assert portable.type_names == ["Arrow", "UUID", "object"]
        when = arrow.get("2024-05-06")
        assert portable.decode(portable.encode({"when": when})) == {"when": when}

    async def test_it_has_the_limits_of_the_container(self, world):
        one = await world.worker(limits=aiomas.Limits(max_nesting=3))
        portable = one.container._portable_codec()
        with pytest.raises(DecodeError, match="max_nesting=3"):
            portable.decode(portable.encode([[[[[1]]]]]))

    async def test_an_object_of_another_kind_cannot_travel(self, world):
        one = await world.worker()
        with pytest.raises(SerializationError, match="There is no serializer for"):
            one.container._portable_codec().encode([object()])

    async def test_nor_can_a_part_of_an_agent(self, world):
        agent = Whole(await world.container())
        assert agent.router.path == "agents/0"
        with pytest.raises(SerializationError, match="is no agent"):
            agent.container._portable_codec().encode(agent.part)

    async def test_nor_an_agent_of_another_container_or_one_that_was_stopped(self, world):
        one, other = await world.worker(), await world.worker()
        with pytest.raises(SerializationError, match="is not served"):
            one.container._portable_codec().encode(other)
        await one.stop()
        with pytest.raises(SerializationError, match="is no agent"):
            one.container._portable_codec().encode(one)

    async def test_nor_a_proxy_that_stands_for_no_agent(self, world):
        one, _, proxy = await world.pair()
        with pytest.raises(SerializationError, match="stands for no agent"):
            one.container._portable_codec().encode(proxy.echo)

    @pytest.mark.parametrize("url", ["", "agents/0", "local://x", 5])
    async def test_what_is_no_url_does_not_arrive(self, world, url):
        one = await world.worker()
        data = codecs.JSON().encode({"__type__": [1, url]})
        with pytest.raises(DecodeError):
            one.container._portable_codec().decode(data)
