"""RPC on sockets of zmq.asyncio: a ROUTER calls functions by path for a DEALER, a future each.

Messages are those of the other programs, msgpack ``[type, id, content]``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import measuring
import msgpack
import zmq
import zmq.asyncio

HANDLERS: dict[str, Callable[..., Any]] = {"agents/0/echo": lambda value: value}
"""What is called, by path."""


async def answer(socket: Any) -> None:
    """Answer each request."""
    pack = msgpack.Packer().pack
    while True:
        sender, message = await socket.recv_multipart()
        _, number, (path, args, kwargs) = msgpack.unpackb(message, use_list=False)
        result = HANDLERS[path](*args, **kwargs)
        await socket.send_multipart((sender, pack((1, number, result))))


async def serve(socket: Any) -> None:
    """Serve until standard input ends."""
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    task = asyncio.create_task(answer(socket))
    measuring.say(f"tcp://127.0.0.1:{port}")
    await measuring.wait_for_end_async()
    task.cancel()
    await asyncio.wait([task])


class Caller:
    """Sends requests and gives their replies to futures."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 0
        self._pack = msgpack.Packer().pack

    async def call(self, value: Any) -> Any:
        """Return the echo of *value*."""
        number = self._next_id
        self._next_id += 1
        future = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        await self._socket.send(self._pack((0, number, ("agents/0/echo", (value,), {}))))
        return await future

    async def receive(self) -> None:
        """Give each reply to whom it is for."""
        while True:
            _, number, content = msgpack.unpackb(await self._socket.recv(), use_list=False)
            self._pending.pop(number).set_result(content)


async def call(socket: Any, address: str) -> None:
    """Call until standard input ends."""
    socket.set(zmq.LINGER, 0)  # a server that is gone leaves nobody waiting for it
    socket.connect(address)
    caller = Caller(socket)
    task = asyncio.create_task(caller.receive())
    await measuring.obey_async(measuring.async_measures_of(caller.call))
    task.cancel()
    await asyncio.wait([task])


async def main(options: dict[str, Any]) -> None:
    """Serve or call, as the options say."""
    with zmq.asyncio.Context() as context:
        if options["role"] == "serve":
            with context.socket(zmq.ROUTER) as socket:
                await serve(socket)
        else:
            with context.socket(zmq.DEALER) as socket:
                await call(socket, options["address"])


if __name__ == "__main__":
    OPTIONS = measuring.options()
    measuring.run(main(OPTIONS), OPTIONS["loop"])
