"""What the operating system knows about a TCP connection and can do for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

from aiomas._limits import Limits

_ACKED_AT = 120  # the offset of tcpi_bytes_acked in struct tcp_info, of 8 bytes


def keep_alive(sock: socket.socket, limits: Limits) -> None:
    """Let the operating system notice that the machine at the other end has vanished.

    It asks a silent peer for a sign of life (RFC 9293, section 3.8.4), and gives up data that the
    peer does not acknowledge (RFC 5482), at about the same time as our own limits would.
    """
    interval = limits.heartbeat or Limits().heartbeat
    assert interval is not None  # noqa: S101 - that is the default
    patience = 0.0  # the system's own
    if limits.write_timeout is not None:
        patience = max(interval * limits.heartbeat_misses, limits.write_timeout)
    for name, value, largest in (
        ("TCP_KEEPIDLE", max(1, round(interval)), 32_767),
        ("TCP_KEEPALIVE", max(1, round(interval)), 32_767),  # its name on macOS
        ("TCP_KEEPINTVL", max(1, round(interval)), 32_767),
        ("TCP_KEEPCNT", limits.heartbeat_misses, 127),
        ("TCP_USER_TIMEOUT", round(patience * 1000), 2**31 - 1),  # in milliseconds
    ):
        option = getattr(socket, name, None)
        if option is not None:
            with contextlib.suppress(OSError):  # the peer has ended the connection already
                sock.setsockopt(socket.IPPROTO_TCP, option, min(value, largest))
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def is_tcp(sock: socket.socket | None) -> bool:
    """Return whether this is a socket of TCP."""
    return sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}


def is_of_uvloop(transport: asyncio.BaseTransport) -> bool:
    """Return whether this is a transport of uvloop, which need not be installed."""
    return type(transport).__module__.partition(".")[0] == "uvloop"


def bytes_acknowledged(sock: socket.socket) -> int | None:
    """Return how many bytes the peer of a TCP connection has acknowledged, where that is known.

    Linux tells it, as ``tcpi_bytes_acked`` in ``struct tcp_info``.
    """
    if sys.platform != "linux" or not is_tcp(sock):
        return None
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + 8)
    if len(info) < _ACKED_AT + 8:
        return None
    return int.from_bytes(info[_ACKED_AT:], sys.byteorder)
