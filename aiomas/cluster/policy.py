"""What a cluster over several hosts is to be: values that are checked before anything starts."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aiomas._limits import check_seconds
from aiomas.cluster.addresses import is_loopback
from aiomas.cluster.control import MISSED
from aiomas.cluster.hosts import HostSpec, host_specs
from aiomas.cluster.info import LOCALHOST
from aiomas.cluster.sync import Bundle

_log = logging.getLogger("aiomas.cluster")

ON_HOST_LOSS = ("report", "respawn")
FENCE = 5.0
"""Seconds that a host has to end its containers when its lease has run out."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostPolicy:
    """The hosts of a cluster, and what happens to them.

    Raises:
        ValueError: a field has a value that it cannot have; the message names the field.
    """

    hosts: tuple[HostSpec, ...] = ()
    """Those that the user has named; none if the launcher chooses them."""
    lease: float = 30.0
    heartbeat: float = 1.0
    on_host_loss: str = "report"
    allow_partial: bool = False
    insecure: bool = False
    bundle: Bundle | None = None
    """Modules that are sent to other hosts."""
    address: str | None = None
    """Where other hosts reach the driver."""

    def __post_init__(self) -> None:
        for name in ("lease", "heartbeat"):
            value = getattr(self, name)
            if value is None:
                msg = f"{name} is a positive number of seconds, got None"
                raise ValueError(msg)
            try:
                check_seconds(name, value)
            except TypeError as exc:
                raise ValueError(str(exc)) from None
        if self.lease <= MISSED * self.heartbeat:
            msg = (
                f"lease={self.lease} must be more than {MISSED} heartbeats, "
                f"which are {MISSED * self.heartbeat} s"
            )
            raise ValueError(msg)
        if self.on_host_loss not in ON_HOST_LOSS:
            choices = ", ".join(ON_HOST_LOSS)
            msg = f"on_host_loss must be one of {choices}, got {self.on_host_loss!r}"
            raise ValueError(msg)

    @classmethod
    def of_parameters(cls, parameters: Mapping[str, Any]) -> HostPolicy:
        """Return the value for what a user wants.

        Args:
            parameters: those of :class:`~aiomas.cluster.Cluster`, by their names.

        Raises:
            ValueError: one has a value that it cannot have; the message names it.
        """
        names = ("lease", "heartbeat", "on_host_loss", "allow_partial", "insecure", "address")
        hosts, paths = parameters["hosts"], _paths(parameters["sync"])
        return cls(
            hosts=() if hosts is None else host_specs(hosts),
            bundle=Bundle.of_paths(paths) if paths else None,
            **{name: parameters[name] for name in names},
        )


def _paths(paths: Iterable[str | os.PathLike[str]]) -> list[str | os.PathLike[str]]:
    if isinstance(paths, str | os.PathLike):
        msg = f"sync must be a list of paths, got {paths!r}"
        raise ValueError(msg)  # noqa: TRY004 - one kind of error for all parameters
    return list(paths)


def check(policy: HostPolicy, transport: str, containers: int | None) -> None:
    """Complain about what cannot be with several hosts.

    Raises:
        ValueError: it is so; the message names the parameter.
    """
    if any(host.label == LOCALHOST and not host.is_local for host in policy.hosts):
        msg = f"{LOCALHOST!r} is the name of the driver's own machine, give the host another one"
        raise ValueError(msg)
    if transport == "unix":
        msg = "transport='unix' is for this machine alone; with hosts it is 'tls' (or 'tcp')"
        raise ValueError(msg)
    is_here = bool(policy.hosts) and all(map(is_loopback, _addresses(policy)))
    if transport == "tcp" and not policy.insecure and not is_here:
        msg = (
            "transport='tcp' sends everything in plain text, and anybody on the network can "
            "read and change it: use 'tls', or say insecure=True"
        )
        raise ValueError(msg)
    if transport == "tcp" and policy.insecure:
        _log.warning(
            "transport='tcp' with insecure=True: anybody on the network can read and change what "
            "the containers send each other"
        )
    if policy.hosts:
        divide(policy.hosts, containers, {})


def _addresses(policy: HostPolicy) -> Iterator[str]:
    """Yield all addresses that the user has named, to dial or to listen at."""
    for host in policy.hosts:
        yield host.address or host.host.rpartition("@")[2]
        if host.bind is not None:
            yield host.bind
    if policy.address is not None:
        yield policy.address


def divide(
    hosts: Iterable[HostSpec], containers: int | None, cores: Mapping[str, int]
) -> list[int]:
    """Return how many containers each host gets.

    Args:
        hosts: the hosts.
        containers: how many there are to be in all, if somebody has said that.
        cores: how many each host has, by its name; as many containers it gets if nobody says
            anything else.

    Raises:
        ValueError: there are too few or too many for what the hosts ask for.
    """
    hosts = list(hosts)
    asked = sum(host.containers or 0 for host in hosts)
    open_ones = [host for host in hosts if host.containers is None]
    if containers is None:
        return [
            cores.get(host.label, 1) if host.containers is None else host.containers
            for host in hosts
        ]
    rest = containers - asked
    if rest < 0 or (rest and not open_ones):
        msg = f"containers={containers}, but the hosts ask for {asked} containers"
        raise ValueError(msg)
    each, more = divmod(rest, len(open_ones)) if open_ones else (0, 0)
    shares = iter([each + (number < more) for number in range(len(open_ones))])
    return [next(shares) if host.containers is None else host.containers for host in hosts]
