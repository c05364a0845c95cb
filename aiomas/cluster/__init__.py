"""Many containers, in processes of their own, as one system.

>>> from aiomas.cluster import Cluster
"""

from aiomas.cluster.cluster import Cluster
from aiomas.cluster.events import ClusterEvent, EventKind
from aiomas.cluster.info import ContainerInfo
from aiomas.cluster.spec import RestartPolicy
from aiomas.cluster.state import checkpoint
from aiomas.exceptions import ClusterError, ContainerDied, PartialResult, SpawnError

__all__ = [
    "Cluster",
    "ClusterError",
    "ClusterEvent",
    "ContainerDied",
    "ContainerInfo",
    "EventKind",
    "PartialResult",
    "RestartPolicy",
    "SpawnError",
    "checkpoint",
]
