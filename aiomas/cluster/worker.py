"""What runs in a container process: the container, and the service that its driver controls it by.

The control service is reached over the socket that the process inherits, never over the network.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any

from aiomas import rpc
from aiomas.agent import Agent, Container
from aiomas.clocks import ExternalClock
from aiomas.cluster.loading import load
from aiomas.cluster.spec import ClusterSpec
from aiomas.codecs import Codec, MsgPack, make_codec


class Worker:
    """The control service of a container process."""

    router = rpc.Service()

    def __init__(self) -> None:
        self.container: Container
        self._codec: Codec
        self._stopped = asyncio.Event()

    @rpc.expose
    async def start(self, fields: dict[str, Any], addr: Any) -> str:
        """Create the container.

        Args:
            fields: those of a :class:`ClusterSpec`.
            addr: where it listens: a path, or ``(host, port)``.

        Returns:
            Its base URL.
        """
        spec = ClusterSpec(**fields)
        codec = load(spec.codec)
        serializers = [load(name) for name in spec.extra_serializers]
        self._codec = make_codec(codec, serializers)
        self.container = await Container.create(
            addr,
            codec=codec,
            extra_serializers=serializers,
            clock=None if spec.clock is None else ExternalClock(spec.clock),
            as_coro=True,
        )
        return self.container.base_url

    @rpc.expose
    async def spawn(self, target: str, arguments: bytes) -> tuple[list[Any], str | None]:
        """Make agents, one after the other.

        Args:
            target: the name of an agent class or of a (coroutine) function that makes agents.
            arguments: a list with ``[args, kwargs]`` for each agent, encoded by the cluster's
                codec.

        Returns:
            ``[URL, class name]`` of each agent that was made; and the traceback of the first
            failure, after which no more are tried, or ``None``.
        """
        made: list[Any] = []
        try:
            factory = load(target)
            for args, kwargs in self._codec.decode(arguments):
                agent = factory(self.container, *args, **kwargs)
                if inspect.isawaitable(agent):
                    agent = await agent
                if not isinstance(agent, Agent):
                    msg = f"{target} returned {agent!r}, which is no agent"
                    raise TypeError(msg)  # noqa: TRY301 - reported like the user's own errors
                made.append((agent.addr, type(agent).__name__))
        except Exception:  # noqa: BLE001 - user code; the driver raises it
            return made, traceback.format_exc()
        return made, None

    @rpc.expose
    def agents(self) -> int:
        """Return how many agents live here."""
        return len(self.container.agents)

    @rpc.expose
    def set_time(self, time: float) -> None:
        """Set the container's external clock to *time* seconds."""
        clock = self.container.clock
        assert isinstance(clock, ExternalClock)  # noqa: S101 - the driver checks it
        clock.set_time(time)

    @rpc.expose
    async def stop(self) -> None:
        """Shut the container down; the process ends when the driver closes the control stream."""
        if hasattr(self, "container"):  # it may not have come that far
            await self.container.shutdown(as_coro=True)

    async def run(self, control: socket.socket) -> None:
        """Serve the driver until it closes *control*, then shut the container down."""
        client = await rpc.open_connection(None, sock=control, router=self, codec=MsgPack)
        try:
            await client.channel.wait_closed()
        finally:
            if hasattr(self, "container"):
                await self.container.shutdown(as_coro=True)


def main(control_fd: int, guard_fd: int, directory: str, *, uvloop: bool) -> None:
    """Run a worker.

    Args:
        control_fd: an inherited socket, over which the driver controls the worker.
        guard_fd: an inherited pipe, which ends when the driver does.
        directory: that of the run, which is removed if the driver dies.
        uvloop: whether to run uvloop.
    """
    # Ctrl-C in a terminal goes to all processes there; the driver alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(control_fd, False)
    os.set_inheritable(guard_fd, False)
    threading.Thread(target=_exit_with_driver, args=(guard_fd, directory), daemon=True).start()
    control = socket.socket(fileno=control_fd)
    with asyncio.Runner(loop_factory=_uvloop_factory() if uvloop else None) as runner:
        runner.run(Worker().run(control))


def _uvloop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop  # noqa: PLC0415 - not there on every system

    return uvloop.new_event_loop


def _exit_with_driver(guard_fd: int, directory: str) -> None:
    """End this process when the driver's has ended, whatever our event loop is doing.

    Nothing is ever written to the pipe, so reading from it returns when its other end is closed.
    """
    os.read(guard_fd, 1)
    shutil.rmtree(directory, ignore_errors=True)  # the driver cannot do it any more
    os._exit(1)
