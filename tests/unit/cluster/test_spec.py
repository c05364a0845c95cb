"""The values of a cluster: each bad one is refused with the name of its field."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.util
import inspect
import os
import re
from typing import Any

import arrow
import pytest

from aiomas import Limits
from aiomas.cluster import Cluster
from aiomas.cluster.policy import HostPolicy
from aiomas.cluster.spec import ClusterSpec, RestartPolicy, clock_date, environments
from aiomas.codecs import MsgPack
from tests.ids import plain

GOOD: dict[str, Any] = {
    "containers": 2,
    "transport": "unix",
    "codec": "aiomas.codecs:JSON",
    "extra_serializers": (),
    "loop": "asyncio",
    "clock": None,
}


class TestClusterSpec:
    @pytest.mark.parametrize("field", GOOD)
    def test_good_values_are_kept(self, field):
        assert getattr(ClusterSpec(**GOOD), field) == GOOD[field]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("containers", 0),
            ("containers", -1),
            ("containers", "8"),
            ("containers", 2.0),
            ("containers", None),
            ("transport", "udp"),
            ("transport", None),
            ("loop", "trio"),
            ("loop", ["asyncio"]),
            ("restart", "always"),
            ("limits", 5),
            ("on_hang", "kill"),
            ("port", -1),
            ("seed", 1.5),
            ("seed", True),
            ("nice", -21),
            ("nice", 20),
            ("memory", 0),
            ("open_files", "many"),
            ("log_bytes", 0),
            ("log_backups", -1),
            ("certificate_days", 0),
            ("certificate_days", 366),
            ("cwd", "/no/such/directory"),
        ],
    )
    def test_a_bad_value_is_refused_with_the_name_of_its_field(self, field, value):
        with pytest.raises(ValueError, match=f"^{field} must be .*{re.escape(repr(value))}$"):
            ClusterSpec(**GOOD | {field: value})

    @pytest.mark.parametrize("field", ["start_timeout", "stop_timeout", "hang_timeout"])
    @pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), "5", True])
    def test_a_bad_time_is_refused_with_the_name_of_its_field(self, field, value):
        with pytest.raises(ValueError, match=f"{field} is a .*{re.escape(repr(value))}"):
            ClusterSpec(**GOOD | {field: value})

    @pytest.mark.parametrize("field", ["start_timeout", "stop_timeout"])
    def test_start_and_stop_are_bounded(self, field):
        with pytest.raises(ValueError, match=f"{field} is a positive number of seconds, got None"):
            ClusterSpec(**GOOD | {field: None})

    def test_hangs_may_be_ignored(self):
        assert ClusterSpec(**GOOD | {"hang_timeout": None}).hang_timeout is None

    @pytest.mark.parametrize("value", [None, 1])
    def test_limits_are_optional(self, value):
        assert ClusterSpec(**GOOD | {"memory": value, "open_files": value}).memory == value

    def test_what_is_preloaded_has_names(self):
        with pytest.raises(ValueError, match="preload must be names of modules, got 5"):
            ClusterSpec(**GOOD | {"preload": ("json", 5)})

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"port": 65535, "transport": "tcp"}, "room for 2 ports up to 65535, got 65535"),
            ({"port": 5555}, "port=5555 needs transport='tcp' or 'tls'"),
            ({"env": ({}, {}, {})}, "one for each of the 2 containers, got 3"),
        ],
    )
    def test_values_that_do_not_fit_each_other_are_refused(self, fields, message):
        with pytest.raises(ValueError, match=message):
            ClusterSpec(**GOOD | fields)

    def test_the_last_ports_can_be_used(self):
        assert ClusterSpec(**GOOD | {"port": 65534, "transport": "tls"}).port == 65534

    @pytest.mark.parametrize(
        ("env", "expected"),
        [((), [{}, {}]), (({"A": "1"},), [{"A": "1"}] * 2), (({}, {"B": "2"}), [{}, {"B": "2"}])],
    )
    def test_variables_are_for_all_or_for_each(self, env, expected):
        spec = ClusterSpec(**GOOD | {"env": env})
        assert [spec.env_of(index) for index in range(2)] == expected

    def test_it_can_travel(self, tmp_path):
        spec = ClusterSpec(
            **GOOD | {"restart": RestartPolicy(mode="permanent", period=5), "cwd": str(tmp_path)},
            limits=Limits(heartbeat=None, max_frame=1000),
        )
        assert ClusterSpec.of_fields(MsgPack().decode(MsgPack().encode(spec.fields()))) == spec

    def test_it_cannot_be_changed(self):
        with pytest.raises(AttributeError):
            ClusterSpec(**GOOD).containers = 5  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("loop", "installed", "uvloop"),
        [
            ("asyncio", True, False),
            ("uvloop", True, True),
            ("auto", True, True),
            ("auto", False, False),
            ("asyncio", False, False),
        ],
    )
    def test_uvloop_is_used_where_it_is_wanted_and_there(
        self, loop, installed, uvloop, monkeypatch
    ):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed or None)
        assert ClusterSpec(**GOOD | {"loop": loop}).uses_uvloop is uvloop

    def test_uvloop_that_is_not_there_is_refused(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match="uvloop, which is not installed"):
            ClusterSpec(**GOOD | {"loop": "uvloop"})


class TestClocks:
    @pytest.mark.parametrize(
        "date",
        ["2020-01-02", 1577923200, datetime.date(2020, 1, 2), arrow.get("2020-01-02T01:00+01:00")],
        ids=plain,
    )
    def test_a_clock_is_a_date(self, date):
        assert clock_date(date) == "2020-01-02T00:00:00+00:00"

    @pytest.mark.parametrize("clock", ["nonsense", "", object(), [1]], ids=plain)
    def test_what_is_no_date_is_refused(self, clock):
        with pytest.raises(ValueError, match="clock must be a date"):
            clock_date(clock)


class TestEnvironments:
    @pytest.mark.parametrize(
        ("env", "expected"),
        [
            ((), ()),
            ({}, ()),
            ([], ()),
            ({"A": "1"}, ({"A": "1"},)),
            ([{"A": "1"}], ({"A": "1"},)),
            ([{}, {"B": "2"}], ({}, {"B": "2"})),
        ],
    )
    def test_one_mapping_or_one_for_each(self, env, expected):
        assert environments(env) == expected

    @pytest.mark.parametrize("env", [{"A": 1}, {1: "A"}, ["A=1"], [{}, None]], ids=plain)
    def test_anything_else_is_refused(self, env):
        with pytest.raises(ValueError, match="env must be a mapping of strings to strings"):
            environments(env)


class TestRestartPolicy:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("mode", "always"),
            ("intensity", -1),
            ("intensity", 1.5),
            ("intensity", True),
            ("period", 0),
            ("period", None),
            ("max_backoff", -1),
            ("backoff", -0.1),
            ("backoff", "1"),
        ],
    )
    def test_a_bad_value_is_refused_with_the_name_of_its_field(self, field, value):
        with pytest.raises(ValueError, match=rf"RestartPolicy\.{field} .*{value!r}"):
            RestartPolicy(**{field: value})

    @pytest.mark.parametrize(
        ("mode", "expected"),
        [
            ("permanent", [True, True, True, True]),
            ("transient", [False, True, True, True]),
            ("temporary", [False, False, False, False]),
        ],
    )
    def test_its_mode_decides_by_the_exit_code(self, mode, expected):
        policy = RestartPolicy(mode=mode)
        assert [policy.wants_restart(code) for code in (0, 1, -9, None)] == expected

    def test_pauses_double_up_to_the_longest(self):
        policy = RestartPolicy(backoff=0.5, max_backoff=3)
        assert [policy.pause(n) for n in (0, 1, 2, 3, 10**6)] == [0.5, 1, 2, 3, 3]

    def test_there_may_be_no_pauses_and_no_restarts(self):
        policy = RestartPolicy(backoff=0, intensity=0)
        assert policy.pause(100) == 0


def default_parameters():
    """Return what a cluster on this machine alone has; the default of *transport* follows that."""
    parameters = inspect.signature(Cluster).parameters.items()
    return {name: parameter.default for name, parameter in parameters} | {"transport": "unix"}


class TestParameters:
    """What a user gives a cluster becomes fields that can travel."""

    def test_each_field_is_one_of_a_cluster(self):
        defaults = default_parameters()
        assert ClusterSpec.of_parameters(defaults | {"containers": 2}) == ClusterSpec(containers=2)

    def test_what_it_leaves_out_is_about_hosts_or_for_the_driver_alone(self):
        defaults = default_parameters()
        assert HostPolicy.of_parameters(defaults) == HostPolicy()
        fields = {field.name for field in dataclasses.fields(ClusterSpec)}
        assert set(defaults) - fields == {
            *("hosts", "sync", "address", "lease", "heartbeat", "on_host_loss", "allow_partial"),
            *("insecure", "launcher", "pki", "logs", "progress"),
        }

    def test_there_is_a_container_for_each_core(self, monkeypatch):
        def count():
            return ClusterSpec.of_parameters(default_parameters()).containers

        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 4, 5}, raising=False)
        assert count() == 3
        monkeypatch.delattr(os, "sched_getaffinity")
        monkeypatch.setattr(os, "cpu_count", lambda: None)
        assert count() == 1

    def test_they_get_another_form(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        spec = ClusterSpec.of_parameters(
            default_parameters()
            | {
                "containers": 1,
                "codec": "json",
                "clock": "2020-01-01",
                "preload": "math",
                "env": {"A": "b"},
                "cwd": ".",
                "log_dir": "logs",
            }
        )
        assert (spec.codec, spec.preload, spec.env) == (
            "aiomas.codecs:JSON",
            ("math",),
            ({"A": "b"},),
        )
        assert (spec.cwd, spec.log_dir) == (str(tmp_path), str(tmp_path / "logs"))
        assert spec.clock == "2020-01-01T00:00:00+00:00"


def test_a_network_between_hosts_may_break_and_one_machine_does_not():
    parameters = {field.name: field.default for field in dataclasses.fields(ClusterSpec)}
    parameters |= {"containers": 2, "codec": "msgpack", "limits": None, "env": ()}
    alone = ClusterSpec.of_parameters(parameters).limits
    several = ClusterSpec.of_parameters(parameters, several=True).limits
    assert (alone.heartbeat, alone.write_timeout) == (None, None)
    assert (several.heartbeat, several.write_timeout) == (None, Limits().write_timeout)
    chosen = ClusterSpec.of_parameters({**parameters, "limits": Limits(heartbeat=1)}, several=True)
    assert chosen.limits == Limits(heartbeat=1)
