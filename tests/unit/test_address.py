"""Addresses and URLs: each is the inverse of the other, and what is no URL says why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomas._address import IpcAddress, LocalAddress, TcpAddress, parse_url
from aiomas.exceptions import AddressError

host_names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,30}[A-Za-z0-9])?", fullmatch=True)
hosts = host_names | st.ip_addresses().map(str)
addresses = st.one_of(
    st.builds(TcpAddress, hosts, st.integers(1, 65535)),
    st.builds(IpcAddress, st.text(min_size=1)),
    st.builds(LocalAddress, st.text(min_size=1).filter(lambda name: "/" not in name)),
)
agent_ids = st.integers(min_value=0).map(str) | st.text("abc/-_.0123456789", min_size=1)


@given(addresses, agent_ids)
def test_parsing_is_the_inverse_of_formatting(address, aid):
    assert parse_url(address.url + aid) == (address, aid)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (TcpAddress("localhost", 5555), "tcp://localhost:5555/"),
        (TcpAddress("127.0.0.1", 1), "tcp://127.0.0.1:1/"),
        (TcpAddress("::1", 5555), "tcp://[::1]:5555/"),
        (TcpAddress("fe80::1%eth0", 5555), "tcp://[fe80::1%eth0]:5555/"),
        (IpcAddress("/tmp/x.sock"), "ipc://[/tmp/x.sock]/"),
        (LocalAddress("queue"), "local://queue/"),
    ],
)
def test_each_kind_of_address_has_its_form(address, url):
    assert address.url == url
    assert parse_url(url + "0") == (address, "0")


def test_a_path_may_look_like_the_end_of_an_address():
    assert parse_url("ipc://[/tmp/a]/b]/7") == (IpcAddress("/tmp/a]/b"), "7")


def test_an_agent_id_of_tcp_may_have_a_slash():
    assert parse_url("tcp://h:1/a/b") == (TcpAddress("h", 1), "a/b")


def test_addresses_are_values():
    assert TcpAddress("h", 1) == TcpAddress("h", 1)
    assert len({IpcAddress("p"), IpcAddress("p"), LocalAddress("p")}) == 2


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "no agent URL"),
        ("localhost:5555/0", "no agent URL"),
        ("http://localhost:5555/0", "no agent URL"),
        (None, "no agent URL"),
        (("localhost", 5555), "no agent URL"),
        ("tcp://localhost:5555", "lacks the agent's id"),
        ("tcp://localhost:5555/", "lacks the agent's id"),
        ("tcp://:5555/0", "lacks a host or a port"),
        ("tcp://[]:5555/0", "lacks a host or a port"),
        ("tcp://localhost/0", "lacks a host or a port"),
        ("tcp://localhost:/0", "no port number"),
        ("tcp://localhost:http/0", "no port number"),
        ("tcp://localhost:0/0", "no port number"),
        ("tcp://localhost:65536/0", "no port number"),
        ("tcp://localhost:-1/0", "no port number"),
        ("tcp://localhost:²/0", "no port number"),
        ("tcp://localhost:" + "9" * 5000 + "/0", "no port number"),
        ("ipc:///tmp/x/0", "in brackets"),
        ("ipc://[]/0", "in brackets"),
        ("ipc://[/tmp/x]0", "in brackets"),
        ("ipc://[/tmp/x]/", "lacks the agent's id"),
        ("local:///0", "lacks the queue's id"),
        ("local://queue", "lacks the agent's id"),
    ],
)
def test_what_is_no_agent_url_is_refused_and_the_message_says_why(url, complaint):
    with pytest.raises(AddressError, match=complaint):
        parse_url(url)


@given(st.text())
def test_any_other_text_is_an_address_error_or_an_address(text):
    for url in (text, f"tcp://{text}", f"ipc://{text}", f"local://{text}"):
        try:
            _, aid = parse_url(url)
        except AddressError as exc:
            assert isinstance(exc, ValueError)  # noqa: PT017 - most texts are no addresses
        else:
            assert aid


def test_an_ipv6_address_without_brackets_as_aiomas_2_writes_it():
    assert parse_url("tcp://::1:5555/0") == (TcpAddress("::1", 5555), "0")
    assert parse_url("tcp://fe80::1:2:5555/7") == (TcpAddress("fe80::1:2", 5555), "7")
