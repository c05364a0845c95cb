"""Remote procedure calls with callbacks: client and server call each other.

A client subscribes to a weather service.  It passes an object of its own, which arrives at the
server as a proxy; with that the server calls back whenever there is something new.

Run it with ``python examples/rpc_callbacks.py``.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from typing import Protocol

from aiomas import rpc


class Listener(Protocol):
    """What the server can call at a client (a proxy has awaitable methods)."""

    def changed(self, place: str, degrees: float) -> Awaitable[str]: ...


class Weather:
    """The service of the server."""

    router = rpc.Service()

    def __init__(self) -> None:
        self.listeners: list[Listener] = []

    @rpc.expose
    def subscribe(self, listener: Listener) -> int:
        self.listeners.append(listener)
        return len(self.listeners)

    async def announce(self, place: str, degrees: float) -> None:
        for listener in self.listeners:
            answer = await listener.changed(place, degrees)
            print(f"server: {listener} answered {answer!r}")


class Display:
    """The service of the client."""

    router = rpc.Service()

    @rpc.expose
    def changed(self, place: str, degrees: float) -> str:
        print(f"client: {place} has {degrees} degrees now")
        return "thanks"


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/weather"  # a path: a Unix socket
        weather = Weather()
        async with await rpc.start_server(address, weather):
            display = Display()
            # To be called by the server, a client needs a router as well.
            client = await rpc.open_connection(address, router=display)
            number = await client.remote.subscribe(display)
            print(f"client: I am subscriber number {number}")

            await weather.announce("Oldenburg", 13.5)
            await weather.announce("Lisbon", 24.0)
            await client.close()


if __name__ == "__main__":
    asyncio.run(main())
