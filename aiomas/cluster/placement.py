"""Where new agents go: functions that choose a container for each of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiomas.cluster.cluster import ContainerInfo

Strategy = Callable[[Sequence["ContainerInfo"]], int]
"""Takes the containers that run and returns the index in this sequence for the next agent."""


class RoundRobin:
    """One after the other."""

    def __init__(self) -> None:
        self._count = itertools.count()

    def __call__(self, containers: Sequence[ContainerInfo]) -> int:
        return next(self._count) % len(containers)


def least_loaded(containers: Sequence[ContainerInfo]) -> int:
    """Choose the container in which the fewest agents were spawned."""
    return min(range(len(containers)), key=lambda position: containers[position].agents)


class Pinned:
    """Always the container with the same index."""

    def __init__(self, index: int) -> None:
        self._index = index

    def __call__(self, containers: Sequence[ContainerInfo]) -> int:
        for position, container in enumerate(containers):
            if container.index == self._index:
                return position
        msg = f"placement={self._index}: there is no running container with this index"
        raise ValueError(msg)
