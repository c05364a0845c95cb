"""A channel's server and client of aiomas 2.0.1, for Python 3.8.

Arguments: the name of the codec, and the path of a Unix socket (none: TCP).  Says the server's
address.
"""

import asyncio
import sys

import aiomas
from aiomas import channel as channels
from lines import described, loop, obey, say


async def serve(channel):
    """Answer requests as the twin of this function in the test does."""
    held = []
    try:
        while True:
            request = await channel.recv()
            what, *args = request.content
            if what == "echo":
                await request.reply(args[0])
            elif what == "fail":
                await request.fail(ValueError("boom"))
            elif what == "ask back":
                await request.reply(await channel.send(["echo", args[0]]))
            elif what == "hold":  # answer in the reverse order
                held.append(request)
                if len(held) == args[0]:
                    for number, kept in enumerate(reversed(held)):
                        await kept.reply(number)
            elif what == "hang up":
                await channel.close()
    except ConnectionError:
        pass


class Actions:
    def __init__(self, codec):
        self.codec = codec
        self.channel = None

    async def connect(self, addr):
        addr = addr if isinstance(addr, str) else tuple(addr)
        self.channel = await channels.open_connection(addr, codec=self.codec)
        asyncio.ensure_future(serve(self.channel))

    async def send(self, content):
        return await self.channel.send(content)

    async def send_many(self, contents):
        return await asyncio.gather(*[self.channel.send(content) for content in contents])

    async def send_too_late(self):
        try:
            await self.channel.send(["hang up"])
        except ConnectionError as exc:
            return described(exc)

    async def close(self):
        await self.channel.close()


async def main():
    codec, path = getattr(aiomas, sys.argv[1]), sys.argv[2:]
    addr = path[0] if path else ("127.0.0.1", 0)
    server = await channels.start_server(addr, serve, codec=codec)
    say(server.sockets[0].getsockname())
    actions = Actions(codec)
    await obey({name: getattr(actions, name) for name in dir(actions) if name[0] != "_"})


loop.run_until_complete(main())
