"""Which launcher a cluster has if its user names none."""

from __future__ import annotations

from aiomas.cluster.launchers.base import Launcher
from aiomas.cluster.launchers.local import LocalLauncher


def default_launcher(*, several: bool) -> Launcher:
    """Return SSH for several hosts, and child processes for this machine alone."""
    if not several:
        return LocalLauncher()
    from aiomas.cluster.launchers.ssh import SSHLauncher  # noqa: PLC0415 - most need it not

    return SSHLauncher()
