"""A host is checked when it is named, and the hosts of a cluster have names of their own."""

from __future__ import annotations

import pytest

from aiomas.cluster.hosts import HostSpec, host_specs


def test_only_how_it_is_reached_has_to_be_said():
    spec = HostSpec("node1")
    assert (spec.containers, spec.name, spec.env, spec.label) == (None, None, {}, "node1")


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        (HostSpec("user@node1.example.org"), "node1.example.org"),
        (HostSpec("a@b@10.0.0.1"), "10.0.0.1"),
        (HostSpec("fe80::1"), "fe80::1"),
        (HostSpec("[no name]", name="first"), "first"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_host_is_called_after_how_it_is_reached(spec, label):
    assert spec.label == label


def test_this_machine_needs_no_launcher():
    assert HostSpec("localhost").is_local
    assert not HostSpec("user@localhost").is_local
    assert not HostSpec("node1", name="localhost").is_local


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"host": ""}, "HostSpec.host must be a string with something in it, got ''"),
        ({"host": 5}, "HostSpec.host must be a string"),
        ({"host": "a\nb"}, "HostSpec.host must be a string"),
        ({"host": "-oProxyCommand=x"}, "HostSpec.host cannot begin with '-'"),
        ({"containers": -1}, "HostSpec.containers must be a number from 0 up, got -1"),
        ({"containers": True}, "HostSpec.containers must be a number"),
        ({"containers": "4"}, "HostSpec.containers must be a number"),
        ({"name": ""}, "HostSpec.name must be a string"),
        ({"name": "a b"}, "HostSpec.name must have at most 64 letters"),
        ({"name": "a" * 65}, "HostSpec.name must have at most 64 letters"),
        ({"name": "driver"}, "HostSpec.name must .* not be 'driver'"),
        ({"host": "user@"}, "HostSpec.name must have"),
        ({"python": ""}, "HostSpec.python must be a string"),
        ({"cwd": 3}, "HostSpec.cwd must be a string"),
        ({"address": ""}, "HostSpec.address must be a string"),
        ({"bind": b"::"}, "HostSpec.bind must be a string"),
        ({"env": {"A": 1}}, "HostSpec.env must be a mapping of strings to strings"),
        ({"env": ["A"]}, "HostSpec.env must be a mapping"),
        ({"env": {"": "1"}}, "HostSpec.env cannot have a variable ''"),
        ({"env": {"A=B": "1"}}, "HostSpec.env cannot have a variable 'A=B'"),
        ({"env": {"A": "\0"}}, "HostSpec.env cannot have a variable 'A'"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_the_field(fields, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        HostSpec(**{"host": "node1"} | fields)


class TestSeveral:
    def test_may_be_strings(self):
        second = HostSpec("node2", 4)
        hosts: list[HostSpec | str] = ["user@node1", second]
        assert host_specs(iter(hosts)) == (HostSpec("user@node1"), second)

    @pytest.mark.parametrize(
        ("hosts", "message"),
        [
            ([], "hosts must have at least one host"),
            ("node1", "hosts must be a list of HostSpec or strings, got 'node1'"),
            (["node1", 2], "hosts must be a list of HostSpec or strings, got 2 in it"),
            (["a@node1", "b@node1"], "hosts has 'node1' twice: give each HostSpec a name="),
            (
                ["node1", HostSpec("localhost", name="x"), HostSpec("localhost", name="y")],
                "localhost is this machine: it can be in hosts once, .* got it as x and as y",
            ),
        ],
    )
    def test_are_checked(self, hosts, message):
        with pytest.raises(ValueError, match=f"^{message}"):
            host_specs(hosts)

    def test_may_be_reached_in_the_same_way_under_names_of_their_own(self):
        specs = host_specs([HostSpec("node1", name="a"), HostSpec("node1", name="b")])
        assert [spec.label for spec in specs] == ["a", "b"]
