"""What the driver knows of a container."""

from __future__ import annotations

import dataclasses

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
    again) or ``stopped``."""
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
