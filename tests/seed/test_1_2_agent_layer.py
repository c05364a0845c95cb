"""Section 1.2: agents, their containers, and calls between them."""

# ruff: noqa: T201 - the examples print what they show

from __future__ import annotations

import asyncio

import pytest

import aiomas


def test_section_1_2_1_agents_are_identified_by_the_containers_address_and_an_id(loop):
    container = aiomas.Container.create(("localhost", 0))
    agents = [aiomas.Agent(container) for _ in range(3)]
    container.shutdown()

    assert [agent.addr for agent in agents] == [f"{container.base_url}{i}" for i in range(3)]
    assert container.base_url.startswith("tcp://localhost:")


async def test_section_1_2_1_reactive_and_proactive_agents():
    class Both(aiomas.Agent):
        @aiomas.expose
        def react(self, value):
            return value + 1

        async def act(self, addr):
            other = await self.container.connect(addr)
            return await asyncio.gather(*(other.react(i) for i in range(3)))

    async with (
        aiomas.Container.open(("127.0.0.1", 0)) as one,
        aiomas.Container.open(("127.0.0.1", 0)) as two,
    ):
        a, b = Both(one), Both(two)
        assert await a.act(b.addr) == [1, 2, 3]
        assert await b.act(a.addr) == [1, 2, 3]


async def test_section_1_2_1_a_second_agent_of_a_container_is_reached_by_the_same_connection():
    async with (
        aiomas.Container.open(("127.0.0.1", 0)) as one,
        aiomas.Container.open(("127.0.0.1", 0)) as two,
    ):
        a, b = aiomas.Agent(one), aiomas.Agent(one)
        await two.connect(a.addr)
        await two.connect(b.addr)

        assert len(one._accepted) == 1


def test_section_1_2_2_hello_world(loop, capsys):
    class HelloWorld(aiomas.Agent):
        def __init__(self, container, name):
            super().__init__(container)
            self.name = name

        async def run(self):
            print(self.name, "says:")
            clock = self.container.clock
            for _ in range(3):
                await clock.sleep(0.1)
                print("Hello, World!")

    container = aiomas.Container.create(("localhost", 0))
    agent = HelloWorld(container, "Monty")
    aiomas.run(until=agent.run())
    container.shutdown()

    assert capsys.readouterr().out == "Monty says:\n" + 3 * "Hello, World!\n"


def test_section_1_2_2_run_uses_the_current_event_loop(loop):
    async def which():
        return asyncio.get_running_loop()

    assert aiomas.run(which()) is loop
    assert aiomas.run(until=which()) is loop


def test_section_1_2_3_calling_other_agents_methods(loop, capsys):
    class Callee(aiomas.Agent):
        @aiomas.expose
        def spam(self, times):
            """Return a lot of spam."""
            return "spam" * times

    class Caller(aiomas.Agent):
        async def run(self, callee_addr):
            print(self, "connecting to", callee_addr)
            callee = await self.container.connect(callee_addr)
            print(self, "connected to", callee)
            result = await callee.spam(3)
            print(self, "got", result)

    container = aiomas.Container.create(("localhost", 0))
    callee = Callee(container)
    caller = Caller(container)
    aiomas.run(until=caller.run(callee.addr))
    container.shutdown()

    base = container.base_url
    assert capsys.readouterr().out.splitlines() == [
        f"Caller('{base}1') connecting to {base}0",
        f"Caller('{base}1') connected to CalleeProxy('{base}0')",
        f"Caller('{base}1') got spamspamspam",
    ]


@pytest.mark.parametrize("containers", [1, 2], ids=["one container", "two containers"])
async def test_section_1_2_3_functions_and_coroutines_can_be_exposed_and_others_are_not(containers):
    class Callee(aiomas.Agent):
        @aiomas.expose
        def function(self):
            return "function"

        @aiomas.expose
        async def coroutine(self):
            await asyncio.sleep(0)
            return "coroutine"

        def hidden(self):
            raise AssertionError("must not be called")

    async with (
        aiomas.Container.open(("127.0.0.1", 0)) as one,
        aiomas.Container.open(("127.0.0.1", 0)) as two,
    ):
        callee = Callee(one)
        proxy = await [one, two][containers - 1].connect(callee.addr)

        assert await proxy.function() == "function"
        assert await proxy.coroutine() == "coroutine"
        with pytest.raises(aiomas.RemoteException):
            await proxy.hidden()
        with pytest.raises(aiomas.exceptions.SerializationError):
            await proxy.function(object())
