"""Section 1.1: what each of the three layers promises."""

from __future__ import annotations

import pytest

import aiomas


async def test_section_1_1_a_channel_sends_values_and_awaits_replies():
    async def handle_client(channel):
        request = await channel.recv()
        await request.reply([request.content, request.content])
        await channel.close()

    async with await aiomas.channel.start_server(("127.0.0.1", 0), handle_client) as server:
        channel = await aiomas.channel.open_connection(server.sockets[0].getsockname())
        request = ["a string", [1, 2.5, None], {"and": True}]
        reply = await channel.send(request)
        await channel.close()

    assert reply == [request, request]


@pytest.mark.parametrize("codec", [aiomas.JSON, aiomas.MsgPack, aiomas.MsgPackBlosc])
async def test_section_1_1_a_channel_has_a_codec(codec):
    async def handle_client(channel):
        request = await channel.recv()
        await request.reply(type(channel.codec).__name__)
        await channel.close()

    async with await aiomas.channel.start_server(
        ("127.0.0.1", 0), handle_client, codec=codec
    ) as server:
        channel = await aiomas.channel.open_connection(server.sockets[0].getsockname(), codec=codec)
        assert await channel.send(None) == codec.__name__
        await channel.close()


class Service:
    router = aiomas.rpc.Service()

    @aiomas.expose
    def method(self, name, *, eggs):
        return [name, eggs]


@aiomas.expose
def method(name, *, eggs):
    return [name, eggs]


@pytest.mark.parametrize("service", [Service(), aiomas.rpc.RoutingDict({"method": method})])
async def test_section_1_1_rpc_calls_methods_of_an_object_and_functions_in_a_dict(service):
    async with await aiomas.rpc.start_server(("127.0.0.1", 0), service.router) as server:
        client = await aiomas.rpc.open_connection(server.sockets[0].getsockname())
        remote = client.remote

        return_value = await remote.method("spam", eggs=3.14)

        assert return_value == ["spam", 3.14]
        await client.close()


async def test_section_1_1_thousands_of_agents_share_a_connection():
    class Agent(aiomas.Agent):
        @aiomas.expose
        def name(self):
            return self.addr

    async with (
        aiomas.Container.open(("127.0.0.1", 0)) as here,
        aiomas.Container.open(("127.0.0.1", 0)) as there,
    ):
        agents = [Agent(there) for _ in range(1000)]
        proxies = [await here.connect(agent.addr) for agent in agents]

        assert [await proxy.name() for proxy in proxies] == [agent.addr for agent in agents]
        assert len(there._accepted) == 1


async def test_section_1_1_a_container_has_a_clock():
    clock = aiomas.ExternalClock("2015-01-01")
    async with (
        aiomas.Container.open(("127.0.0.1", 0)) as real,
        aiomas.Container.open(("127.0.0.1", 0), clock=clock) as simulated,
    ):
        assert isinstance(real.clock, aiomas.AsyncioClock)
        assert simulated.clock is clock
