"""What is said of a run and of its hosts, in lines for people."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from aiomas.cluster.summary import summary
from aiomas.cluster.terminal import printable, span

_RUNNING = "running"
_LEFT = "left"


def heading(facts: Mapping[str, Any], containers: Sequence[Mapping[str, Any]]) -> str:
    """Return one line about a run."""
    running = sum(status["state"] == _RUNNING for status in containers)
    hosts = [host["state"] for host in facts.get("hosts", ()) if host["state"] != _LEFT]
    where = f" on {hosts.count(_RUNNING)} of {len(hosts)} hosts" if len(hosts) > 1 else ""
    return printable(
        f"{facts['name']}: {running} of {len(containers)} containers running{where}, "
        f"{facts['transport']}, for {span(time.time() - facts['started'])}, pid {facts['pid']}"
    )


def hosts_in_trouble(facts: Mapping[str, Any]) -> list[str]:
    """Return a line for each host of a run that does not run."""
    return [
        printable(_of_host(host)) for host in facts.get("hosts", ()) if host["state"] != _RUNNING
    ]


def _of_host(host: Mapping[str, Any]) -> str:
    since, problem = host.get("since"), host.get("problem")
    line = f"{host['name']}: {host['state']}"
    if since is not None:
        line += f" for {span(time.time() - since)}"
    return f"{line}: {summary(problem)}" if problem else line


def by_host(
    facts: Mapping[str, Any], containers: Sequence[dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the statuses of containers by the names of their hosts.

    Hosts are in the order in which the run has them, containers in that of their indices.
    """
    found: dict[str, list[dict[str, Any]]] = {host["name"]: [] for host in facts.get("hosts", ())}
    for status in sorted(containers, key=lambda status: status["index"]):
        found.setdefault(status.get("host", ""), []).append(status)
    return found


def with_host(
    facts: Mapping[str, Any], containers: Sequence[dict[str, Any]], titles: Sequence[str]
) -> tuple[list[str], list[tuple[list[str], dict[str, Any]]]]:
    """Return what goes into a table: a column for the host comes first if there are several.

    Args:
        facts: those of the run.
        containers: the statuses of its containers.
        titles: those of the other columns.

    Returns:
        The titles; and for each container how its row begins, and its status.
    """
    hosts = by_host(facts, containers)
    several = len(hosts) > 1
    return (["host"] if several else []) + list(titles), [
        ([host] if several else [], status) for host, found in hosts.items() for status in found
    ]
