"""The driver's end of the control plane: a thread with an event loop of its own.

So a driver whose main thread is busy, or stands at an interactive prompt, is not taken for dead.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import operator
import selectors
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from aiomas import rpc
from aiomas._limits import Limits
from aiomas.cluster import streams
from aiomas.cluster.archive import Archive
from aiomas.cluster.endings import how_it_ended
from aiomas.cluster.events import ClusterEvent, EventKind, error_of_content
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.info import LOCALHOST
from aiomas.cluster.launchers.base import Launcher, Link
from aiomas.cluster.lease import now
from aiomas.cluster.records import States
from aiomas.exceptions import (
    ClusterError,
    ConnectionLost,
    DeadlineExceeded,
    PeerUnresponsive,
    RemoteException,
)

T = TypeVar("T")

MISSED = Limits().heartbeat_misses
"""How many heartbeats a supervisor may miss."""

HEARTBEAT = 10.0
"""Seconds; a supervisor on this machine that is silent for three of them is taken for dead."""
_THREAD_TIMEOUT = 10.0  # seconds that the thread has to end
_EXIT_TIMEOUT = 5.0  # seconds that a supervisor has to end when it has no driver any more


_STOPPED = "The cluster does not run any more: it has been stopped"


class Home(Protocol):
    """Who knows all of a run; its methods are called in the loop of the control thread."""

    async def watched(self) -> dict[str, Any]:
        """Return ``{"facts": {...}, "containers": [...]}``."""

    async def log_read(self, index: int, position: Any) -> tuple[Any, bytes]:
        """Return a part of the log of a container."""


class ControlThread:
    """A thread that runs an event loop."""

    def __init__(self) -> None:
        self._loop = _new_loop()
        self._told_to_end = False
        self._lock = threading.Lock()  # held while something is begun there, or nothing more is
        self._is_over = False
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._ended.set_running_or_notify_cancel()  # who waits and gives up does not cancel it
        self._thread = threading.Thread(target=self._run, name="aiomas-control", daemon=True)
        self._thread.start()

    async def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run *coro* there; cancelling us cancels it.

        Raises:
            ClusterError: the thread has ended, or does so before *coro* has.
        """
        with self._lock:
            running = None
            if not self._is_over:
                running = asyncio.run_coroutine_threadsafe(coro, self._loop)
        if running is None:
            coro.close()
            raise ClusterError(_STOPPED)
        task = asyncio.current_task()
        cancelled = 0 if task is None else task.cancelling()
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if self._is_over and (task is None or task.cancelling() == cancelled):
                raise ClusterError(_STOPPED) from None
            raise

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call *function* there."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function)

    async def stop(self) -> None:
        """End the thread."""
        if not self._told_to_end:  # a second time would stop what the loop does at its end
            self._told_to_end = True
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
            with self._lock:
                self._is_over = True
            # What was begun just now has become a task when the loop has gone round once.
            self._loop.run_until_complete(asyncio.sleep(0))
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
        home: what this one asks for all of the run, if it is that of the driver's own machine.
        heartbeat: seconds; who is silent for three of them is taken for dead.
    """

    router = rpc.Service()

    def __init__(
        self,
        on_event: Callable[[ClusterEvent], object],
        on_log: Callable[[int, Sequence[str]], object],
        home: Home | None = None,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        self.archive = Archive()
        """What is needed to make the agents there again."""
        self.lease_until = now()
        """When the lease there will have run out for certain, in the terms of ``lease.now()``."""
        self._on_event = on_event
        self._on_log = on_log
        self._home = home
        self._heartbeat = heartbeat
        self._host = HostSpec(LOCALHOST)
        self._lease: float | None = None
        self._link: Link | None = None
        self._client: rpc.RpcClient | None = None
        self._why_lost: str | None = None
        self._unresponsive = False

    async def launch(
        self, launcher: Launcher, host: HostSpec, timeout: float, on_lost: Callable[[], object]
    ) -> None:
        """Start the supervisor, and return when it answers.

        Args:
            launcher: starts it.
            host: where.
            timeout: seconds until it must answer.
            on_lost: called when the stream to it has ended.

        Raises:
            OSError: it could not be started, or does not answer in time.
            ClusterError: it has ended; the message says how.
        """
        self._host = host
        self._link = await launcher.launch(host, timeout)
        try:
            self._client = await streams.dial(
                self._link.sock,
                self,
                timeout=timeout,
                heartbeat=self._heartbeat,
                name=f"the supervisor{self._there or ' of this cluster'}",
            )
        except BaseException as exc:
            self._link.sock.close()
            try:
                if isinstance(exc, ConnectionError):
                    raise await self.lost() from exc
                if isinstance(exc, TimeoutError):
                    msg = f"The supervisor{self._there} has not answered within {timeout} s"
                    msg += self._said()
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
            if not self._host.is_local:  # what that means for the cluster is not known there
                return
        self._on_event(dataclasses.replace(event, host=self._host.label))

    @rpc.expose
    def renew(self) -> None:
        """Let the host go on.

        Raises:
            PermissionError: it was given up.
        """
        if self._lease is None or self._why_lost is not None:
            msg = "the host was given up, its agents may be elsewhere"
            raise PermissionError(msg)
        self.lease_until = now() + self._lease

    @rpc.expose
    def keep_state(self, index: int, aid: str, state: bytes | None) -> None:
        """Keep the state of an agent, or forget that (``None``)."""
        self.archive.take(index, aid, state)

    @rpc.expose
    async def watched(self) -> dict[str, Any]:
        """Return what is known of the run, for whoever looks at it from outside."""
        assert self._home is not None  # noqa: S101 - only the driver's own machine asks
        return await self._home.watched()

    @rpc.expose
    async def log_read(self, index: int, position: Any) -> tuple[Any, bytes]:
        """Return a part of the log of a container on another host."""
        assert self._home is not None  # noqa: S101 - as above
        return await self._home.log_read(index, position)

    @rpc.expose
    def log(self, index: int, lines: Sequence[str]) -> None:
        """Take lines of a container's log."""
        self._on_log(index, lines)

    async def call(
        self, method: str, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """Call a method of the supervisor.

        Args:
            method: its name; that of one of its parts, ``part.name``.
            args: its arguments.
            timeout: seconds that it has.
            kwargs: its keyword arguments.

        Raises:
            ContainerDied: the method says so.
            ClusterError: the method says so, or took longer than *timeout* seconds, or the
                supervisor is gone.
        """
        if self._client is None:
            msg = "The cluster does not run"
            raise ClusterError(msg)
        try:
            remote = operator.attrgetter(method)(self._client.remote)
            function = rpc.with_options(remote, timeout=timeout)
            reply = await function(*args, **kwargs)
        except ConnectionError as exc:
            raise await self.lost() from exc
        except DeadlineExceeded:
            msg = f"The supervisor{self._there} has not answered {method}() within {timeout} s"
            raise ClusterError(msg) from None
        except RemoteException as exc:
            msg = f"The supervisor{self._there} failed: {exc.remote_traceback}"
            raise ClusterError(msg) from None
        if "error" in reply:
            raise error_of_content(reply["error"])
        return reply["value"]

    async def spawn(
        self,
        index: int,
        target: str,
        local: str,
        arguments: bytes,
        *more: Any,
        respawn: bool,
        states: Sequence[States] = (),
    ) -> Any:
        """Make agents, and remember those that will be made again.

        Args:
            index: the container.
            target: what makes them, as the driver names it.
            local: the same, as it is named over there.
            arguments: their arguments.
            more: of :meth:`aiomas.cluster.supervisor.Supervisor.spawn`, which does it.
            respawn: whether they will be made again.
            states: for each of them, what it and those that are made with it begin with; they
                were sent there before.
        """
        if not respawn:
            return await self.call("spawn", index, local, arguments, respawn, *more)
        records = self.archive.of(index)
        with records.adding():
            reply = await self.call("spawn", index, local, arguments, respawn, *more)
            agents = [(url.rpartition("/")[2], aids) for url, _, aids in reply[0]]
            records.add(target, arguments, agents, states)
        return reply

    @property
    def is_open(self) -> bool:
        """Whether the supervisor can be asked for something."""
        return self._client is not None and self._client.channel.is_open

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the launcher has learned of the host."""
        return self._link.facts if self._link is not None else {}

    def grant(self, lease: float) -> None:
        """Let the host go on for so many seconds whenever it asks."""
        self._lease = lease
        self.lease_until = now() + lease

    async def give_up(self, why: str) -> None:
        """Have nothing to do with the host any more; *why* is what others are told."""
        self._why_lost = self._why_lost or why
        if self._client is not None:
            self._client.close()
        if self._link is not None:
            self._link.kill()

    @property
    def _there(self) -> str:
        return "" if self._host.is_local else f" on {self._host.label}"

    def _said(self) -> str:
        said = "" if self._link is None else self._link.said()
        return f"\nWhat was said last there:\n{said}" if said else ""

    async def lost(self) -> ClusterError:
        """Return what to raise because the supervisor is gone."""
        how = "closed its control stream"
        if self._unresponsive:
            how = f"has been silent for {MISSED * self._heartbeat:g} s"
        elif self._link is not None and self._why_lost is None:
            await asyncio.wait({self._link.ended}, timeout=_EXIT_TIMEOUT)
            if self._link.ended.done():
                how = how_it_ended(self._link.ended.result())
        if self._why_lost is not None:  # it has said so itself, if only with its last message
            return ClusterError(self._why_lost)
        if self._host.is_local:
            return ClusterError(f"The cluster is gone: its supervisor {how}")
        return ClusterError(f"the supervisor there {how}{self._said()}")

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
