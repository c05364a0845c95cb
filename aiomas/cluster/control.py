"""The driver's end of the control plane: a thread with an event loop of its own.

So a driver whose main thread is busy, or stands at an interactive prompt, is not taken for dead.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from aiomas import rpc
from aiomas.cluster import streams
from aiomas.cluster.endings import how_it_ended
from aiomas.cluster.events import ClusterEvent, EventKind, error_of_content
from aiomas.cluster.launchers.base import Launcher, Link
from aiomas.exceptions import (
    ClusterError,
    ConnectionLost,
    DeadlineExceeded,
    PeerUnresponsive,
    RemoteException,
)

T = TypeVar("T")

_HEARTBEAT = 10.0  # seconds; a supervisor that is silent for three of them is taken for dead
_THREAD_TIMEOUT = 10.0  # seconds that the thread has to end
_EXIT_TIMEOUT = 5.0  # seconds that a supervisor has to end when it has no driver any more


class ControlThread:
    """A thread that runs an event loop."""

    def __init__(self) -> None:
        self._loop = _new_loop()
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._ended.set_running_or_notify_cancel()  # who waits and gives up does not cancel it
        self._thread = threading.Thread(target=self._run, name="aiomas-control", daemon=True)
        self._thread.start()

    async def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run *coro* there; cancelling us cancels it."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coro, self._loop))

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call *function* there."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function)

    async def stop(self) -> None:
        """End the thread."""
        self.call_soon(self._loop.stop)
        # No executor joins it: its module would have to be read, and there may be no descriptor.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(self._ended), _THREAD_TIMEOUT)
            self._thread.join(_THREAD_TIMEOUT)  # it does nothing any more

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            try:
                if tasks:
                    self._loop.run_until_complete(asyncio.wait(tasks, timeout=_THREAD_TIMEOUT))
            finally:
                self._loop.close()
                self._ended.set_result(None)


def _new_loop() -> asyncio.SelectorEventLoop:
    """A loop of asyncio, whatever kind the policy of the program makes.

    Raises:
        OSError: there are too few descriptors.
    """
    selector = selectors.DefaultSelector()
    try:
        # A loop that cannot be made would keep its selector, and complain when it is collected: so
        # the two descriptors that it will take are asked for first.
        for end in socket.socketpair():
            end.close()
        return asyncio.SelectorEventLoop(selector)
    except OSError:
        selector.close()
        raise


class Host:
    """A supervisor, as its driver sees it.  Lives in the loop of the control thread.

    Args:
        on_event: called with each event.
        on_log: called with the index of a container and lines of its log.
    """

    router = rpc.Service()

    def __init__(
        self,
        on_event: Callable[[ClusterEvent], object],
        on_log: Callable[[int, Sequence[str]], object],
    ) -> None:
        self._on_event = on_event
        self._on_log = on_log
        self._link: Link | None = None
        self._client: rpc.RpcClient | None = None
        self._why_lost: str | None = None
        self._unresponsive = False

    async def launch(
        self, launcher: Launcher, timeout: float, on_lost: Callable[[], object]
    ) -> None:
        """Start the supervisor, and return when it answers.

        Args:
            launcher: starts it.
            timeout: seconds until it must answer.
            on_lost: called when the stream to it has ended.

        Raises:
            OSError: it could not be started, or does not answer in time.
            ClusterError: it has ended; the message says how.
        """
        self._link = await launcher.launch()
        try:
            self._client = await streams.dial(
                self._link.sock,
                self,
                timeout=timeout,
                heartbeat=_HEARTBEAT,
                name="the supervisor of this cluster",
            )
        except BaseException as exc:
            self._link.sock.close()
            try:
                if isinstance(exc, ConnectionError):
                    raise await self.lost() from exc
                if isinstance(exc, TimeoutError):
                    msg = f"The supervisor of the cluster has not answered within {timeout} s"
                    raise TimeoutError(msg) from exc
            finally:
                self._link.kill()
            raise
        self._client.channel.on_lost(self._take_note)
        self._client.channel.on_closed(on_lost)

    @rpc.expose
    def event(self, content: dict[str, Any]) -> None:
        """Take an event."""
        event = ClusterEvent.read(content)
        if event.kind is EventKind.LOST:
            self._why_lost = event.message
        self._on_event(event)

    @rpc.expose
    def log(self, index: int, lines: Sequence[str]) -> None:
        """Take lines of a container's log."""
        self._on_log(index, lines)

    async def call(
        self, method: str, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """Call a method of the supervisor.

        Raises:
            ContainerDied: the method says so.
            ClusterError: the method says so, or took longer than *timeout* seconds, or the
                supervisor is gone.
        """
        if self._client is None:
            msg = "The cluster does not run"
            raise ClusterError(msg)
        try:
            function = rpc.with_options(getattr(self._client.remote, method), timeout=timeout)
            reply = await function(*args, **kwargs)
        except ConnectionError as exc:
            raise await self.lost() from exc
        except DeadlineExceeded:
            msg = f"The supervisor has not answered {method}() within {timeout} s"
            raise ClusterError(msg) from None
        except RemoteException as exc:
            msg = f"The supervisor failed: {exc.remote_traceback}"
            raise ClusterError(msg) from None
        if "error" in reply:
            raise error_of_content(reply["error"])
        return reply["value"]

    async def lost(self) -> ClusterError:
        """Return what to raise because the supervisor is gone."""
        how = "closed its control stream"
        if self._unresponsive:
            how = "does not answer"
        elif self._link is not None and self._why_lost is None:
            await asyncio.wait({self._link.ended}, timeout=_EXIT_TIMEOUT)
            if self._link.ended.done():
                how = how_it_ended(self._link.ended.result())
        if self._why_lost is not None:  # it has said so itself, if only with its last message
            return ClusterError(self._why_lost)
        return ClusterError(f"The cluster is gone: its supervisor {how}")

    def _take_note(self, error: ConnectionLost) -> None:
        if isinstance(error, PeerUnresponsive):
            self._unresponsive = True
            if self._link is not None:
                self._link.kill()  # nobody reaches what it has started

    async def close(self, timeout: float) -> None:
        """Close the stream, and wait until the supervisor has ended; kill it after *timeout*."""
        if self._link is None:
            return
        if self._client is not None:
            self._client.close()
        else:  # it does not answer yet; and launch(), which has been cancelled, closes the stream
            self._link.kill()
        try:
            await asyncio.wait({self._link.ended}, timeout=timeout)
        finally:  # also if we are cancelled
            self._link.kill()
        await asyncio.wait({self._link.ended}, timeout=_EXIT_TIMEOUT)
