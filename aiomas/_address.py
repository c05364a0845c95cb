"""Addresses as values, and the agent URLs that are made of them.

``tcp://host:port/aid`` (IPv6 in brackets), ``ipc://[path]/aid`` and ``local://queue-id/aid``.
Knows nothing of sockets.
"""

from __future__ import annotations

import dataclasses
import re

from aiomas.exceptions import AddressError


@dataclasses.dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP port on a host (a name, an IPv4 or an IPv6 address)."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The base URL, which ends with a slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}/"


@dataclasses.dataclass(frozen=True, slots=True)
class IpcAddress:
    """A Unix domain socket."""

    path: str

    @property
    def url(self) -> str:
        """The base URL, which ends with a slash."""
        return f"ipc://[{self.path}]/"


@dataclasses.dataclass(frozen=True, slots=True)
class LocalAddress:
    """A queue of :mod:`aiomas.local_queue` in this process."""

    queue_id: str

    @property
    def url(self) -> str:
        """The base URL, which ends with a slash."""
        return f"local://{self.queue_id}/"


Address = TcpAddress | IpcAddress | LocalAddress

_PORT = re.compile("[0-9]{1,5}")
_FORMS = "'tcp://host:port/aid', 'ipc://[path]/aid' or 'local://queue-id/aid'"


def parse_url(url: str) -> tuple[Address, str]:
    """Split an agent's URL into the address of its container and the agent's id.

    Raises:
        AddressError: *url* has none of the three forms, or its port or its agent id is bad.
    """
    scheme, separator, rest = url.partition("://") if isinstance(url, str) else ("", "", "")
    if not separator or scheme not in _PARSERS:
        msg = f"{url!r} is no agent URL: expected {_FORMS}"
        raise AddressError(msg)
    address, aid = _PARSERS[scheme](url, rest)
    if not aid:
        msg = f"{url!r} lacks the agent's id: expected {_FORMS}"
        raise AddressError(msg)
    return address, aid


def _parse_tcp(url: str, rest: str) -> tuple[Address, str]:
    netloc, _, aid = rest.partition("/")
    # IPv6 addresses should be in brackets, but aiomas 2.0 writes them without.
    host, _, port = netloc.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host:
        msg = f"{url!r} lacks a host or a port: expected 'tcp://host:port/aid'"
        raise AddressError(msg)
    if not (_PORT.fullmatch(port) and 0 < int(port) < 1 << 16):
        msg = f"{url!r}: {port!r} is no port number (1 to 65535)"
        raise AddressError(msg)
    return TcpAddress(host, int(port)), aid


def _parse_ipc(url: str, rest: str) -> tuple[Address, str]:
    path, bracket, aid = rest.rpartition("]/")
    if not (bracket and path.startswith("[") and len(path) > 1):
        msg = f"{url!r}: expected 'ipc://[path]/aid', with the socket's path in brackets"
        raise AddressError(msg)
    return IpcAddress(path[1:]), aid


def _parse_local(url: str, rest: str) -> tuple[Address, str]:
    queue_id, _, aid = rest.partition("/")
    if not queue_id:
        msg = f"{url!r} lacks the queue's id: expected 'local://queue-id/aid'"
        raise AddressError(msg)
    return LocalAddress(queue_id), aid


_PARSERS = {"tcp": _parse_tcp, "ipc": _parse_ipc, "local": _parse_local}
