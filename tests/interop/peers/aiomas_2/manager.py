"""Starts and uses managers of aiomas 2.0.1's child processes, for Python 3.8.

Argument: the path of a Unix socket.  Says the URL of a manager, which is about to listen there.
"""

import asyncio
import sys

import aiomas
from aiomas import subproc
from lines import loop, obey, say


class Child(aiomas.Agent):
    def __init__(self, container, name):
        super().__init__(container)
        self.name = name

    @classmethod
    async def create(cls, container, name):
        return cls(container, name)

    @aiomas.expose
    def greet(self, whom):
        return "%s greets %s" % (self.name, whom)


class Actions:
    def __init__(self, container, manager):
        self.container = container
        self.manager = manager

    async def spawn(self, url, qualname, *args):
        manager = await self.container.connect(url, timeout=10)
        proxy, addr = await manager.spawn(qualname, *args)
        again = await self.container.connect(addr)
        return [await proxy.greet("you"), await again.greet("them"), addr]

    async def stop(self, url):
        manager = await self.container.connect(url)
        return await manager.stop()

    async def wait_for_manager(self):
        return await self.manager


async def main():
    path = sys.argv[1]
    container = await aiomas.Container.create(("127.0.0.1", 0), as_coro=True)
    manager = asyncio.ensure_future(subproc.start(path))
    say("ipc://[%s]/0" % path)
    actions = Actions(container, manager)
    await obey({name: getattr(actions, name) for name in dir(actions) if name[0] != "_"})


if __name__ == "__main__":
    loop.run_until_complete(main())
