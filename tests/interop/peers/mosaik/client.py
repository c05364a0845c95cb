"""The dialling end of a connection, with mosaik's own channel.

Argument: the port.
"""

import asyncio
import sys

from mosaik_api_v3.connection import Channel, EndOfRequests, RemoteException
from lines import loop, obey, say


class Actions:
    def __init__(self, channel):
        self.channel = channel

    async def send(self, content):
        return await self.channel.send(content)

    async def send_many(self, contents):
        return await asyncio.gather(*[self.channel.send(content) for content in contents])

    async def fail(self, content):
        """Return how mosaik sees a failure of the other end."""
        try:
            await self.channel.send(content)
        except RemoteException as exc:
            return [exc.remote_type, exc.remote_msg, list(exc.further_args)]

    async def close(self):
        await self.channel.close()


async def answer(channel):
    """Answer what the other end asks."""
    while True:
        try:
            request = await channel.next_request()
        except EndOfRequests:
            return
        if request.content[0] == "fail":
            try:
                raise ValueError("boom")
            except ValueError as exc:
                await request.set_exception(exc)
        else:
            await request.set_result(request.content)


async def main():
    channel = Channel(*await asyncio.open_connection("127.0.0.1", int(sys.argv[1])))
    answering = asyncio.ensure_future(answer(channel))
    actions = Actions(channel)
    say("connected")
    await obey({name: getattr(actions, name) for name in dir(actions) if name[0] != "_"})
    await answering


loop.run_until_complete(main())
