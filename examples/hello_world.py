"""Hello World: one agent, in one container, that does something by itself.

The agent greets three times.  It sleeps by its container's clock, so that the same agent could
also live in a simulation, where time passes faster.

Run it with ``python examples/hello_world.py``.
"""

from __future__ import annotations

import asyncio

import aiomas


class Greeter(aiomas.Agent):
    def __init__(self, container: aiomas.Container, name: str) -> None:
        super().__init__(container)  # this gives the agent its address
        self.name = name

    async def run(self) -> None:
        for count in range(1, 4):
            await self.container.clock.sleep(0.1)
            print(f"{self.name} says for the {count}. time: Hello, world!")


async def main() -> None:
    # Port 0: the system chooses a port that is free.
    async with aiomas.Container.open(("127.0.0.1", 0)) as container:
        greeter = Greeter(container, "Ada")
        print(f"{greeter.name} lives at {greeter.addr}")
        await greeter.run()


if __name__ == "__main__":
    asyncio.run(main())
