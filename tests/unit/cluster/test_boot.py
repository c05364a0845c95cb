"""The program of a supervisor makes its fork server before it loads what is for itself alone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys

import pytest

from aiomas.cluster import boot, supervisor
from aiomas.cluster.environment import ignore


def test_the_program_does_not_see_ctrl_c_and_serves_its_socket(monkeypatch):
    served = []
    ignored = []
    monkeypatch.setattr(signal, "signal", lambda *args: ignored.append(args))

    class Fake:
        def __init__(self, program):
            served.append(program)

        async def serve(self, control):
            served.append(control.family)
            control.close()

    monkeypatch.setattr(supervisor, "Supervisor", Fake)
    guards = []

    def done(coro):
        with pytest.raises(StopIteration):
            coro.send(None)

    def fork_program(guard, target):
        guards.append(os.dup(guard))
        return target

    monkeypatch.setattr(boot, "fork_program", fork_program)
    pipe = os.pipe()
    ours, theirs = socket.socketpair()
    with ours:
        os.set_inheritable(theirs.fileno(), True)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pipe", lambda: pipe)
            patch.setattr(asyncio, "run", done)
            boot.main(theirs.detach())
    os.close(pipe[1])
    assert os.read(guards[0], 1) == b""  # it ends with us
    os.close(guards[0])
    assert served == ["aiomas.cluster.worker:main", socket.AF_UNIX]
    assert ignored[0] == (signal.SIGCHLD, signal.SIG_DFL)  # whatever the driver does with it
    assert ignored[1:3] == [(signal.SIGINT, ignore), (signal.SIGXFSZ, signal.SIG_IGN)]


def test_the_fork_server_is_forked_before_the_supervisor_or_the_worker_is_imported():
    program = """
import sys
import aiomas.cluster.boot
for name in "supervisor", "child", "spec", "worker", "container":
    assert f"aiomas.cluster.{name}" not in sys.modules, name
import aiomas.cluster.supervisor
for name in "worker", "container":  # the fork server imports them meanwhile
    assert f"aiomas.cluster.{name}" not in sys.modules, name
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
