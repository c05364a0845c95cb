"""Where containers listen, and what keeps them from it."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence


def family_of(address: str) -> socket.AddressFamily:
    """Return the kind of socket that can be bound to an IP address."""
    is_v6 = ipaddress.ip_address(address).version == 6  # noqa: PLR2004 - that of IP
    return socket.AF_INET6 if is_v6 else socket.AF_INET


def is_ip(address: str) -> bool:
    """Whether it is an IP address, and not a name."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether nobody but this machine reaches it."""
    return address == "localhost" or (is_ip(address) and ipaddress.ip_address(address).is_loopback)


def problems_of(bind: str, ports: Sequence[int]) -> list[str]:
    """Return why nobody can listen at an address of this host; nothing if that can be done.

    Args:
        bind: an IP address.
        ports: those that have to be free; none for any one.
    """
    problems = []
    for port in ports or (0,):
        with socket.socket(family_of(bind), socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((bind, port))
                sock.listen()
            except OSError as exc:
                if exc.errno == errno.EADDRNOTAVAIL:
                    problem = (
                        f"{bind} is no address of this host: say where containers listen with "
                        f"HostSpec(bind=...), and where others dial them with address=..."
                    )
                    return [problem]
                problems.append(f"port {port} of {bind} cannot be had: {exc.strerror}")
    return problems


def route_to(address: str) -> str | None:
    """Return our own address on the way to an IP address; ``None`` if there is no way."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, 9))  # nothing is sent
        except OSError:
            return None
        name: str = sock.getsockname()[0]
        return name
