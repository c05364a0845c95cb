"""A simulator's side of a connection that it accepts, with mosaik's own channel.

Says the port.
"""

import asyncio

from mosaik_api_v3.connection import Channel, EndOfRequests
from lines import described, loop, obey, say

STOP = object()


class Simulator:
    """Answers as simulators do: a request is the list [function, args, kwargs]."""

    def __init__(self, channel):
        self.channel = channel

    def init(self, sid, step_size=1):
        return {"sid": sid, "step_size": step_size}

    def create(self, num, model):
        return [{"eid": "e%d" % i, "type": model} for i in range(num)]

    def fail(self):
        raise ValueError("boom")

    async def get_progress(self):
        return await self.channel.send(["get_progress", [], {"of": "me"}])

    async def get_failure(self):
        try:
            await self.channel.send(["fail", [], {}])
        except Exception as exc:
            return described(exc)


async def serve(channel):
    """Serve the requests one after the other, as mosaik does, until there are no more."""
    simulator = Simulator(channel)
    while True:
        try:
            request = await channel.next_request()
        except EndOfRequests:
            return
        try:
            function, args, kwargs = request.content
            result = getattr(simulator, function)(*args, **kwargs)
            if asyncio.iscoroutine(result):
                result = await result
        except Exception as exc:
            await request.set_exception(exc)
        else:
            await request.set_result(result)


async def main():
    async def connected(reader, writer):
        channel = Channel(reader, writer)
        await serve(channel)
        await channel.close()
        say("the end")

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    say(server.sockets[0].getsockname()[1])
    await obey({})


loop.run_until_complete(main())
