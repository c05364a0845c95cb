"""What the driver knows of a container before it has heard of it."""

from __future__ import annotations

from aiomas.cluster.info import LOCALHOST, ContainerInfo


def test_a_container_is_starting_until_something_else_is_known():
    info = ContainerInfo(3)
    assert (info.index, info.state, info.host) == (3, "starting", LOCALHOST)
    assert (info.pid, info.url, info.agents, info.respawned) == (0, "", 0, 0)
    assert (info.exit_code, info.restarts, info.cpu_load) == (None, 0, 0.0)
