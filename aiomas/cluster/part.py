"""What a supervisor is told about the part that its host has in a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from aiomas.cluster.info import LOCALHOST

LOOPBACK = "127.0.0.1"
"""Where containers listen that only this machine has to reach."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The part of one host."""

    host: str = LOCALHOST
    """How the cluster calls it."""
    indices: tuple[int, ...] = ()
    """The containers that it starts with."""
    bind: str = LOOPBACK
    """The IP address at which its containers listen, if they do that at ports."""
    address: str = LOOPBACK
    """The host name or IP address at which others dial them."""
    lease: float | None = None
    """Seconds for which it goes on without its driver; ``None`` if that is on the same machine, so
    that its end is noticed in any case."""
    heartbeat: float = 1.0
    """Seconds between two times that the lease is asked for."""
    incarnation: int = 0
    """How often this host was lost before."""
    several: bool = False
    """Whether the run has other hosts as well."""
    archive: bool = False
    """Whether the driver wants the states of agents, to make them again on other hosts."""
    shipped: bool = False
    """Whether modules are to be received before any are imported."""

    def fields(self) -> dict[str, Any]:
        """Return what :meth:`of_fields` makes the same value from; it can travel."""
        return dataclasses.asdict(self)

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Part:
        """Return the value with these fields."""
        return cls(**{**fields, "indices": tuple(fields["indices"])})
