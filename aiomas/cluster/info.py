"""What the driver knows of a container."""

from __future__ import annotations

import dataclasses
import time

LOCALHOST = "localhost"
"""How this machine is called, as one of the hosts of a cluster."""


@dataclasses.dataclass(slots=True)
class ContainerInfo:
    """A container of a cluster, as the driver knows it."""

    index: int
    """Its number; the first one is 0."""
    pid: int = 0
    """The id of its process; after a restart, of the new one."""
    url: str = ""
    """Its base URL, which ends with a slash; it stays the same over restarts."""
    state: str = "starting"
    """``starting``, ``running``, ``hung``, ``died``, ``restarting``, ``failed`` (it is not started
    again), ``draining`` (it is about to be stopped), ``lost`` (with its host) or ``stopped``."""
    agents: int = 0
    """How many agents the driver has spawned there."""
    host: str = LOCALHOST
    """The host on which it runs."""
    exit_code: int | None = None
    """How its last process ended; negative for the number of the signal that killed it."""
    restarts: int = 0
    """How often it was started again."""
    cpu_load: float = 0.0
    """The share of a core that its process used when the driver last asked."""
    respawned: int = 0
    """How many of the agents are made again after a restart."""


@dataclasses.dataclass(slots=True)
class HostInfo:
    """A host of a cluster, as the driver knows it."""

    name: str
    """How the cluster calls it."""
    state: str = "starting"
    """``starting``, ``running``, ``lost``, ``missing`` (it could not be used when the cluster was
    started) or ``left`` (it was removed)."""
    address: str = ""
    """Where others dial its containers; empty if that is not known yet, or they have Unix
    sockets."""
    containers: list[int] = dataclasses.field(default_factory=list)
    """The indices of its containers."""
    problem: str | None = None
    """Why it is lost or missing."""
    since: float = dataclasses.field(default_factory=time.time)
    """Since when it is in this state, in seconds since the epoch."""
    incarnation: int = 0
    """How often it was lost before."""
