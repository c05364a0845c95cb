"""A supervisor is started with ssh, here a program that does as ssh would."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aiomas.cluster.control import Host
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.launchers.ssh import SSHLauncher
from aiomas.exceptions import ClusterError
from tests.unit.cluster.fakes import BOUND
from tests.unit.cluster.launchers.far_ends import executable

ALIVE = ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
SPEC = HostSpec("user@node1", python=sys.executable)


def fake_ssh(folder, instead=""):
    """Write a program that writes down its arguments, and does what ssh does here."""
    script = 'printf "%s\\n" "$@" >"$0.arguments"; SSH_CONNECTION="10.0.0.1 4711 10.0.0.2 22"\n'
    script += "export SSH_CONNECTION; while [ $1 != -- ]; do shift; done; shift\n"
    return executable(folder / "ssh", f'{script}{instead}\nexec sh -c "$*"\n')


async def test_a_supervisor_answers(tmp_path):
    ssh = fake_ssh(tmp_path)
    launcher = SSHLauncher(ssh=ssh, options=["-p", "2222"], connect_timeout=2.5)
    host = Host(print, print)
    await host.launch(launcher, SPEC, BOUND, lambda: None)
    try:
        assert list(await host.call("status", timeout=BOUND)) == []
        assert host._link is not None
        assert host._link.facts["address"] == "10.0.0.2"
    finally:
        await host.close(BOUND)
    arguments = Path(f"{ssh}.arguments").read_text().splitlines()
    assert arguments[:3] == ["-T", "-o", "BatchMode=yes"]
    assert arguments.index("2222") < arguments.index("ConnectTimeout=3")  # the first one counts
    assert arguments[-7:-1] == [*ALIVE, "user@node1", "--"]


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("Host key verification failed.", "has a key that is not in known_hosts: run `ssh user@"),
        ("WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!", "has another key than the one in"),
        ("user@node1: Permission denied (publickey).", "does not let us in: a key for it has to"),
        ("ssh: Could not resolve hostname node1: x", "cannot be reached: its name is not known"),
        ("connect to host node1 port 22: Connection refused", "cannot be reached: nothing listens"),
        ("connect to host node1 port 22: Connection timed out", "cannot be reached: it does not"),
        ("kex_exchange_identification: read: x", "cannot be reached; `"),
    ],
)
async def test_why_ssh_has_failed_is_said(tmp_path, said, meaning):
    ssh = fake_ssh(tmp_path, f"echo '{said}' >&2; exit 255")
    with pytest.raises(ClusterError) as failed:
        await SSHLauncher(ssh=ssh).launch(SPEC, BOUND)
    message = str(failed.value)
    assert message.startswith(f"node1 {meaning}")
    assert message.endswith(f"ended with exit code 255, and has said:\n{said}")


async def test_one_that_hangs_is_ended_in_time(tmp_path):
    ssh = fake_ssh(tmp_path, "sleep 60")
    with pytest.raises(ClusterError, match=r"^node1 has not answered within 0\.5 s"):
        await SSHLauncher(ssh=ssh).launch(SPEC, 0.5)


async def test_a_system_without_ssh_is_told_so():
    with pytest.raises(ClusterError, match="node1 cannot be reached: no-ssh cannot be run"):
        await SSHLauncher(ssh="no-ssh").launch(SPEC, BOUND)


@pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh")
async def test_ssh_itself_understands_all_options():
    launcher = SSHLauncher(options=["-o", "ServerAliveInterval=7"])
    *options, _, _ = launcher._prefix
    done = subprocess.run([*options, "-G", "node1"], check=True, capture_output=True, timeout=BOUND)
    found = dict(line.split(" ", 1) for line in done.stdout.decode().splitlines())
    assert found["batchmode"] == "yes"
    assert found["connecttimeout"] == "10"
    assert found["serveraliveinterval"] == "7"
    assert found["controlmaster"] in {"no", "false"}
    assert found["clearallforwardings"] == "yes"


@pytest.mark.parametrize(
    "wrong", [{"options": "-v"}, {"connect_timeout": 0}, {"connect_timeout": float("nan")}]
)
def test_parameters_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SSHLauncher(**wrong)
