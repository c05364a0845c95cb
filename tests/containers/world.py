"""Containers and agents that the tests here share, of each kind of address."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import aiomas
from aiomas.agent import Container

KINDS = ["tcp", "unix", "local", "inside"]


class Worker(aiomas.Agent):
    """Does as it is told, and keeps what happens to it."""

    def __init__(self, container: Container, *, aid: str | None = None) -> None:
        super().__init__(container, aid=aid)
        self.log: list[Any] = []
        self.calls: list[Any] = []
        self.holding = asyncio.Event()
        self.let_go = asyncio.Event()
        self.known: Any = None

    @aiomas.expose
    def echo(self, value: Any = None) -> Any:
        self.calls.append(aiomas.current_call())
        self.log.append(value)
        return value

    @aiomas.expose(idempotent=True)
    def look(self) -> str:
        return "seen"

    @aiomas.expose
    def fail(self) -> None:
        raise ValueError("boom")

    @aiomas.expose
    async def hold(self, value: Any = None) -> Any:
        self.calls.append(aiomas.current_call())
        self.holding.set()
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        return value

    @aiomas.expose
    async def hold_and_ask_known(self) -> Any:
        """Call the agent that is kept, after a while."""
        self.holding.set()
        await self.let_go.wait()
        return await self.known.echo("served")

    @aiomas.expose
    async def hold_shielded(self) -> None:
        async def part() -> None:
            await self.let_go.wait()
            self.log.append("survived")

        self.known = asyncio.create_task(part())
        self.holding.set()
        await asyncio.shield(self.known)

    @aiomas.expose
    def know(self, agent: Any) -> None:
        """Keep an agent."""
        self.known = agent

    @aiomas.expose
    def give(self) -> Any:
        """Return the agent that is kept."""
        return self.known

    @aiomas.expose
    async def ask(self, agent: Any, method: str, *args: Any) -> Any:
        """Call an agent that came as an argument."""
        return await getattr(agent, method)(*args)

    @aiomas.expose
    async def ask_known(self, method: str, *args: Any) -> Any:
        """Call the agent that is kept."""
        return await getattr(self.known, method)(*args)


class World:
    """Makes containers; they are shut down at the end.

    Args:
        kind: what they listen on; with "inside", all agents are in one container.
        unix_path: the beginning of the paths of their sockets.
    """

    def __init__(self, kind: str, unix_path: str) -> None:
        self.kind = kind
        self.unix_path = unix_path
        self.containers: list[Container] = []
        self.workers: list[Worker] = []

    async def container(self, kind: str = "", **kwds: Any) -> Container:
        kind = kind or self.kind
        if self.containers and kind == "inside":
            return self.containers[0]
        name = f"{len(self.containers)}"
        addr: Any = (
            kwds.pop("addr", None)
            or {
                "tcp": ("127.0.0.1", 0),
                "unix": self.unix_path + name,
            }.get(kind)
            or aiomas.get_queue(f"q{name}")
        )
        container = await Container.create(addr, as_coro=True, **kwds)
        self.containers.append(container)
        return container

    async def worker(self, kind: str = "", **kwds: Any) -> Worker:
        return self.take(Worker(await self.container(kind, **kwds)))

    def take(self, worker: Worker) -> Worker:
        """Let a worker go at the end."""
        self.workers.append(worker)
        return worker

    async def pair(self, **kwds: Any) -> tuple[Worker, Worker, Any]:
        """Return two workers, and a proxy that the first one has for the second one."""
        one, other = await self.worker(**kwds), await self.worker(**kwds)
        return one, other, await one.container.connect(other.addr)

    async def restart(self, worker: Worker) -> Worker:
        """Shut the container of *worker* down, and make both anew at the same address."""
        await worker.container.shutdown(as_coro=True)
        return self.take(Worker(await self.again(worker.container)))

    async def again(self, old: Container, **kwds: Any) -> Container:
        """Return a new container at the address of an *old* one, which was shut down."""
        addr: Any
        if old.base_url.startswith("tcp"):
            addr = ("127.0.0.1", int(old.base_url.rstrip("/").rpartition(":")[2]))
        elif old.base_url.startswith("ipc"):
            addr = old.base_url.removeprefix("ipc://[").removesuffix("]/")
        else:
            addr = aiomas.get_queue(old.base_url.removeprefix("local://").rstrip("/"))
        container = await Container.create(addr, as_coro=True, **kwds)
        self.containers.append(container)
        return container

    async def close(self) -> None:
        for worker in self.workers:
            worker.let_go.set()
        for container in self.containers:
            await container.shutdown(as_coro=True, timeout=1)


async def until(condition: Callable[[], object]) -> None:
    """Wait, 10 s at the most, until *condition* holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is no event for what is looked at
            await asyncio.sleep(0.01)


def cut_all(container: Container) -> None:
    """Break all connections of *container*, as a network does."""
    for client in [*container._accepted, *container._pool.clients]:
        with contextlib.suppress(OSError):
            client.channel.transport.abort()  # type: ignore[attr-defined]
