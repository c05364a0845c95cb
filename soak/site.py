"""The processes of a run: started, killed, stopped and continued."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import signal
import sys
from pathlib import Path
from typing import Any

import psutil

import aiomas
from examples.tls import ADDRESS, Authority
from soak.ledger import Ledger
from soak.worker import LIMITS, Worker


@dataclasses.dataclass
class Child:
    """A process with a container, which keeps its address when it is started again."""

    name: str
    folder: Path
    addr: Any
    uvloop: bool = False
    certificates: aiomas.SSLCerts | None = None
    url: str = ""
    lives: int = 0
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        certificates = self.certificates and [str(path) for path in self.certificates]
        configuration = {
            "folder": str(self.folder),
            "addr": self.addr,
            "uvloop": self.uvloop,
            "certificates": certificates,
        }
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "soak.worker", json.dumps(configuration)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        self.url = json.loads(await self.process.stdout.readline())
        self.lives += 1
        if not isinstance(self.addr, str):
            self.addr = (self.addr[0], int(self.url.split("/")[2].rpartition(":")[2]))

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self.process is not None:
            await self.process.wait()

    async def end(self) -> int:
        """Let it end by itself, and return its exit code."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(20):
                return await self.process.wait()
        await self.kill()
        return -signal.SIGKILL

    @property
    def memory(self) -> float:
        """Its resident memory, in KiB."""
        return rss(self.process.pid if self.process is not None else None)


class Site:
    """All processes, and the containers of this one: one with TLS, and one without."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder, "authority")
        self.certificates = authority.issue("driver")
        self.ledger = Ledger(folder)
        self.folder = folder
        self.unix = Child("unix", folder, str(folder / "unix"))
        self.tcp = Child("tcp", folder, (ADDRESS, 0), uvloop=True)
        self.tls = Child("tls", folder, (ADDRESS, 0), certificates=authority.issue("worker"))
        self.children = (self.unix, self.tcp, self.tls)
        self.containers: list[aiomas.Container] = []
        self.homes: list[Worker] = []

    async def __aenter__(self) -> Site:
        try:
            for name, ssl in (("plain", None), ("secure", self.certificates)):
                container = await aiomas.Container.create(
                    str(self.folder / name),
                    codec=aiomas.MsgPack,
                    limits=LIMITS,
                    ssl=ssl,
                    as_coro=True,
                )
                self.containers.append(container)
                self.homes.append(Worker(container, self.ledger, aid="home"))
            for child in self.children:
                await child.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in self.children:
            await child.kill()
        for container in self.containers:
            await container.shutdown(as_coro=True)

    def container_for(self, child: Child) -> aiomas.Container:
        """Return our container that can reach *child*."""
        return self.containers[child is self.tls]

    def proxy(self, child: Child) -> Any:
        return self.container_for(child).proxy(child.url)


def rss(pid: int | None = None) -> float:
    """Return the resident memory of a process, in KiB."""
    try:
        return psutil.Process(pid).memory_info().rss / 1024
    except psutil.NoSuchProcess:
        return float("nan")
