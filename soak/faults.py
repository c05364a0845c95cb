"""What goes wrong in a run, one thing at a time."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator

import msgpack

from soak.site import Child, Site
from soak.worker import LIMITS

_MIB = 1 << 20


class Faults:
    """Harms processes and their connections."""

    def __init__(self, site: Site, rng: random.Random) -> None:
        self.count = 0
        self._site = site
        self._rng = rng
        self._kinds = (self.kill, self.stop, self.cut, self.cut, self.garbage, self.deaf)

    async def run(self) -> None:
        """Do one thing after the other until cancelled."""
        while True:
            child = self._rng.choice(self._site.children)
            await self._rng.choice(self._kinds)(child)
            self.count += 1
            await asyncio.sleep(self._rng.uniform(0, 1))

    async def kill(self, child: Child) -> None:
        if child is self._site.tcp:  # it lives from the first second to the last
            return
        await child.kill()
        await asyncio.sleep(self._rng.uniform(0, 0.3))
        await child.start()

    async def stop(self, child: Child) -> None:
        """Sometimes for so long that it is taken for dead."""
        child.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(self._rng.choice([0.1, 1.0, 5.0]))
        finally:
            child.signal(signal.SIGCONT)

    async def cut(self, _: Child) -> None:
        for container in self._site.containers:
            clients = [*container._accepted, *container._pool.clients]
            for client in self._rng.sample(clients, len(clients) // 2):
                client.channel.transport.abort()

    async def garbage(self, child: Child) -> None:
        message = self._rng.choice(
            [
                self._rng.randbytes(1000),
                b"\xff\xff\xff\xff",  # 4 GiB are announced
                _framed([7, 7]),
                _framed([1, 99, "a reply that nobody has asked for"]),
                _framed([0, 1, ["agents/worker/echo", 3, 4]]),
                _framed([0, 0, ["aiomas/hello", [{"protocol": "?", "url": 7}], {}]]),
                (1000).to_bytes(4, "big") + b"not complete",
            ]
        )
        async with _connected(child) as (_, writer):
            writer.write(message)
            await writer.drain()
            await asyncio.sleep(0.2)

    async def deaf(self, child: Child) -> None:
        """Ask for more than the system's buffers hold, and read none of it."""
        request = _framed([0, 1, ["validate_aid", [bytes(_MIB)], {}]])
        call = _framed([0, 1, ["agents/worker/zeros", [1 << 16], {}]])
        async with _connected(child) as (_, writer):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rng.choice([0.5, 5.0])):
                    writer.write(3000 * call)
                    while True:
                        writer.write(request)
                        await writer.drain()


@contextlib.asynccontextmanager
async def _connected(
    child: Child,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to *child* (if it has TLS, without); whatever happens to that is all right."""
    limit = LIMITS.write_high_water
    with contextlib.suppress(OSError):
        if isinstance(child.addr, str):
            reader, writer = await asyncio.open_unix_connection(child.addr, limit=limit)
        else:
            reader, writer = await asyncio.open_connection(*child.addr, limit=limit)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


def _framed(message: object) -> bytes:
    data: bytes = msgpack.packb(message)
    return len(data).to_bytes(4, "big") + data
