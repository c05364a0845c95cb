"""Where new agents go: functions that choose a container for each of them.

A strategy is a function that takes the containers that run and returns the position of one of them
in this sequence::

    def coolest(places):
        return min(range(len(places)), key=lambda position: places[position].cpu_load)
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol, SupportsIndex

from aiomas.agent import url_of
from aiomas.rpc import Proxy

__all__ = ["Beside", "OnHost", "Pinned", "Place", "RoundRobin", "Strategy", "least_loaded"]


class Place(Protocol):
    """A container, as strategies see it."""

    index: int
    """Its number in the cluster."""
    url: str
    """Its base URL, which ends with a slash."""
    host: str
    """The host on which it runs."""
    agents: int
    """How many agents were spawned there."""
    cpu_load: float
    """The share of one core that its process has used lately; 1.0 for all of it."""


Strategy = Callable[[Sequence[Place]], int]
"""Takes the containers that run and returns the position in this sequence for the next agent."""


class RoundRobin:
    """One after the other."""

    def __init__(self) -> None:
        self._count = itertools.count()

    def __call__(self, places: Sequence[Place]) -> int:
        return next(self._count) % len(places)


def least_loaded(places: Sequence[Place]) -> int:
    """Choose the container with the fewest agents, where one agent more weighs as its process uses.

    A process that uses all of a core counts as if it had twice its agents.
    """
    return min(range(len(places)), key=lambda position: _weight(places[position]))


def _weight(place: Place) -> tuple[float, int]:
    return (place.agents + 1) * (1.0 + place.cpu_load), place.agents


class Pinned:
    """Always the container with the same index.

    Args:
        index: its index.
    """

    def __init__(self, index: int) -> None:
        self._index = index

    def __repr__(self) -> str:
        return f"Pinned({self._index})"

    def __call__(self, places: Sequence[Place]) -> int:
        for position, place in enumerate(places):
            if place.index == self._index:
                return position
        msg = f"placement={self._index}: there is no running container with this index"
        raise ValueError(msg)


class OnHost:
    """The containers of one host: always the one of them that :func:`least_loaded` chooses.

    Args:
        name: the host's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"OnHost({self._name!r})"

    def __call__(self, places: Sequence[Place]) -> int:
        positions = [n for n, place in enumerate(places) if place.host == self._name]
        if not positions:
            msg = f"placement={self._name!r}: there is no running container on this host"
            raise ValueError(msg)
        return min(positions, key=lambda position: _weight(places[position]))


class Beside:
    """The container in which an agent lives.

    Args:
        agent: the agent, or a proxy for it.
    """

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self._base_url = url_of(agent).rpartition("/")[0] + "/"

    def __repr__(self) -> str:
        return f"Beside({self._agent!r})"

    def __call__(self, places: Sequence[Place]) -> int:
        for position, place in enumerate(places):
            if place.url == self._base_url:
                return position
        msg = f"placement={self!r}: it lives in no running container of this cluster"
        raise ValueError(msg)


def chooser(
    placement: str | int | Proxy | Strategy, places: Sequence[Place], round_robin: Strategy
) -> Strategy:
    """Return the strategy that a *placement* stands for; it never returns a bad position.

    Args:
        placement: ``"round-robin"``, ``"least-loaded"``, a host's name, a container's index, the
            proxy of an agent, or a strategy.
        places: all containers of the cluster, whether they run or not.
        round_robin: what ``"round-robin"`` stands for.

    Raises:
        ValueError: it stands for none.
    """
    hosts = sorted({place.host for place in places})
    match placement:
        case "round-robin":
            return round_robin
        case "least-loaded":
            return least_loaded
        case str() if placement in hosts:
            return OnHost(placement)
        case int() if not isinstance(placement, bool):
            return Pinned(placement)
        case Proxy():
            return Pinned(_index_of(placement, places))
        case _ if callable(placement):
            return _Checked(placement)
    msg = (
        f"placement must be 'round-robin', 'least-loaded', the name of a host (there are "
        f"{', '.join(hosts)}), a container's index, an agent's proxy or a strategy, "
        f"got {placement!r}"
    )
    raise ValueError(msg)


class _Checked:
    """A strategy of a user, whose answers are looked at."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy

    def __call__(self, places: Sequence[Place]) -> int:
        position: object = self._strategy(places)
        name = getattr(self._strategy, "__qualname__", None) or repr(self._strategy)
        if isinstance(position, bool) or not isinstance(position, SupportsIndex):
            msg = (
                f"The placement strategy {name} returned {position!r}, it has to return the "
                f"position of a container in the sequence that it gets"
            )
            raise TypeError(msg)
        position = operator.index(position)  # that of an array, say
        if not 0 <= position < len(places):
            msg = (
                f"The placement strategy {name} returned {position}, but there are "
                f"{len(places)} running containers, at positions 0 to {len(places) - 1}"
            )
            raise ValueError(msg)
        return position


def _index_of(agent: Proxy, places: Sequence[Place]) -> int:
    base_url = url_of(agent).rpartition("/")[0] + "/"
    for place in places:
        if place.url == base_url:
            return place.index
    msg = f"{agent!r} is no agent of this cluster"
    raise ValueError(msg)
