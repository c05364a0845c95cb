"""The steps of starting and stopping a cluster, each of which may fail or be cancelled."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import json
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from aiomas.cluster import certificates
from aiomas.cluster import run as run_module
from aiomas.cluster import supervisor as supervisor_module
from aiomas.cluster.events import EventKind
from aiomas.cluster.launchers import local
from aiomas.cluster.run import Lifecycle
from aiomas.cluster.spec import ClusterSpec
from aiomas.cluster.zygote import ForkServer
from aiomas.exceptions import ClusterError, ContainerDied
from pki import authority
from pki.store import Root, Store
from tests.unit.cluster.fakes import BOUND, FakeFork, FakeLauncher, never, until

SPEC = ClusterSpec(containers=2, loop="asyncio", start_timeout=BOUND)


class World:
    """A run whose supervisor lives in the control thread."""

    def __init__(self):
        self.launcher = FakeLauncher()
        self.fork = None
        self.answers = {}
        self.events = []
        self.lines = []
        self.lost = 0
        self.runs = []

    def run(self, pki=None, *, logs=False, **fields):
        spec = dataclasses.replace(SPEC, **fields)
        on_log = (lambda *line: self.lines.append(line)) if logs else None
        self.runs.append(Lifecycle(spec, pki, self.events.append, on_log))
        return self.runs[-1]

    async def started(self, *args, **fields):
        run = self.run(*args, **fields)
        self.begun = await run.start(self.launcher, self._lost)
        return run

    def _lost(self):
        self.lost += 1


@pytest.fixture
async def world(run_base, monkeypatch):
    world = World()

    async def attach(program):
        world.fork = FakeFork()
        world.fork.answers = world.answers
        return world.fork

    monkeypatch.setattr(ForkServer, "attach", attach)
    monkeypatch.setattr(supervisor_module, "set_title", lambda title: None)
    yield world
    for run in world.runs:
        await run.stop(BOUND)
    assert not run_base.exists()


async def test_it_has_a_name_a_directory_and_a_container_of_its_own(world, run_base):
    run = await world.started(name="plant")
    assert (run.name, run.directory) == ("plant", run_base / "plant")
    assert run.container.base_url == f"ipc://[{run.directory}/driver.sock]/"
    assert [container["index"] for container in world.begun] == [0, 1]
    assert await run.stop(BOUND) == {0: 0, 1: 0}
    assert not run.directory.exists()


async def test_a_command_line_that_is_no_text_is_told_as_far_as_it_is(world, monkeypatch):
    monkeypatch.setattr(sys, "argv", [Path("plant.py"), "a\udcff", "\ud800b"])
    run = await world.started()
    facts = json.loads((run.directory / "run.json").read_bytes())
    assert facts["command"] == ["plant.py", "a?", "?b"]


async def test_events_come_in_the_loop_of_the_driver(world):
    run = await world.started()
    await until(lambda: len(world.events) == 2)
    assert [event.kind for event in world.events] == [EventKind.STARTED] * 2
    await run.stop(BOUND)


async def test_lines_do_not_wait_for_the_loop_of_the_driver(world):
    run = await world.started(logs=True)
    world.fork.processes[1].write("a line\nanother\n")
    deadline = time.monotonic() + BOUND
    while not world.lines and time.monotonic() < deadline:
        time.sleep(0.01)  # this loop does nothing else
    assert world.lines == [(1, ("a line", "another"))]
    await run.stop(BOUND)


async def test_lines_that_nobody_wants_are_not_sent(world):
    await world.started()
    assert world.fork.processes[0].job is not None
    assert world.launcher.supervisor._around.echo is None


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_other_transports_have_ports(world, transport):
    run = await world.started(transport=transport)
    assert run.container.base_url.startswith("tcp")
    fields = world.fork.processes[0].calls_of("start")[0][0]
    assert fields["tls"] == (transport == "tls")


async def test_an_authority_that_others_use_keeps_nobody_waiting(world, monkeypatch):
    asked, free = threading.Event(), threading.Event()
    temporary = certificates.RunAuthority.temporary

    def wait(*args, **options):
        asked.set()
        assert free.wait(BOUND)
        return temporary(*args, **options)

    monkeypatch.setattr(certificates.RunAuthority, "temporary", wait)
    run = world.run(transport="tls")
    starting = asyncio.create_task(run.start(world.launcher, lambda: None))
    try:
        await until(asked.is_set)
        assert not starting.done()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await run.stop(BOUND)
        assert not run.directory.exists()
    finally:
        free.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert not run.directory.exists()


@pytest.mark.parametrize("own", [False, True])
async def test_certificates_last_as_long_as_the_run_is_to_last(world, tmp_path, monkeypatch, own):
    load, seen = certificates.contexts_for_driver, []

    def look(credentials, directory):
        seen.append(credentials.certificate)
        return load(credentials, directory)

    monkeypatch.setattr(certificates, "contexts_for_driver", look)
    if own:
        Store.create(tmp_path / "ca", Root("plant", "ec-p256", 3650), crl_days=300)
    run = await world.started(
        tmp_path / "ca" if own else None, transport="tls", certificate_days=200
    )
    end = authority.inspect(seen[0]).not_after
    assert 199 <= (end - dt.datetime.now(dt.UTC)).days <= 200
    await run.stop(BOUND)


async def test_a_directory_that_is_no_authority_is_an_error(world, tmp_path):
    with pytest.raises((ClusterError, OSError)):
        await world.started(tmp_path, transport="tls")


async def test_a_serializer_that_cannot_be_loaded_is_an_error_that_leaves_nothing(world):
    with pytest.raises(ImportError, match="no_such_module"):
        await world.started(extra_serializers=("no_such_module:x",))


async def test_a_container_that_cannot_start_is_an_error(world):
    world.answers["start"] = lambda process, fields: process.end(3)
    with pytest.raises(ContainerDied, match="exit code 3"):
        await world.started()


async def test_a_start_can_be_cancelled(world):
    world.answers["start"] = never
    starting = asyncio.create_task(world.started())
    await until(lambda: world.fork and world.fork.processes)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


STAGES = {
    "before it speaks": "meet()\n",
    "before it makes the directory": """
from aiomas.cluster.rundir import RunDirectory
RunDirectory.create = meet
""",
    "when it has the directory": """
from aiomas.cluster.zygote import ForkServer
ForkServer.tidy_up = meet
""",
    "when its fork server knows": """
from aiomas.cluster.zygote import ForkServer
ForkServer.preload = meet
""",
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "end", ["os.kill(os.getpid(), 9)", "time.sleep(60)"], ids=["dies", "hangs"]
)
async def test_a_start_that_comes_to_nothing_leaves_nothing(
    run_base, tmp_path, monkeypatch, stage, end
):
    mark = tmp_path / "mark"
    boot, run_it = local._BOOT.rsplit("main(control)", 1)
    meet = f"import os, time\ndef meet(*_):\n    open({str(mark)!r}, 'x').close()\n    {end}\n"
    monkeypatch.setattr(local, "_BOOT", f"{boot}{meet}{STAGES[stage]}main(control){run_it}")
    run = Lifecycle(SPEC, None, print, None)
    starting = asyncio.create_task(run.start(local.LocalLauncher(), lambda: None))
    try:
        await until(mark.exists)
        if "sleep" in end:
            starting.cancel()
        with pytest.raises((ClusterError, asyncio.CancelledError)) as caught:
            await starting
    finally:
        await run.stop(0.2)
    if "kill" in end:
        assert str(caught.value) == "The cluster is gone: its supervisor was killed by SIGKILL"
    assert not run_base.exists()
    assert psutil.Process().children(recursive=True) == []


async def test_nothing_can_be_called_before_and_after(world):
    run = world.run()
    with pytest.raises(ClusterError, match="use it in an 'async with' block"):
        await run.call("status")
    assert await run.stop(BOUND) == {}
    run = await world.started()
    await run.stop(BOUND)
    with pytest.raises(ClusterError, match="use it in an 'async with' block"):
        await run.call("status")


async def test_a_lost_supervisor_is_told_and_said(world):
    run = await world.started()
    await run._thread.run(kill(world.launcher))
    await until(lambda: world.lost == 1)
    assert "ended with exit code 0" in str(await run.lost())
    assert await run.stop(BOUND) == {}


async def test_a_cancelled_stop_ends_all_at_once(world):
    run = await world.started()
    world.answers["stop"] = never
    stopping = asyncio.create_task(run.stop(BOUND))
    await until(lambda: world.fork.processes[0].calls_of("stop"))
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert world.launcher.killed == 1


async def test_a_directory_that_stays_is_not_waited_for_for_ever(world, monkeypatch, tmp_path):
    monkeypatch.setattr(run_module, "_MARGIN", 0.05)
    run = await world.started()
    run.directory = tmp_path
    await run._nothing_is_left()


async def test_what_comes_after_the_end_of_the_loop_is_told_to_nobody(world, monkeypatch):
    run = await world.started()
    told = run.fleet.home.control._on_event
    monkeypatch.setattr(asyncio.get_running_loop(), "is_closed", lambda: True)
    told("an event")
    monkeypatch.undo()
    await asyncio.sleep(0)
    assert "an event" not in world.events


async def kill(launcher):
    launcher._kill()
    await asyncio.wait([launcher.task])
