"""A server process of a benchmark: tells its address as JSON, ends when its input does.

Its argument is JSON: *kind* and *loop* as in :mod:`benchmarks.subjects`, *certificates*, and how
many *agents* there are (one by default).
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import aiomas
from benchmarks import baselines
from benchmarks.loops import run
from benchmarks.subjects import Echo, settings


async def serve_baseline(kind: str) -> tuple[Any, Any]:
    """Start a baseline's server and return it with its address."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(baselines.PAIRS[kind][0], "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[:2]


async def serve_aiomas(kind: str, certificates: str | None, agents: int) -> tuple[Any, str]:
    """Start a container with agents and return them with the address of the first one."""
    container = await aiomas.Container.create(
        ("127.0.0.1", 0), **settings(kind, certificates), as_coro=True
    )
    made = [Echo(container) for _ in range(agents)]
    return made, made[0].addr


async def main(kind: str, certificates: str | None = None, agents: int = 1) -> None:
    """Serve until standard input is closed."""
    if kind in baselines.PAIRS:
        server, address = await serve_baseline(kind)
    else:
        server, address = await serve_aiomas(kind, certificates, agents)
    print(json.dumps({"address": address}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    del server  # held until here, since not all event loops hold their servers


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    run(request.pop("loop"), main(**request))
