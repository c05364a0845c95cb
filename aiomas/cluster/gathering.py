"""The start of a run on several hosts: which of them can be used, and what each of them gets.

What is asked of the hosts is asked by :class:`~aiomas.cluster.fleet.Fleet`, which owns them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

from aiomas._cores import usable_cores
from aiomas.cluster.addresses import is_ip, is_loopback, route_to
from aiomas.cluster.members import Member
from aiomas.cluster.part import LOOPBACK
from aiomas.cluster.policy import divide
from aiomas.exceptions import ClusterError, ContainerDied

Problems = dict[Member, BaseException]
"""What keeps hosts from being used."""


async def admit_all(
    members: Sequence[Member], reach: Callable[[Member], Awaitable[None]]
) -> Problems:
    """Take in those hosts that can be used; the others are missing from then on.

    Args:
        members: the hosts.
        reach: starts the supervisor of a host, and looks whether containers can run there.

    Returns:
        What keeps the others from being used.
    """

    async def admit(member: Member) -> None:
        await reach(member)
        member.becomes("running")

    results = await asyncio.gather(*map(admit, members), return_exceptions=True)
    problems = {
        member: result
        for member, result in zip(members, results, strict=True)
        if isinstance(result, BaseException)
    }
    for member, problem in problems.items():
        if not isinstance(problem, OSError | ClusterError | ContainerDied):
            raise problem
        member.becomes("missing", str(problem))
    return problems


def report(members: Sequence[Member], problems: Problems) -> str:
    """Return a text with a line for each host: that it is ready, or what is wrong with it."""
    first = (
        f"{len(problems)} of {len(members)} hosts cannot be used, so nothing was started "
        f"(allow_partial=True starts what can be):"
    )
    lines = [first]
    for member in members:
        text = str(problems[member]) if member in problems else member.described()
        lines.append(f"  {member.name}: " + text.replace("\n", "\n    "))
    return "\n".join(lines)


def own_address(others: Iterable[Member]) -> str:
    """Return the address at which the other hosts reach this machine."""
    addresses = [member.bind for member in others if member.runs]
    for address in addresses:
        if is_ip(address) and not is_loopback(address) and (ours := route_to(address)):
            return ours
    return LOOPBACK


def share_out(members: Sequence[Member], containers: int | None) -> int:
    """Say which containers each host has that can be used.

    Args:
        members: all hosts, home first; those that are missing get none.
        containers: how many there are to be, if somebody has said that.

    Returns:
        How many there will be.

    Raises:
        ClusterError: there are too few or too many for what the hosts ask for.
    """
    present = [member for member in members if member.runs]
    missing = [member for member in members if member.info.state == "missing"]
    if containers is not None:
        containers -= sum(member.spec.containers or 0 for member in missing)
        if missing and all(member.spec.containers is not None for member in present):
            containers = None  # nobody is there for what those that are missing would have had
    cores = {member.name: member.control.facts.get("cores", 1) for member in present}
    cores[members[0].name] = usable_cores()
    try:
        shares = divide([member.spec for member in present], containers, cores)
    except ValueError as exc:
        raise ClusterError(str(exc)) from exc
    first = 0
    for member, share in zip(present, shares, strict=True):
        member.info.containers = list(range(first, first + share))
        first += share
    return first


@contextlib.contextmanager
def about(member: Member) -> Iterator[None]:
    """Let errors say on which host something failed."""
    try:
        yield
    except ContainerDied:
        raise
    except ClusterError as exc:
        if member.spec.is_local:
            raise
        msg = f"host {member.name}: {exc}"
        raise ClusterError(msg) from exc
