"""Where one can listen is found out by listening there."""

from __future__ import annotations

import errno
import socket

import pytest

from aiomas.cluster.addresses import family_of, is_ip, is_loopback, problems_of, route_to

ELSEWHERE = "192.0.2.77"  # for documentation: no host has it


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "ip", "loopback"),
    [
        ("127.0.0.1", True, True),
        ("127.9.8.7", True, True),
        ("::1", True, True),
        ("localhost", False, True),
        ("192.0.2.1", True, False),
        ("fd00::1", True, False),
        ("0.0.0.0", True, False),
        ("node1.example", False, False),
        ("127.0.0.1.example", False, False),
        ("", False, False),
    ],
)
def test_addresses_are_told_apart(address, ip, loopback):
    assert (is_ip(address), is_loopback(address)) == (ip, loopback)


def test_each_kind_has_its_family():
    assert family_of("127.0.0.1") is socket.AF_INET
    assert family_of("::1") is socket.AF_INET6
    with pytest.raises(ValueError, match="node1"):
        family_of("node1")


def test_any_port_of_this_machine_can_be_had():
    assert problems_of("127.0.0.1", ()) == []


def test_ports_that_are_taken_are_named(taken):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        free = sock.getsockname()[1]
    [problem] = problems_of("127.0.0.1", (taken, free))
    assert problem == f"port {taken} of 127.0.0.1 cannot be had: Address already in use"


def test_nothing_is_held_after_a_look():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    assert problems_of("127.0.0.1", (port,)) == problems_of("127.0.0.1", (port,)) == []


@pytest.mark.parametrize("ports", [(), (7000, 7001, 7002)])
def test_an_address_of_another_host_is_said_once_with_what_to_do(ports):
    [problem] = problems_of(ELSEWHERE, ports)
    assert problem.startswith(f"{ELSEWHERE} is no address of this host")
    assert "HostSpec(bind=...)" in problem


def test_our_own_address_is_the_one_on_the_way():
    assert route_to("127.0.0.1") == "127.0.0.1"


def test_where_no_way_leads_we_have_none(monkeypatch):
    class Unreachable(socket.socket):
        def connect(self, address):
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "socket", Unreachable)
    assert route_to("127.0.0.1") is None
