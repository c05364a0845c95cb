"""Who names no launcher has the one for his hosts."""

from __future__ import annotations

import subprocess
import sys

from aiomas.cluster.launchers.choice import default_launcher
from aiomas.cluster.launchers.local import LocalLauncher
from aiomas.cluster.launchers.ssh import SSHLauncher


def test_this_machine_has_child_processes():
    assert type(default_launcher(several=False)) is LocalLauncher


def test_several_hosts_are_reached_over_ssh():
    assert type(default_launcher(several=True)) is SSHLauncher


def test_who_has_one_machine_does_not_import_what_others_need():
    code = (
        "import sys; from aiomas.cluster.launchers.choice import default_launcher;"
        "default_launcher(several=False); assert 'aiomas.cluster.launchers.ssh' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
