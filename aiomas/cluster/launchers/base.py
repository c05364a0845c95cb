"""What a launcher is: it puts a supervisor on a host and hands back the stream to it."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from aiomas.cluster.hosts import HostSpec


def _nothing_said() -> str:
    return ""


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """A supervisor that was started."""

    sock: socket.socket
    """The duplex stream to it, connected."""
    ended: asyncio.Future[int]
    """Done when what was started here has ended; the exit code, negative for a signal."""
    kill: Callable[[], None]
    """Ends it at once, if it has not ended yet."""
    said: Callable[[], str] = _nothing_said
    """Returns the last lines that it has written on its standard error stream; for messages."""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What is known of the host, as far as the launcher has learned it.  That is ``hostname``,
    ``python`` and ``aiomas`` (versions), ``cores``, ``pid``, ``clock`` (what its clock said, in
    seconds since the epoch), ``asked`` and ``answered`` (ours before and after that),
    ``control`` and ``wire`` (the versions of what it speaks) and
    ``address`` (where the driver sees it)."""


class Launcher:
    """Puts supervisors on hosts.

    A subclass has to have :meth:`launch`; the other methods are for those that also choose hosts.
    All of them are called in the event loop of the control plane.
    """

    chooses_hosts: ClassVar[bool] = False
    """Whether :meth:`allocate` finds hosts by itself."""

    async def allocate(
        self,
        hosts: Sequence[HostSpec],
        containers: int | None,  # noqa: ARG002 - for those that choose
        timeout: float,  # noqa: ARG002 - as above
    ) -> list[HostSpec]:
        """Return the hosts to launch supervisors on, with how many containers each one has.

        Called once at the start, and for each host that is added or lost later.

        Args:
            hosts: those that the user has named; none, if the launcher is to choose.
            containers: how many containers there are to be on hosts that do not say it; ``None``
                if the user has not said it.
            timeout: seconds that this may take.

        Raises:
            ClusterError: there is no room for them; the message says what is short where.
        """
        return list(hosts)

    async def launch(self, host: HostSpec, timeout: float) -> Link:
        """Start a supervisor.

        Args:
            host: where.
            timeout: seconds until it has to be there.

        Raises:
            OSError: it could not be started.
            ClusterError: the host cannot be used; the message says why, and what to do.
        """
        raise NotImplementedError

    async def release(self, host: HostSpec) -> None:
        """Give back what was allocated for a host that is not used any more."""

    async def close(self) -> None:
        """Give back everything; the cluster has ended."""
