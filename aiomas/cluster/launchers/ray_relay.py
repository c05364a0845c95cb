"""The driver's end of the stream to a program on a node of a Ray cluster.

Ray carries calls, not streams: so one task asks for what comes, one sends what goes, each with one
call under way, and a pair of sockets makes a stream of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiomas.cluster.launchers.ray_actor import CHUNK
from aiomas.cluster.launchers.ray_session import in_thread

_KILLED = -signal.SIGKILL
_LAST_WORDS = 1.0  # seconds in which what it has sent before its end is here


def call(method: Any, *args: Any) -> Awaitable[Any]:
    """Call a method of an actor; awaiting this raises what Ray raises."""
    return asyncio.wrap_future(method.remote(*args).future())


class RelayedStream:
    """A stream to the program that an actor has started.

    Args:
        actor: an actor, which has started it.
        end: ends the actor; blocks.
        errors: what Ray raises if the actor is lost.
    """

    def __init__(self, actor: Any, end: Callable[[Any], object], errors: type[Exception]) -> None:
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Done when the program has ended, or the actor was lost; its exit code."""
        self.told_its_end = False
        """Whether the program has ended in front of the actor, so that the node is well."""
        self._actor = actor
        self._end = end
        self._errors = errors
        self._said = ""
        self._ending: asyncio.Task[object] | None = None
        self.sock, self._inner = socket.socketpair()
        self.sock.setblocking(False)
        self._inner.setblocking(False)
        self._tasks = [
            asyncio.create_task(self._receive()),
            asyncio.create_task(self._send()),
        ]
        self._watching = asyncio.create_task(self._watch())

    @property
    def said(self) -> str:
        """What the program has said last, or why Ray has lost it; known when it has ended."""
        return self._said

    def kill(self) -> None:
        """End the actor, and with it the program."""
        if self._ending is None:
            self._ending = asyncio.create_task(in_thread(self._end, self._actor))

    async def close(self, timeout: float) -> None:
        """End all; return when that is so, or after *timeout* seconds."""
        self.kill()
        assert self._ending is not None  # noqa: S101 - kill() has made it
        try:
            await asyncio.wait({self._watching, self._ending}, timeout=timeout)
        finally:
            self._watching.cancel()
            self._ended(_KILLED)

    def _ended(self, code: int) -> None:
        if not self.ended.done():
            self.ended.set_result(code)

    async def _watch(self) -> None:
        try:
            code, self._said = await call(self._actor.wait)
            self.told_its_end = True
            await asyncio.wait(self._tasks[:1], timeout=_LAST_WORDS)
        except self._errors as exc:
            # Its first lines have names and numbers of Ray's.
            code, self._said = _KILLED, str(exc).strip().rpartition("\n")[2]
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
            self._inner.close()
        self._ended(code)
        self.kill()  # it is of no use any more

    async def _receive(self) -> None:
        """Pass on what comes from the program."""
        loop = asyncio.get_running_loop()
        # Who was lost is noticed by _watch(); and the driver may have hung up.
        with contextlib.suppress(self._errors, OSError):
            while data := await call(self._actor.read):
                await loop.sock_sendall(self._inner, data)
            self._inner.shutdown(socket.SHUT_WR)

    async def _send(self) -> None:
        """Pass on what the driver writes, and that it has hung up."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(self._errors):
            while True:
                try:
                    data = await loop.sock_recv(self._inner, CHUNK)
                except OSError:
                    data = b""
                if not await call(self._actor.write, data) or not data:
                    return
