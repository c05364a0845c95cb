"""The server process of a benchmark: prints its address as JSON, ends when its input does."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import aiomas
from benchmarks import raw


class Echo(aiomas.Agent):
    """Returns what it gets."""

    @aiomas.expose
    def echo(self, value: Any) -> Any:
        """Return *value*."""
        return value

    @aiomas.expose
    async def echo_async(self, value: Any) -> Any:
        """Return *value*, from a coroutine."""
        return value


async def serve_raw(addr: Any) -> tuple[Any, Any]:
    """Start the baseline's server and return it with its address."""
    loop = asyncio.get_running_loop()
    if isinstance(addr, str):
        return await loop.create_unix_server(raw.Server, addr), addr
    server = await loop.create_server(raw.Server, *addr)
    return server, server.sockets[0].getsockname()[:2]


async def serve_aiomas(addr: Any) -> tuple[Any, str]:
    """Start a container with an agent and return the agent with its address."""
    agent = Echo(await aiomas.Container.create(addr, codec=aiomas.MsgPack, as_coro=True))
    return agent, agent.addr


async def main(kind: str, addr: Any) -> None:
    """Serve until standard input is closed."""
    serve = serve_raw if kind == "raw" else serve_aiomas
    server, address = await serve(addr)  # held, since not all event loops hold their servers
    print(json.dumps(address), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    del server


if __name__ == "__main__":
    _, kind, loop_name, addr = sys.argv
    factory = None
    if loop_name == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(kind, json.loads(addr)))
