"""Many containers, in processes of their own, as one system.

>>> from aiomas.cluster import Cluster
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aiomas.exceptions import ClusterError, ContainerDied, PartialResult, SpawnError

if TYPE_CHECKING:
    from aiomas.cluster.cluster import Cluster
    from aiomas.cluster.events import ClusterEvent, EventKind
    from aiomas.cluster.hosts import HostSpec
    from aiomas.cluster.info import ContainerInfo, HostInfo
    from aiomas.cluster.launchers.command import CommandLauncher
    from aiomas.cluster.launchers.ray import RayLauncher
    from aiomas.cluster.launchers.ssh import SSHLauncher
    from aiomas.cluster.spec import RestartPolicy
    from aiomas.cluster.state import checkpoint

__all__ = [
    "Cluster",
    "ClusterError",
    "ClusterEvent",
    "CommandLauncher",
    "ContainerDied",
    "ContainerInfo",
    "EventKind",
    "HostInfo",
    "HostSpec",
    "PartialResult",
    "RayLauncher",
    "RestartPolicy",
    "SSHLauncher",
    "SpawnError",
    "checkpoint",
]

# Imported when they are used: the supervisor and the containers need little of it, and how soon
# they are ready depends on that.
_PLACES = {
    "Cluster": "cluster",
    "ClusterEvent": "events",
    "CommandLauncher": "launchers.command",
    "ContainerInfo": "info",
    "EventKind": "events",
    "HostInfo": "info",
    "HostSpec": "hosts",
    "RayLauncher": "launchers.ray",
    "RestartPolicy": "spec",
    "SSHLauncher": "launchers.ssh",
    "checkpoint": "state",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
