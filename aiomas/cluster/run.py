"""Starting and stopping a cluster: the steps, in their order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiomas.clocks import ExternalClock
from aiomas.cluster.container import ClusterContainer
from aiomas.cluster.control import ControlThread, Host
from aiomas.cluster.events import ClusterEvent
from aiomas.cluster.info import LOCALHOST
from aiomas.cluster.launchers.base import Launcher
from aiomas.cluster.loading import load
from aiomas.cluster.rundir import remove_tree, sweep
from aiomas.cluster.spec import ClusterSpec
from aiomas.exceptions import ClusterError

if TYPE_CHECKING:
    from aiomas.cluster.certificates import Credentials

_PAUSE = 0.02  # seconds between two looks whether the run has gone
_REMOVAL_TIMEOUT = 2.0  # seconds in which a fork server that lives has removed all
_MARGIN = 5.0  # seconds that a supervisor may be late to what its containers have


class Lifecycle:
    """A cluster from its start to its end, as its driver sees it.

    Args:
        spec: what it is to be.
        pki: the directory of a certificate authority; ``None`` for one of this run alone.
        on_event: called with each event, in the event loop of the caller.
        on_log: called with the index of a container and lines of its log, in the thread of the
            control plane; ``None`` for not.
    """

    def __init__(
        self,
        spec: ClusterSpec,
        pki: str | os.PathLike[str] | None,
        on_event: Callable[[ClusterEvent], object],
        on_log: Callable[[int, Sequence[str]], object] | None,
    ) -> None:
        self.name = spec.name or ""
        """The name of the run; known when it was started."""
        self.directory: Path | None = None
        """Where its sockets and logs are."""
        self.container: ClusterContainer | None = None
        """The driver's own container."""
        self._spec = spec
        self._pki = pki
        self._on_event = on_event
        self._on_log = on_log
        self._thread: ControlThread | None = None
        self._host: Host | None = None
        self._token = secrets.token_hex(32)

    async def start(
        self, launcher: Launcher, on_lost: Callable[[], object]
    ) -> list[dict[str, Any]]:
        """Start all containers, and return what the supervisor knows of each.

        Args:
            launcher: starts the supervisor.
            on_lost: called in our event loop when the supervisor is gone.

        Raises:
            OSError: something cannot be made or bound.
            ContainerDied: a container ended before it answered.
            ClusterError: something else failed.
        """
        spec, loop = self._spec, asyncio.get_running_loop()

        def to_us(function: Callable[..., object]) -> Callable[..., None]:
            def call(*args: Any) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(function, *args)

            return call

        self._thread = ControlThread()
        self._host = Host(to_us(self._on_event), self._on_log or _nothing)
        await self._thread.run(self._host.launch(launcher, spec.start_timeout, to_us(on_lost)))
        prepared = await self.call("prepare", spec.fields(), _facts(spec))
        self.name, self.directory = prepared["name"], Path(prepared["directory"])
        contexts, credentials = await self._certificates(prepared["request"])
        begun = asyncio.create_task(
            self.call("begin", self._token, credentials, echo=self._on_log is not None)
        )
        try:
            self.container = await self._make_container(contexts)
            return list(await begun)
        finally:
            if not begun.cancel() and not begun.cancelled():
                begun.exception()  # if we fail for another reason, nobody asks for it

    async def call(
        self, method: str, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """Call a method of the supervisor; see :meth:`aiomas.cluster.control.Host.call`."""
        if self._thread is None or self._host is None:
            msg = "The cluster does not run; use it in an 'async with' block"
            raise ClusterError(msg)
        return await self._thread.run(self._host.call(method, *args, timeout=timeout, **kwargs))

    async def lost(self) -> ClusterError:
        """Return what to raise because the supervisor is gone."""
        assert self._thread is not None  # noqa: S101 - somebody has heard of it
        assert self._host is not None  # noqa: S101
        return await self._thread.run(self._host.lost())

    async def clean_up(self) -> None:
        """Return when nothing is left of a run whose supervisor is gone."""
        if self._thread is not None:
            await self._thread.run(self._nothing_is_left())

    async def stop(self, timeout: float) -> list[int | None]:
        """End everything; at once, if this is cancelled.

        Args:
            timeout: seconds that containers have to end, before they are terminated and, after
                the same time again, killed.

        Returns:
            How each container's last process ended, as far as the supervisor could still tell.
        """
        patience = 0.0
        exit_codes: list[int | None] = []
        try:
            if self._host is not None and self.directory is not None:
                with contextlib.suppress(ClusterError):  # it is gone, or will be when it is closed
                    bound = 3 * timeout + _MARGIN
                    exit_codes = list(await self.call("stop", timeout, timeout=bound))
            patience = min(timeout, _MARGIN)
        finally:
            closing = asyncio.ensure_future(self._close(patience))
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError:  # the containers have ended; this takes a moment
                await asyncio.wait({closing})
                raise
        return exit_codes

    async def _close(self, patience: float) -> None:
        try:
            if self.container is not None:
                await self.container.shutdown(as_coro=True, timeout=patience)
        finally:
            thread, self._thread = self._thread, None
            if thread is not None:
                try:
                    if self._host is not None:
                        await thread.run(self._host.close(patience))
                        await thread.run(self._nothing_is_left())
                finally:
                    await thread.stop()

    async def _nothing_is_left(self) -> None:
        """Return when the directory of the run has gone, which is the last thing that goes.

        If the supervisor was killed, the fork server removes it when all containers have ended; if
        that was killed as well, we do it.
        """
        if self.directory is None:
            # It ended before it could tell which one it had; then no container has used it.
            with contextlib.suppress(ClusterError, OSError):
                sweep()
            return
        until = time.monotonic() + _REMOVAL_TIMEOUT
        while self.directory.exists() and time.monotonic() < until:  # noqa: ASYNC110 - see above
            await asyncio.sleep(_PAUSE)
        remove_tree(self.directory)

    async def _certificates(self, request: bytes | None) -> tuple[Any, Any]:
        """Return our own contexts for TLS, and what the supervisor needs; nothing without TLS."""
        if request is None:
            return None, None
        from aiomas.cluster import certificates  # noqa: PLC0415 - only TLS pays for it

        assert self.directory is not None  # noqa: S101 - known before
        # It has to wait while others use the authority.  If nobody waits for it any more, all that
        # it leaves is an entry in the index of the authority.
        ours, theirs = await asyncio.to_thread(self._sign, request)
        return certificates.contexts_for_driver(ours, self.directory), theirs

    def _sign(self, request: bytes) -> tuple[Credentials, tuple[bytes, bytes, bytes | None]]:
        from aiomas.cluster import certificates  # noqa: PLC0415 - as above

        days = self._spec.certificate_days
        if self._pki is None:
            authority = certificates.RunAuthority.temporary(self.name, days=days)
        else:
            authority = certificates.RunAuthority.of_directory(self._pki, days=days)
        theirs = authority.sign(request, LOCALHOST, certificates.LOOPBACK)
        ours = certificates.driver_credentials(authority)
        return ours, (theirs, authority.trusted, authority.crl)

    async def _make_container(self, contexts: Any) -> ClusterContainer:
        spec = self._spec
        assert self.directory is not None  # noqa: S101 - known before
        codec, serializers = load(spec.codec), [load(name) for name in spec.extra_serializers]
        address: Any = ("127.0.0.1", 0)
        sock = None
        if spec.transport == "unix":
            address = str(self.directory / "driver.sock")
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.bind(address)
        return await ClusterContainer.create(
            address,
            sock=sock,
            codec=codec,
            extra_serializers=serializers,
            clock=None if spec.clock is None else ExternalClock(spec.clock),
            ssl=contexts,
            token=self._token,
            limits=spec.limits,
            as_coro=True,
        )


def _facts(spec: ClusterSpec) -> dict[str, Any]:
    return {
        "driver_pid": os.getpid(),
        "transport": spec.transport,
        "containers": spec.containers,
        # It is told in JSON, which can have text only.
        "command": [str(word).encode(errors="replace").decode() for word in sys.argv],
    }


def _nothing(*_: object) -> None:
    """Do nothing with what nobody wants."""
