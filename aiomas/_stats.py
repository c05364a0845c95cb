"""Counting what connections do."""

from __future__ import annotations

import collections
import dataclasses

__all__ = ["ContainerStats"]


class Counters:
    """What the connections of one owner have done so far."""

    __slots__ = ("bytes_in", "bytes_out", "calls_in", "calls_out", "errors", "limits_hit")

    def __init__(self) -> None:
        self.calls_in = 0
        self.calls_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.errors = 0
        self.limits_hit: collections.Counter[str] = collections.Counter()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ContainerStats:
    """What a container is doing, and has done since it was created."""

    connections: int
    """Connections that are open now, whoever opened them."""
    calls_in: int
    """Calls that came from others, or from agents of the same container."""
    calls_out: int
    """Calls that were made, also those to agents of the same container."""
    bytes_in: int
    """Bytes received over connections."""
    bytes_out: int
    """Bytes written to connections."""
    errors: int
    """Calls that failed, in both directions."""
    pending: int
    """Calls made that have no reply yet."""
    serving: int
    """Calls being served, or waiting for it."""
    limits_hit: dict[str, int]
    """How often a field of :class:`~aiomas.Limits` stopped something, by its name."""
