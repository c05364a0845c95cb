"""The supervisor serves its driver: it starts containers, answers for them, and ends with it."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from aiomas.cluster import certificates, loads, rundir, watch
from aiomas.cluster import supervisor as supervisor_module
from aiomas.cluster.control import Host
from aiomas.cluster.events import ClusterEvent, EventKind
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.spec import ClusterSpec, RestartPolicy
from aiomas.cluster.zygote import ForkServer
from aiomas.exceptions import ClusterError, ContainerDied
from tests.unit.cluster.fakes import BOUND, FakeFork, FakeLauncher, fails, never, until

SHORT = 0.05  # seconds
SPEC = ClusterSpec(containers=2, loop="asyncio", stop_timeout=SHORT, name="plant")


class World:
    """A driver of a supervisor."""

    def __init__(self, fork):
        self.fork = fork
        self.launcher = FakeLauncher()
        self.events: list[ClusterEvent] = []
        self.lines: list[tuple[int, str]] = []
        self.lost = 0
        self.host = Host(
            self.events.append,
            lambda index, lines: self.lines.extend((index, line) for line in lines),
        )

    async def connected(self):
        await self.host.launch(self.launcher, HostSpec("localhost"), BOUND, self._lost)
        return self

    async def prepared(self, part=None, **fields):
        await self.connected()
        spec = dataclasses.replace(SPEC, **fields)
        facts = {"driver_pid": os.getpid()}
        self.facts = await self.call("prepare", spec.fields(), facts, part)
        return self

    async def begun(self, credentials=None, *, echo=False, **fields):
        await self.prepared(**fields)
        self.containers = await self.call("begin", "secret", credentials, echo=echo)
        return self

    def call(self, method, *args, **kwargs):
        return self.host.call(method, *args, timeout=BOUND, **kwargs)

    def kinds(self):
        return [event.kind for event in self.events]

    async def heard(self, kind):
        await until(lambda: kind in self.kinds())
        return next(event for event in self.events if event.kind is kind)

    def _lost(self):
        self.lost += 1


@pytest.fixture
async def fork():
    fork = FakeFork()
    yield fork
    await fork.close()


@pytest.fixture
async def world(fork, run_base, monkeypatch):
    async def attach(program):
        return fork

    monkeypatch.setattr(ForkServer, "attach", attach)
    monkeypatch.setattr(supervisor_module, "set_title", lambda title: None)
    world = World(fork)
    yield world
    await world.host.close(BOUND)
    assert world.launcher.task is None or world.launcher.task.done()
    assert world.launcher.killed == 0
    assert not run_base.exists()


class TestStart:
    async def test_the_run_is_published(self, world, run_base):
        await world.prepared()
        assert world.facts == {
            "name": "plant",
            "directory": str(run_base / "plant"),
            "request": None,
        }
        facts = json.loads((run_base / "plant" / "run.json").read_text())
        assert (facts["name"], facts["pid"], facts["driver_pid"]) == (
            "plant",
            os.getpid(),
            os.getpid(),
        )
        assert facts["host"] == socket.gethostname()
        assert facts["log_dir"] == str(run_base / "plant" / "logs")

    async def test_containers_are_started(self, world, fork):
        await world.begun(preload=("json",))
        assert fork.preloaded[-1] == "json"
        assert "uvloop" not in fork.preloaded
        assert str(fork.directory) == world.facts["directory"]
        assert [dict(container) for container in world.containers] == [
            {"index": index, "pid": process.pid, "url": "fake://container/"}
            for index, process in enumerate(fork.processes)
        ]
        assert world.kinds() == [EventKind.STARTED] * 2

    async def test_one_that_cannot_start_takes_the_others_down(self, world, fork):
        def start(process, fields):
            if fields["addr"].endswith("1.sock"):
                process.end(3)
            return never(process)

        fork.answers["start"] = start
        with pytest.raises(ContainerDied, match=r"Container 1 .* ended with exit code 3") as caught:
            await world.begun()
        assert caught.value.index == 1
        assert [process.exited.done() for process in fork.processes] == [True, True]

    async def test_a_module_that_cannot_be_loaded_is_an_error_of_the_start(self, world, fork):
        fork.unloadable = ClusterError("no such module")
        with pytest.raises(ClusterError, match="no such module"):
            await world.begun(preload=("nonsense",))
        assert fork.processes == []

    async def test_nobody_has_to_ask_for_that_error(self, world, fork):
        fork.unloadable = ClusterError("no such module")
        await world.prepared()
        await world.host.close(BOUND)
        await until(world.launcher.task.done)
        world.launcher.supervisor._prepared = None
        gc.collect()  # asyncio would log it now

    async def test_a_name_that_is_taken_is_refused(self, world, run_base):
        other = rundir.RunDirectory.create("plant")
        try:
            with pytest.raises(ClusterError, match="plant"):
                await world.prepared()
        finally:
            other.remove()

    async def test_an_error_of_the_system_has_its_name(self, world, fork):
        fork.errors = [OSError(24, "Too many open files")] * 2
        with pytest.raises(ClusterError, match=r"^OSError: \[Errno 24\] Too many open files$"):
            await world.begun()

    async def test_logs_are_kept_where_they_are_wanted(self, world, fork, tmp_path):
        await world.begun(echo=True, log_dir=str(tmp_path / "new" / "logs"))
        fork.processes[1].write("a line\n")
        fork.processes[1].write("an")
        await until(lambda: world.lines == [(1, "a line")])
        fork.processes[1].write("other")
        assert await world.call("stop", BOUND) == {0: 0, 1: 0}
        assert (tmp_path / "new" / "logs" / "plant" / "1.log").read_text() == "a line\nanother"
        assert world.lines == [(1, "a line"), (1, "another")]

    async def test_a_host_has_its_key_and_a_certificate_for_it(self, world, fork):
        await world.prepared(transport="tls")
        authority = certificates.RunAuthority.temporary("plant")
        certificate = authority.sign(world.facts["request"], "localhost", certificates.LOOPBACK)
        credentials = certificate, authority.trusted, authority.crl
        await world.call("begin", "secret", credentials, echo=False)
        assert fork.processes[0].calls_of("start")[0][0]["tls"] is True
        [(function, paths)] = fork.prepared
        assert function == "aiomas.cluster.worker:load_tls"
        assert fork.modes == [0o600] * 3
        # It has loaded them.
        assert not Path(paths[0]).parent.exists()

    async def test_uvloop_is_loaded_before_the_fork(self, world, fork):
        pytest.importorskip("uvloop")
        await world.begun(loop="uvloop")
        assert "uvloop" in fork.preloaded


class TestCalls:
    async def test_agents_are_made_in_one_container(self, world, fork):
        fork.answers["spawn"] = lambda *_: ([("fake://container/0", "A", ["0"])], None)
        await world.begun()
        made, failure, pid = await world.call("spawn", 1, "m:A", b"arguments", False)
        assert [list(agent) for agent in made] == [["fake://container/0", "A", ("0",)]]
        assert failure is None
        assert fork.processes[0].calls_of("spawn") == []
        assert fork.processes[1].calls_of("spawn") == [["m:A", b"arguments"]]
        assert pid == fork.processes[1].pid

    async def test_in_one_that_was_ended_nothing_is_made(self, world):
        await world.begun()
        await world.call("shrink", [1], SHORT)
        for method, *given in (("take_states", {}), ("spawn", "m:A", b"", True)):
            with pytest.raises(ContainerDied, match="Container 1 does not run any more"):
                await world.call(method, 1, *given)

    async def test_those_of_another_host_have_their_states(self, world, fork):
        await world.begun()
        await world.call("take_states", 1, {"0": b"x"})
        await world.call("spawn", 1, "m:A", b"arguments", True, [["0"]], True)
        assert fork.processes[1].calls_of("take_states") == [[{"0": b"x"}]]
        assert fork.processes[1].calls_of("spawn") == [["m:A", b"arguments", (("0",),)]]

    async def test_who_makes_agents_again_is_patient(self, world, fork):
        await world.begun(hang_timeout=SHORT)
        released = asyncio.Event()

        async def spawn(*_):
            await released.wait()
            return [], None

        fork.answers["spawn"] = spawn
        fork.answers["ping"] = lambda *_: released.wait()
        spawning = asyncio.create_task(world.call("spawn", 1, "m:A", b"", True, [["0"]], True))
        await world.heard(EventKind.HUNG)
        with pytest.raises(ClusterError, match="has not answered for hang_timeout"):
            await world.call("spawn", 1, "m:A", b"", True)
        released.set()
        async with asyncio.timeout(BOUND):
            assert (await spawning)[:2] == ((), None)

    async def test_states_are_handed_over_once_and_in_their_order(self, world, fork):
        """And later ones are not sent by themselves: nobody has asked for that."""
        await world.begun()
        fork.answers["spawn"] = lambda *_: ([("fake://container/0", "A", ["0"])], None)
        await world.call("spawn", 1, "m:A", b"", True)
        taken = []
        world.host.archive.take = lambda *state: taken.append(state)
        save = fork.processes[1].client.remote.save
        await save("0", b"1")
        await world.call("hand_over", [1])
        assert taken == [(1, "0", b"1")]
        await save("0", b"2")
        await world.call("checkpoint")
        assert len(taken) == 1
        forwarding = world.launcher.supervisor._archive
        await world.call("hand_over", [1])
        assert taken[1:] == [(1, "0", b"2")]
        assert world.launcher.supervisor._archive is forwarding

    async def test_what_is_handed_over_comes_after_what_was_sent_before(self, world, fork):
        await world.prepared(part={"indices": [0, 1], "archive": True})
        await world.call("begin", "secret", None, echo=False)
        fork.answers["spawn"] = lambda *_: ([("fake://container/0", "A", ["0"])], None)
        await world.call("spawn", 1, "m:A", b"", True)
        goes_on, taken = asyncio.Event(), []

        async def keep(index, aid, state):
            await goes_on.wait()
            taken.append(state)

        forwarding = world.launcher.supervisor._archive
        forwarding._driver = SimpleNamespace(remote=SimpleNamespace(keep_state=keep))
        save = fork.processes[1].client.remote.save
        await save("0", b"1")
        await save("0", b"2")
        handing = asyncio.create_task(world.call("hand_over", [1]))
        await asyncio.sleep(SHORT)
        assert not handing.done()
        goes_on.set()
        await handing
        assert taken == [b"1", b"2"]

    async def test_the_time_is_set_and_who_has_not_got_it_is_told(self, world, fork):
        await world.begun(restart=RestartPolicy(mode="temporary"))
        fork.processes[0].end(1)
        await world.heard(EventKind.FAILED)
        [error] = await world.call("set_time", 5.0)
        assert (error["index"], error["exit_code"]) == (0, 1)
        assert fork.processes[1].calls_of("set_time") == [[5.0]]

    async def test_new_containers_have_the_latest_time(self, world, fork):
        await world.begun(clock="2020-01-01")
        await world.call("set_time", 5.0)
        await world.call("grow", [2], 3.0)
        assert fork.processes[2].calls_of("start")[0][0]["time"] == 5.0
        await world.call("grow", [3], 7.0)
        assert fork.processes[3].calls_of("start")[0][0]["time"] == 7.0

    async def test_those_that_retire_tell_what_is_missing_and_are_ended(self, world, fork):
        await world.begun()
        fork.answers["retire"] = lambda *_: (["7"], "a traceback")
        [problem] = await world.call("retire", [1], SHORT)
        assert "Container 1" in problem
        assert [process.exited.done() for process in fork.processes] == [False, True]
        assert await world.call("shrink", [1], SHORT) == {1: 0}

    async def test_only_those_that_leave_are_asked_for_states(self, world, fork):
        await world.begun()
        await world.call("checkpoint", [1])
        assert [len(process.calls_of("checkpoint")) for process in fork.processes] == [0, 1]

    async def test_what_a_busy_one_is_told_outlives_the_call_of_the_driver(
        self, world, fork, monkeypatch
    ):
        monkeypatch.setattr("aiomas.cluster.children._GENERATION_TIMEOUT", SHORT)
        await world.begun()
        listens, heard = asyncio.Event(), []

        async def hear(process, *terms):
            await listens.wait()
            heard.append(process)

        fork.answers["set_generation"] = hear
        errors = await world.host.call("set_generation", 0, 1, 0, timeout=4 * SHORT)
        assert len(errors) == len(fork.processes) == 2
        await asyncio.sleep(6 * SHORT)  # so that nothing is left of the driver's deadline
        listens.set()
        await until(lambda: len(heard) == 2)

    async def test_states_are_saved(self, world, fork):
        await world.begun()
        await world.call("checkpoint")
        assert [process.calls_of("checkpoint") for process in fork.processes] == [[[]], [[]]]
        fork.answers["checkpoint"] = fails
        with pytest.raises(ClusterError, match=r"(?s)Container \d .*code of the user"):
            await world.call("checkpoint")

    async def test_status_of_all(self, world, fork):
        await world.begun(restart=RestartPolicy(mode="temporary"))
        fork.processes[0].end(4)
        await world.heard(EventKind.FAILED)
        failed, running = await world.call("status")
        assert failed == {
            "index": 0,
            "host": "localhost",
            "pid": fork.processes[0].pid,
            "url": "fake://container/",
            "state": "failed",
            "agents": 0,
            "restarts": 0,
            "exit_code": 4,
        }
        assert (running["state"], running["agents"], running["uptime"] >= 0) == ("running", 7, True)

    async def test_one_that_does_not_answer_is_hung(self, world, fork):
        await world.begun()
        fork.answers["status"] = never
        statuses = await world.call("status", SHORT)
        assert [status["state"] for status in statuses] == ["hung"] * 2
        del fork.answers["status"]
        world.launcher.supervisor._children[0].state = "hung"
        statuses = await world.call("status")
        assert [status["state"] for status in statuses] == ["hung", "running"]

    async def test_the_load_of_a_process_is_what_it_used_lately(self, world, fork, monkeypatch):
        used: dict[int, float] = {}
        monkeypatch.setattr(loads, "used", lambda pid: {"cpu": used[pid]})
        await world.begun()
        children = world.launcher.supervisor._children
        for child in (children[0], children[1]):
            used[child.pid] = 0.0
            child._began -= 1000
        assert await world.call("loads") == {0: 0.0, 1: 0.0}
        used[children[1].pid] = 1e6
        assert await world.call("loads") == {0: 0.0, 1: 0.0}  # it was a moment ago
        monkeypatch.setattr(loads, "_WINDOW", 0.0)
        shares = await world.call("loads")
        assert (shares[0], shares[1] > 1000) == (0.0, True)

    async def test_what_a_process_uses_is_known(self, monkeypatch):
        used = loads.used(os.getpid())
        assert used["cpu"] > 0
        assert used["rss"] > 2**20

        def gone(pid):
            raise psutil.NoSuchProcess(pid)

        monkeypatch.setattr(psutil, "Process", gone)
        assert loads.used(os.getpid()) == {}

    async def test_its_own_errors_say_so(self, world, monkeypatch):
        await world.begun()
        monkeypatch.setattr(world.launcher.supervisor._children, "loads", fails)
        with pytest.raises(ClusterError, match=r"(?s)^The supervisor failed: .*code of the user"):
            await world.call("loads")

    async def test_one_that_takes_too_long_says_so(self, world, fork):
        await world.begun()
        fork.answers["checkpoint"] = never
        with pytest.raises(ClusterError, match=r"not answered checkpoint\(\) within 0.05 s"):
            await world.host.call("checkpoint", timeout=SHORT)


class TestWatch:
    async def test_others_can_ask_how_it_is(self, world):
        await world.begun()
        [run] = rundir.running()
        async with watch.Watch(run) as watching:
            status = await watching.status()
        assert status["facts"]["name"] == "plant"
        assert len(status["containers"]) == 2

    async def test_they_can_stop_it_and_it_says_so_once(self, world):
        await world.begun()
        world.launcher.supervisor._stop_from_outside()
        world.launcher.supervisor._stop_from_outside()
        event = await world.heard(EventKind.LOST)
        assert event.message == "The cluster plant was told to stop"
        await until(lambda: world.lost == 1)
        assert world.kinds().count(EventKind.LOST) == 1
        with pytest.raises(ClusterError, match=r"^The cluster plant was told to stop$"):
            await world.call("status")

    async def test_it_answers_while_it_is_started(self, world):
        await world.prepared()
        [run] = rundir.running()
        async with watch.Watch(run) as watching:
            status = await watching.status()
            assert (status["facts"]["name"], list(status["containers"])) == ("plant", [])
            await watching.stop()
        await until(lambda: world.lost == 1)
        with pytest.raises(ClusterError, match=r"^The cluster plant was told to stop$"):
            await world.call("begin", "secret", None, echo=False)

    @pytest.mark.parametrize("number", [1, 2])
    async def test_it_can_be_stopped_while_containers_start(self, world, fork, number):
        fork.answers["start"] = never
        starting = asyncio.create_task(world.begun())
        await until(lambda: len(fork.processes) >= number)
        [run] = rundir.running()
        async with watch.Watch(run) as watching:
            await watching.stop()
        with pytest.raises(ClusterError, match=r"^The cluster plant was told to stop$"):
            await starting


class TestEnd:
    async def test_it_stops_all_and_says_how_they_ended(self, world, fork):
        await world.begun()
        assert await world.call("stop", BOUND) == {0: 0, 1: 0}
        await until(lambda: world.lost == 1)
        assert fork.closed

    async def test_it_ends_with_its_driver(self, world, fork):
        await world.begun()
        await world.host.close(BOUND)
        assert [process.exited.result() for process in fork.processes] == [0, 0]
        assert fork.closed

    async def test_it_ends_if_nothing_was_started(self, world):
        await world.connected()
        await world.host.close(BOUND)

    async def test_it_ends_with_its_fork_server(self, world, fork):
        await world.begun()
        fork.lost.set_result(ClusterError("it was killed"))
        event = await world.heard(EventKind.LOST)
        assert str(event.error) == "The cluster is gone: it was killed"
        await until(lambda: world.lost == 1)

    async def test_it_ends_with_its_parent_if_another_has_the_stream(self, world, monkeypatch):
        monkeypatch.setattr(supervisor_module, "_PARENT_PAUSE", 0.01)
        await world.begun()
        monkeypatch.setattr(os, "getppid", lambda: 1)
        await until(lambda: world.lost == 1)

    async def test_what_happens_without_a_driver_is_told_to_nobody(self, world):
        await world.connected()
        supervisor = world.launcher.supervisor
        await world.host.close(BOUND)
        supervisor._echo.take(0, "a line")
        await supervisor._echo.flush(BOUND)
        supervisor._emit(None)
        supervisor._fork_server_lost()  # it had ended before
