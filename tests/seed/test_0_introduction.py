"""The first page of the original documentation."""

# ruff: noqa: T201 - the examples print what they show

from __future__ import annotations

import re

import aiomas


def test_section_0_introduction_a_simple_multi_agent_system(loop, capsys):
    class TestAgent(aiomas.Agent):
        def __init__(self, container):
            super().__init__(container)
            print(f"Ohai, I am {self}")

        async def run(self, addr):
            remote_agent = await self.container.connect(addr)
            ret = await remote_agent.service(42)
            print(f"{self} got {ret} from {remote_agent}")

        @aiomas.expose
        def service(self, value):
            return value

    c = aiomas.Container.create(("localhost", 0))
    agents = [TestAgent(c) for i in range(2)]
    aiomas.run(until=agents[0].run(agents[1].addr))
    c.shutdown()

    base = re.escape(c.base_url)
    assert re.match(r"tcp://localhost:\d+/$", c.base_url)
    assert re.fullmatch(
        rf"Ohai, I am TestAgent\('{base}0'\)\n"
        rf"Ohai, I am TestAgent\('{base}1'\)\n"
        rf"TestAgent\('{base}0'\) got 42 from TestAgentProxy\('{base}1'\)\n",
        capsys.readouterr().out,
    )
