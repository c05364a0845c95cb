"""The lowest layer: a channel, over which both ends can make requests.

The client sends three requests at once and gets a reply to each.  The server answers them in its
own order, refuses one of them, and then asks the client something: either end can make requests.

Run it with ``python examples/channel.py``.
"""

from __future__ import annotations

import asyncio

import aiomas
from aiomas.channel import Channel


async def serve(channel: Channel) -> None:
    requests = [await channel.recv() for _ in range(3)]
    for request in reversed(requests):  # replies may come in any order
        print(f"server: received {request.content!r}")
        if request.content == "bad":
            await request.fail(ValueError("that is no nice thing to say"))
        else:
            await request.reply(request.content.upper())

    answer = await channel.send("how are you?")
    print(f"server: the client is {answer}")
    await channel.close()


async def main() -> None:
    server = await aiomas.channel.start_server(("127.0.0.1", 0), serve)
    async with server:
        address = server.sockets[0].getsockname()[:2]
        channel = await aiomas.channel.open_connection(address)

        # send() returns a future: the request is on its way already, the reply comes later.
        replies = [channel.send(content) for content in ("ohai", "bad", "cya")]
        for reply in await asyncio.gather(*replies, return_exceptions=True):
            if isinstance(reply, aiomas.RemoteException):
                print("client: refused,", str(reply).splitlines()[-1])
            else:
                print(f"client: got {reply!r}")

        request = await channel.recv()
        print(f"client: was asked {request.content!r}")
        await request.reply("fine")
        await channel.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())
