"""What is measured, by name: a server process, and a function here that calls it.

The subjects are the baselines, and aiomas: plain, with JSON, over mutual TLS, with limits for large
payloads, and without a server, between two agents of one container.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiomas
from benchmarks import baselines
from benchmarks.measure import Call

IN_CONTAINER = "aiomas in one container"

LIMITS = aiomas.Limits(max_frame=256 * 2**20, max_request_bytes=512 * 2**20, heartbeat=None)
"""For 64 MiB in one message."""


class Echo(aiomas.Agent):
    """Returns what it gets."""

    @aiomas.expose
    def echo(self, value: Any) -> Any:
        """Return *value*."""
        return value

    @aiomas.expose
    async def echo_async(self, value: Any) -> Any:
        """Return *value*, from a coroutine."""
        return value


def settings(kind: str, certificates: str | None = None) -> dict[str, Any]:
    """Return what containers of this kind are made with, at both ends.

    Args:
        kind: "aiomas", "aiomas JSON", "aiomas TLS" or "aiomas large".
        certificates: where those for TLS are.
    """
    codec = aiomas.JSON if kind == "aiomas JSON" else aiomas.MsgPack
    found: dict[str, Any] = {"codec": codec}
    if kind == "aiomas TLS":
        folder = Path(certificates or "")
        names = ("trusted.pem", "certificate.pem", "key.pem")
        found["ssl"] = aiomas.SSLCerts(*(folder / name for name in names))
    if kind == "aiomas large":
        found["limits"] = LIMITS
    return found


@contextlib.contextmanager
def server(kind: str, loop_name: str, **options: Any) -> Any:
    """Run a server process and yield what it says about itself; it ends with the block.

    Args:
        kind: a baseline or a kind of containers.
        loop_name: "asyncio" or "uvloop".
        options: passed to the server, see :mod:`benchmarks.server`.
    """
    request = json.dumps({"kind": kind, "loop": loop_name, **options})
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server", request],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield {"pid": process.pid, **_told(process)}
            process.communicate(timeout=20)
        except BaseException:
            process.kill()
            raise


def _told(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        msg = "a server did not start; it has said why"
        raise RuntimeError(msg)
    told: dict[str, Any] = json.loads(line)
    return told


@contextlib.asynccontextmanager
async def baseline_client(kind: str, address: Any) -> AsyncIterator[Call]:
    """Connect to a baseline's server and yield a function that calls it."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(baselines.PAIRS[kind][1], *address)
    try:
        yield protocol.call
    finally:
        transport.close()


@contextlib.asynccontextmanager
async def subject(
    name: str, loop_name: str, certificates: str | None = None
) -> AsyncIterator[Callable[[str], Call]]:
    """Yield a function that returns what calls a method, "echo" or "echo_async", of the subject."""
    if name == IN_CONTAINER:
        async with aiomas.Container.open(
            aiomas.get_queue("one"), codec=aiomas.MsgPack
        ) as container:
            proxy = await container.connect(Echo(container).addr)
            yield lambda method: getattr(proxy, method)
            return
    with server(name, loop_name, certificates=certificates) as told:
        if name in baselines.PAIRS:
            async with baseline_client(name, told["address"]) as call:
                yield lambda _method: call
            return
        # TLS is for TCP alone, so such a container has to have an address of that kind.
        own = ("127.0.0.1", 0) if name == "aiomas TLS" else aiomas.get_queue(name)
        async with aiomas.Container.open(own, **settings(name, certificates)) as container:
            proxy = await container.connect(told["address"])
            yield lambda method: getattr(proxy, method)


class Subjects:
    """Those that are running, on one event loop and on one core or not; started when needed."""

    def __init__(self, loop_name: str, certificates: str, stack: contextlib.AsyncExitStack) -> None:
        self._loop_name = loop_name
        self._certificates = certificates
        self._stack = stack
        self._running: dict[str, Callable[[str], Call]] = {}

    async def call(self, name: str, method: str) -> Call:
        """Return what calls this method of the subject."""
        if name not in self._running:
            manager = subject(name, self._loop_name, self._certificates)
            self._running[name] = await self._stack.enter_async_context(manager)
        return self._running[name](method)
