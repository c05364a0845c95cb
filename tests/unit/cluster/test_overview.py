"""A run and its hosts in lines for people: what runs, what does not and why, and who is where."""

from __future__ import annotations

import time

import pytest

from aiomas.cluster.overview import by_host, heading, hosts_in_trouble, with_host

CONTAINERS = [
    {"index": 2, "host": "node1", "state": "running"},
    {"index": 0, "host": "node1", "state": "running"},
    {"index": 1, "host": "node2", "state": "died"},
]


def facts(**states):
    """Return what is known of a run with these hosts."""
    known = {"name": "winter", "transport": "tls", "started": time.time() - 5, "pid": 7}
    if states:
        known["hosts"] = [{"name": name, "state": state} for name, state in states.items()]
    return known


@pytest.mark.parametrize(
    ("hosts", "where"),
    [
        ({}, ""),
        ({"node1": "running"}, ""),
        ({"node1": "running", "node2": "lost", "node3": "running"}, " on 2 of 3 hosts"),
        ({"node1": "running", "node2": "running", "node3": "left"}, " on 2 of 2 hosts"),
    ],
)
def test_the_heading_counts_what_runs(hosts, where):
    line = heading(facts(**hosts), CONTAINERS)
    assert line == f"winter: 2 of 3 containers running{where}, tls, for 5 s, pid 7"


def test_there_is_a_line_for_each_host_that_does_not_run():
    known = facts(node1="running", node2="lost", node3="missing", node4="left")
    known["hosts"][1] |= {"since": time.time() - 61, "problem": "no\nheartbeat\x1b[2J"}
    known["hosts"][2]["problem"] = "no Python"
    assert hosts_in_trouble(known) == [
        "node2: lost for 1 min 1 s: no heartbeat\\x1b[2J",
        "node3: missing: no Python",
        "node4: left",
    ]
    assert hosts_in_trouble(facts()) == []


def test_containers_are_found_by_their_hosts():
    found = by_host(facts(node2="running", node3="running"), CONTAINERS)
    assert {host: [status["index"] for status in some] for host, some in found.items()} == {
        "node2": [1],
        "node3": [],
        "node1": [0, 2],
    }
    assert list(found) == ["node2", "node3", "node1"]


def test_a_table_says_the_host_if_there_are_several():
    titles, rows = with_host(facts(), CONTAINERS, ("#",))
    assert titles == ["host", "#"]
    assert [(start, status["index"]) for start, status in rows] == [
        (["node1"], 0),
        (["node1"], 2),
        (["node2"], 1),
    ]


def test_a_table_of_one_host_does_not_say_it():
    titles, rows = with_host(facts(node1="running"), CONTAINERS[:2], ("#",))
    assert titles == ["#"]
    assert [(start, status["index"]) for start, status in rows] == [([], 0), ([], 2)]
    assert with_host(facts(), [{"index": 0}], ["#"]) == (["#"], [([], {"index": 0})])
