"""A service of gRPC that echoes: a generic handler for bytes, which msgpack makes and reads."""

from __future__ import annotations

from typing import Any

import grpc
import measuring
import msgpack

LIMITS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


async def echo(request: bytes, _context: Any) -> bytes:
    """Return what the request holds."""
    reply: bytes = msgpack.packb(msgpack.unpackb(request))
    return reply


async def serve() -> None:
    """Serve until standard input ends."""
    server = grpc.aio.server(options=LIMITS)
    handlers = {"echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    measuring.say(f"127.0.0.1:{port}")
    await measuring.wait_for_end_async()
    await server.stop(grace=0)


async def call(address: str) -> None:
    """Call until standard input ends."""
    async with grpc.aio.insecure_channel(address, options=LIMITS) as channel:
        method = channel.unary_unary("/bench/echo")

        async def echo_of(value: Any) -> Any:
            return msgpack.unpackb(await method(msgpack.packb(value)))

        await measuring.obey_async(measuring.async_measures_of(echo_of))


if __name__ == "__main__":
    OPTIONS = measuring.options()
    measuring.run(serve() if OPTIONS["role"] == "serve" else call(OPTIONS["address"]))
