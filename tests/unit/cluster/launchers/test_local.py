"""A supervisor is started on this machine, and how it ended is known."""

from __future__ import annotations

import os
import signal
import subprocess

import psutil
import pytest

from aiomas.cluster.control import Host
from aiomas.cluster.launchers.local import LocalLauncher
from tests.unit.cluster.fakes import BOUND


async def test_it_answers_and_ends_with_its_stream():
    host = Host(print, print)
    await host.launch(LocalLauncher(), BOUND, lambda: None)
    link = host._link
    assert link is not None
    try:
        assert list(await host.call("status", timeout=BOUND)) == []
        [child] = psutil.Process().children()
        assert os.getsid(child.pid) == child.pid  # Ctrl-C does not reach it
    finally:
        await host.close(BOUND)
    assert await link.ended == 0


async def test_it_can_be_killed():
    link = await LocalLauncher().launch()
    link.kill()
    assert await link.ended == -signal.SIGKILL
    link.kill()
    link.sock.close()


async def test_one_that_cannot_be_started_leaves_nothing(monkeypatch):
    def fail(*_args, **_options):
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(OSError, match="no more processes"):
        await LocalLauncher().launch()
