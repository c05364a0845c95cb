"""The names and addresses of this machine, as far as it knows them itself."""

from __future__ import annotations

import contextlib
import ipaddress
import queue
import socket
import threading

from pki import authority
from pki.authority import PkiError

__all__ = ["names_of_host"]

_PATIENCE = 3.0
"""Seconds. Without a network, asking for names may take much longer."""

# Documentation addresses (RFC 5737, RFC 3849): they say which interface leads to the world, and
# nothing is sent to them.
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def names_of_host() -> authority.Names:
    """Return this host's names and addresses, those by which it reaches itself included."""
    hostname = socket.gethostname()
    found = [hostname, _within(_PATIENCE, hostname), "localhost"]
    found += [address for family, target in _ELSEWHERE if (address := _source(family, target))]
    found += ["127.0.0.1", "::1"]
    good = []
    for name in found:
        with contextlib.suppress(PkiError):  # a host may have a name that is none in DNS
            authority.parse_names([name])
            good.append(name)
    return authority.parse_names(good)


def _within(seconds: float, hostname: str) -> str:
    """Return the full name of the host, or the short one if nobody answers in time."""
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(socket.getfqdn(hostname)), daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return hostname


def _source(family: socket.AddressFamily, target: str) -> str | None:
    """Return the address from which this host would send to *target*."""
    with (
        contextlib.suppress(OSError),
        socket.socket(family, socket.SOCK_DGRAM) as sock,
    ):
        sock.connect((target, 9))
        address = ipaddress.ip_address(sock.getsockname()[0].partition("%")[0])
        if not (address.is_loopback or address.is_link_local or address.is_unspecified):
            return str(address)
    return None
