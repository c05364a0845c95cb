"""Containers that call each other over TLS, and bare ends of TLS connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

import aiomas
from aiomas import Container, SSLCerts

LIMIT = 5.0
"""Seconds in which whoever is refused has to know."""


class Worker(aiomas.Agent):
    """Counts how often it was called, and by whom."""

    def __init__(self, container: Container) -> None:
        super().__init__(container)
        self.callers: list[Any] = []
        self.holding = asyncio.Event()
        self.let_go = asyncio.Event()

    @aiomas.expose
    def echo(self, value: Any) -> Any:
        self.callers.append(aiomas.current_call().identity)
        return value

    @aiomas.expose
    async def hold(self, value: Any) -> Any:
        self.holding.set()
        await self.let_go.wait()
        return value

    @aiomas.expose
    async def ask(self, other: Any, value: Any) -> Any:
        return await other.echo(value)


@contextlib.asynccontextmanager
async def worker(ssl: Any, host: str = "localhost", **options: Any) -> AsyncIterator[Worker]:
    """Let a worker live in a container of its own."""
    async with Container.open((host, 0), ssl=ssl, **options) as container:
        yield Worker(container)


async def talk(server: Any, client: Any, host: str = "localhost") -> None:
    """Let a container call another one, over a connection that it makes itself."""
    async with worker(server, host) as there, worker(client, host) as here:
        proxy = await here.container.connect(there.addr)
        assert await proxy.echo("ohai") == "ohai"
        # The other direction of the same connection.
        assert await proxy.ask(here, "cya") == "cya"


async def talk_both_ways(one: Any, other: Any, host: str = "localhost") -> None:
    """Let both of two containers dial the other one."""
    await talk(one, other, host)
    await talk(other, one, host)


async def refused(server: Any, client: Any, match: str, host: str = "localhost") -> Exception:
    """See that a client is told why it cannot connect, in time, and that nothing has run."""
    async with worker(server, host) as there, worker(client, host) as here:
        async with asyncio.timeout(LIMIT):
            with pytest.raises(OSError, match=match) as caught:
                await here.container.connect(there.addr)
        # A first answer is what proves a connection; there must be none by another way either.
        async with asyncio.timeout(LIMIT):
            with pytest.raises(OSError):
                await here.container.proxy(there.addr).echo(1)
        assert there.callers == []
    return caught.value


class Refusals:
    """Tries bad certificates in both roles against good ones."""

    def __init__(self, good: SSLCerts, caplog: pytest.LogCaptureFixture) -> None:
        self.good = good
        self._caplog = caplog

    async def as_server(self, bad: Any, match: str, host: str = "localhost") -> Exception:
        """See that a client does not talk to such a server."""
        return await refused(bad, self.good, match, host)

    async def as_client(self, bad: Any, reason: str, alert: str, host: str = "localhost") -> None:
        """See that a server does not talk to such a client, logs why, and sends an alert."""
        self._caplog.clear()
        await refused(self.good, bad, alert, host)
        logged = [r.getMessage() for r in self._caplog.records if r.levelno >= logging.WARNING]
        assert logged
        assert all("Refusing a client" in line for line in logged)
        assert reason in logged[0]


class RawTls:
    """One end of a TLS connection without aiomas, for what asyncio cannot do."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        context: ssl.SSLContext,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname="localhost", session=session
        )

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None
    ) -> AsyncIterator[RawTls]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer, context, session)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def shake_hands(self) -> None:
        await self._pump(self.ssl.do_handshake)

    async def connect_and_ask(self) -> bytes:
        """Call something, which proves that the connection was accepted; return the answer."""
        await self.shake_hands()
        call = b'[0, 0, ["validate_aid", ["0"], {}]]'
        await self.write(len(call).to_bytes(4) + call)
        async with asyncio.timeout(LIMIT):
            return (await self.read())[4:]

    async def write(self, data: bytes) -> None:
        self.ssl.write(data)
        await self._flush()

    async def read(self) -> bytes:
        data: bytes = await self._pump(lambda: self.ssl.read(65536))
        return data

    def first_bytes(self) -> bytes:
        """Return the beginning of the handshake, which is not sent."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.ssl.do_handshake()
        return self._outgoing.read()

    async def _pump(self, step: Any) -> Any:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._reader.read(65536)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                await self._flush()
                return result

    async def _flush(self) -> None:
        if self._outgoing.pending:
            self._writer.write(self._outgoing.read())
            await self._writer.drain()


def port_of(agent: Worker) -> int:
    return int(agent.addr.rpartition("/")[0].rpartition(":")[2])
