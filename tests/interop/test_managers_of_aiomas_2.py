"""Managers of child processes can be used across the versions."""

from __future__ import annotations

import asyncio

import pytest

import aiomas
import aiomas.subproc

from .conftest import StartPeer
from .peer import PATIENCE

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60, func_only=True)]


class Child(aiomas.Agent):
    def __init__(self, container: aiomas.Container, name: str) -> None:
        super().__init__(container)
        self.name = name

    @classmethod
    async def create(cls, container: aiomas.Container, name: str) -> Child:
        return cls(container, name)

    @aiomas.expose
    def greet(self, whom: str) -> str:
        return f"{self.name} greets {whom}"


@pytest.mark.parametrize("factory", ["manager:Child", "manager:Child.create"])
async def test_our_container_lets_an_old_manager_spawn_agents(
    start_old: StartPeer, unix_path: str, factory: str
) -> None:
    peer = await start_old("manager.py", unix_path)
    url = await peer.says()
    async with aiomas.Container.open(("127.0.0.1", 0)) as container:
        manager = await container.connect(url, timeout=PATIENCE)
        assert str(manager) == f"ManagerProxy({url!r})"
        # The module is that of the program itself, which imports it a second time.
        proxy, addr = await manager.spawn(factory, "Ann")
        assert addr == url.replace("/0", "/1")
        assert await proxy.greet("you") == "Ann greets you"
        again = await container.connect(addr)
        assert await again.greet("them") == "Ann greets them"
        await manager.stop()
        assert await peer.do("wait_for_manager") is None


@pytest.mark.parametrize("factory", ["Child", "Child.create"])
async def test_an_old_container_lets_our_manager_spawn_agents(
    start_old: StartPeer, unix_path: str, factory: str
) -> None:
    peer = await start_old("manager.py", f"{unix_path}-unused")
    await peer.says()
    url = f"ipc://[{unix_path}]/0"
    async with asyncio.TaskGroup() as tasks:
        ours = tasks.create_task(aiomas.subproc.start(unix_path))
        # 2.0.1 gives up if the socket is there and does not listen yet.
        async with aiomas.Container.open(f"{unix_path}-ours") as container:
            await container.connect(url, timeout=PATIENCE)
        spawned = await peer.do("spawn", url, f"{__name__}:{factory}", "Bob")
        assert spawned == ["Bob greets you", "Bob greets them", url.replace("/0", "/1")]
        assert await peer.do("stop", url) is None
        async with asyncio.timeout(PATIENCE):
            await ours
