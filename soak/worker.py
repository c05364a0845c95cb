"""The processes that are called: a container with an agent, which ends when its input does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import sys
from pathlib import Path
from typing import Any

import psutil
import uvloop

import aiomas
from soak.ledger import Ledger
from soak.logs import is_ours

LIMITS = aiomas.Limits(
    max_frame=4 << 20,
    max_requests=2_000,
    max_request_bytes=16 << 20,
    write_cap=16 << 20,
    write_timeout=3.0,
    heartbeat=1.0,
)
"""Much less than the defaults, so that all limits are hit within seconds."""

LIFE = 3.0
"""Seconds after which an agent ends that was made and forgotten."""


class Worker(aiomas.Agent):
    """Does what it is asked to, and writes that down first."""

    def __init__(self, container: aiomas.Container, ledger: Ledger, aid: str | None = None) -> None:
        super().__init__(container, aid=aid)
        self._ledger = ledger
        self._life = None if aid else asyncio.create_task(self._end_late())

    @aiomas.expose
    def echo(self, number: int, data: Any) -> Any:
        self._ledger.ran(number)
        return data

    @aiomas.expose
    async def echo_async(self, number: int, data: Any) -> Any:
        self._ledger.ran(number)
        await asyncio.sleep(0)
        return data

    @aiomas.expose(idempotent=True)
    async def echo_again(self, number: int, data: Any) -> Any:
        self._ledger.ran(number)
        await asyncio.sleep(0.03)
        return data

    @aiomas.expose
    async def slow(self, number: int, seconds: float) -> float:
        self._ledger.ran(number)
        await asyncio.sleep(seconds)
        return seconds

    @aiomas.expose
    def fail(self, number: int) -> None:
        self._ledger.ran(number)
        msg = "as it was asked to"
        raise RuntimeError(msg)

    @aiomas.expose
    async def through(self, number: int, leaf: int, data: Any, other: Any) -> Any:
        """Call an agent whose proxy came along."""
        self._ledger.ran(number)
        return await other.echo(leaf, data)

    @aiomas.expose
    async def relay(self, number: int | None, leaf: int, data: Any, urls: list[str]) -> Any:
        """Call the first of *urls*, which calls the next one."""
        if number is not None:
            self._ledger.ran(number)
        proxy = self.container.proxy(urls[0])
        if urls[1:]:
            return await proxy.relay(None, leaf, data, urls[1:])
        return await proxy.echo_async(leaf, data)

    @aiomas.expose
    def make(self, number: int) -> Worker:
        self._ledger.ran(number)
        return Worker(self.container, self._ledger)

    @aiomas.expose
    async def end(self, number: int) -> None:
        self._ledger.ran(number)
        await self.stop()

    @aiomas.expose
    def zeros(self, size: int) -> bytes:
        return bytes(size)

    @aiomas.expose
    def state(self) -> dict[str, int]:
        return state(self.container)

    async def on_stop(self) -> None:
        if self._life is not None and self._life is not asyncio.current_task():
            self._life.cancel()

    async def _end_late(self) -> None:
        await asyncio.sleep(LIFE)
        self._life = None  # it is not to be cancelled by what it does now
        await self.stop()


def state(*containers: aiomas.Container) -> dict[str, int]:
    """Return what this process holds, but for the connections that *containers* know of."""
    gc.collect()
    stats = [container.stats() for container in containers]
    connections = sum(each.connections for each in stats)
    return {
        "descriptors": psutil.Process().num_fds() - connections,
        "tasks": len(asyncio.all_tasks()),
        "pending": sum(each.pending for each in stats),
        "serving": sum(each.serving for each in stats),
        "handlers": sum(len(container._handlers) for container in containers),
        "agents": sum(len(container.agents.dict) for container in containers),
        "clients": sum(type(each) is aiomas.rpc.RpcClient for each in gc.get_objects())
        - connections,
    }


async def main(folder: Path, addr: Any, certificates: list[str] | None) -> None:
    """Say the URL of the agent, and serve until standard input is closed."""
    addr = tuple(addr) if isinstance(addr, list) else addr
    ssl = aiomas.SSLCerts(*certificates) if certificates else None
    async with aiomas.Container.open(
        addr, codec=aiomas.MsgPack, limits=LIMITS, ssl=ssl
    ) as container:
        worker = Worker(container, Ledger(folder), aid="worker")
        print(json.dumps(worker.addr), flush=True)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
        await ended.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)  # what is written there is held against us
    logging.getLogger().handlers[0].addFilter(is_ours)
    configuration = json.loads(sys.argv[1])
    factory = uvloop.new_event_loop if configuration["uvloop"] else asyncio.new_event_loop
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(
            main(
                Path(configuration["folder"]), configuration["addr"], configuration["certificates"]
            )
        )
