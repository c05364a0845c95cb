"""What a user wants of several hosts is checked before anything starts, and containers divided."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.policy import HostPolicy, check, divide

PARAMETERS = {
    "hosts": ["node1", HostSpec("node2", 3)],
    "sync": (),
    "lease": 20.0,
    "heartbeat": 2.0,
    "on_host_loss": "respawn",
    "allow_partial": True,
    "insecure": True,
    "address": "192.0.2.9",
}


class TestParameters:
    def test_they_are_what_the_user_says(self):
        policy = HostPolicy.of_parameters(PARAMETERS | {"containers": 4})
        assert policy.hosts == (HostSpec("node1"), HostSpec("node2", 3))
        assert policy.bundle is None
        for name in PARAMETERS.keys() - {"hosts", "sync"}:
            assert getattr(policy, name) == PARAMETERS[name]

    def test_modules_are_read_at_once(self, tmp_path):
        module = tmp_path / "agents.py"
        module.write_text("A = 1\n")
        policy = HostPolicy.of_parameters(PARAMETERS | {"sync": [module], "hosts": None})
        assert policy.hosts == ()
        assert policy.bundle is not None
        assert list(policy.bundle.entries) == ["agents.py"]

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ({"lease": None}, "lease is a positive number of seconds, got None"),
            ({"lease": -1.0}, "lease"),
            ({"heartbeat": 0}, "heartbeat"),
            ({"heartbeat": math.nan}, "heartbeat"),
            ({"heartbeat": "soon"}, "heartbeat"),
            ({"lease": 6.0}, r"lease=6.0 must be more than 3 heartbeats, which are 6.0 s"),
            ({"on_host_loss": "cry"}, "on_host_loss must be one of report, respawn, got 'cry'"),
            ({"sync": "agents.py"}, "sync must be a list of paths, got 'agents.py'"),
            ({"hosts": []}, "hosts must have at least one host"),
            ({"hosts": ["a", "b@a"]}, "hosts has 'a' twice"),
        ],
        ids=str,
    )
    def test_what_cannot_be_names_the_parameter(self, bad, message):
        with pytest.raises(ValueError, match=message):
            HostPolicy.of_parameters(PARAMETERS | bad)


class TestTransports:
    def policy(self, *hosts, **fields):
        return HostPolicy(hosts=hosts, **fields)

    def test_sockets_of_this_machine_reach_no_other(self):
        with pytest.raises(ValueError, match="transport='unix' is for this machine alone"):
            check(self.policy(HostSpec("node1")), "unix", None)

    def test_tls_needs_nothing(self, caplog):
        check(self.policy(HostSpec("node1")), "tls", None)
        assert caplog.messages == []

    @pytest.mark.parametrize(
        "hosts",
        [(), (HostSpec("node1"),), (HostSpec("localhost"), HostSpec("node1"))],
        ids=["chosen by the launcher", "elsewhere", "one elsewhere"],
    )
    def test_plain_text_needs_consent(self, hosts, caplog):
        with pytest.raises(ValueError, match="transport='tcp' sends everything in plain text"):
            check(self.policy(*hosts), "tcp", None)
        assert caplog.messages == []
        check(self.policy(*hosts, insecure=True), "tcp", None)
        assert "anybody on the network can read and change" in caplog.text

    def test_plain_text_on_this_machine_needs_none(self):
        here = (
            HostSpec("localhost"),
            HostSpec("node1", address="127.0.0.2"),
            HostSpec("x@127.0.0.1"),
        )
        check(self.policy(*here, address="127.0.0.1"), "tcp", None)

    @pytest.mark.parametrize(
        "policy",
        [
            HostPolicy(hosts=(HostSpec("node1", name="127.0.0.1"),)),
            HostPolicy(hosts=(HostSpec("localhost", bind="0.0.0.0"),)),
            HostPolicy(hosts=(HostSpec("localhost"),), address="192.0.2.1"),
        ],
        ids=["a name is no address", "it listens everywhere", "the driver is elsewhere"],
    )
    def test_what_only_looks_like_this_machine_needs_consent(self, policy):
        with pytest.raises(ValueError, match="insecure=True"):
            check(policy, "tcp", None)

    def test_no_other_host_can_have_the_name_of_this_machine(self):
        with pytest.raises(ValueError, match="'localhost' is the name of the driver's own machine"):
            check(self.policy(HostSpec("node1", name="localhost")), "tls", None)
        check(self.policy(HostSpec("localhost", name="desk")), "tls", None)

    def test_too_many_or_too_few_containers_are_known_before_the_start(self):
        hosts = HostSpec("node1", 2), HostSpec("node2", 3)
        check(self.policy(*hosts), "tls", 5)
        for wrong in (4, 6):
            with pytest.raises(ValueError, match=f"containers={wrong}, .* ask for 5 containers"):
                check(self.policy(*hosts), "tls", wrong)


sizes = st.lists(st.one_of(st.none(), st.integers(0, 50)), min_size=1, max_size=12)


def specs(asked):
    return [HostSpec(f"n{i}", number) for i, number in enumerate(asked)]


class TestDivision:
    @given(sizes, st.integers(0, 500))
    def test_each_one_has_what_it_asks_for_and_the_others_equal_parts(self, asked, containers):
        fixed = sum(number or 0 for number in asked)
        possible = containers >= fixed if None in asked else containers == fixed
        if not possible:
            with pytest.raises(ValueError, match=f"ask for {fixed} containers"):
                divide(specs(asked), containers, {})
            return
        shares = divide(specs(asked), containers, {"n0": 7})
        assert sum(shares) == containers
        assert all(n is None or n == share for n, share in zip(asked, shares, strict=True))
        equal = [share for n, share in zip(asked, shares, strict=True) if n is None]
        assert not equal or max(equal) - min(equal) <= 1
        assert equal == sorted(equal, reverse=True)

    @given(sizes, st.lists(st.integers(1, 64), min_size=12, max_size=12))
    def test_without_a_number_there_is_one_for_each_core(self, asked, cores):
        known = {f"n{i}": number for i, number in enumerate(cores)}
        expected = [cores[i] if number is None else number for i, number in enumerate(asked)]
        assert divide(specs(asked), None, known) == expected

    def test_a_host_whose_cores_are_not_known_has_one(self):
        assert divide(specs([None, 4]), None, {}) == [1, 4]

    def test_hosts_may_come_one_by_one(self):
        assert divide(iter(specs([None, 1, None])), 6, {}) == [3, 1, 2]
