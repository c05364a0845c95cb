"""Agents that live on the hosts of a lab, and write down what happens to them."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import aiomas
from aiomas import rpc
from aiomas.exceptions import AiomasError

_BEAT = 0.02  # seconds
_PAUSE = 0.05  # seconds after a call that has failed


class Worker(aiomas.Agent):
    """Counts how often it is called; the count outlives its process."""

    def __init__(self, container: Any, number: int = 0) -> None:
        super().__init__(container)
        self.number = number
        self.count = 0
        self._calls: list[tuple[float, float, str]] = []
        self._talks: list[asyncio.Task[None]] = []

    def get_state(self) -> int:
        return self.count

    def set_state(self, state: int) -> None:
        self.count = state

    @aiomas.expose
    def add(self) -> int:
        self.count += 1
        return self.count

    @aiomas.expose
    def where(self) -> tuple[str, int, int]:
        """Return the host, its process, and which one of the agents it is."""
        return socket.gethostname(), os.getpid(), self.number

    @aiomas.expose
    def echo(self, value: Any) -> Any:
        return value

    @aiomas.expose
    def say(self, text: str) -> None:
        print(text, flush=True)  # noqa: T201 - for the log of its container

    @aiomas.expose
    async def ask(self, other: Any, timeout: float | None = None) -> tuple[str, float]:
        """Call another one; return its host or the name of an error, and the seconds it took."""
        start = time.monotonic()
        try:
            found = (await rpc.with_options(other.where, timeout=timeout)())[0]
        except (AiomasError, OSError) as exc:
            found = type(exc).__name__
        return found, time.monotonic() - start

    @aiomas.expose
    def talk(self, others: Sequence[Any]) -> None:
        """Call others from now on, all the time."""
        for other in others:
            self._talks.append(asyncio.get_running_loop().create_task(self._talk(other)))

    @aiomas.expose
    async def hush(self) -> list[tuple[float, float, str]]:
        """End that; return when each call was made, when it ended, and its error if it had one."""
        for task in self._talks:
            task.cancel()
        await asyncio.wait(self._talks)
        self._talks.clear()
        return self._calls

    async def _talk(self, other: Any) -> None:
        while True:
            start, error = time.monotonic(), ""
            try:
                await other.add()
            except (AiomasError, OSError) as exc:
                error = type(exc).__name__
                await asyncio.sleep(_PAUSE)
            self._calls.append((start, time.monotonic(), error))
            await asyncio.sleep(_BEAT)


class Beating(Worker):
    """Writes down all the time that it lives, for as long as its process does: in a thread."""

    def __init__(self, container: Any, number: int) -> None:
        super().__init__(container, number)
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        # No lock and no loop: only what ends the process ends this.
        file = os.open(f"/tmp/beats-{self.number}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        while True:
            os.write(file, f"{time.monotonic()}\n".encode())
            time.sleep(_BEAT)
