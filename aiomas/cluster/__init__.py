"""Many containers, in processes of their own, as one system.

>>> from aiomas.cluster import Cluster
"""

from aiomas.cluster.cluster import Cluster, ContainerInfo
from aiomas.exceptions import ClusterError, ContainerDied, SpawnError

__all__ = ["Cluster", "ClusterError", "ContainerDied", "ContainerInfo", "SpawnError"]
