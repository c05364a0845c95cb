"""A container keeps its address from one process to the next, as its restart policy says."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from aiomas import Limits
from aiomas.cluster import life, streams
from aiomas.cluster.child import Child
from aiomas.cluster.environment import STACK_DUMP
from aiomas.cluster.events import ClusterEvent, EventKind
from aiomas.cluster.fencing import FENCED
from aiomas.cluster.spec import PATIENT, ClusterSpec, RestartPolicy
from aiomas.cluster.surroundings import Surroundings
from aiomas.exceptions import ClusterError, ContainerDied
from tests.unit.cluster.fakes import BOUND, FakeFork, fails, never, until

SHORT = 0.05  # seconds
AT_ONCE = RestartPolicy(backoff=0)


@pytest.fixture
async def fork():
    fork = FakeFork()
    yield fork
    await fork.close()


class World:
    """A child and what it tells."""

    def __init__(self, fork, directory):
        self.fork = fork
        self.events: list[ClusterEvent] = []
        self.children = []
        self.around = Surroundings(
            spec=ClusterSpec(containers=2, loop="asyncio"),
            run="plant",
            directory=directory,
            logs=directory,
            fork=fork,
            token="secret",
            tls=False,
            emit=self.events.append,
            echo=None,
        )

    def child(self, index=1, **fields):
        wanted: dict[str, Any] = {"restart": AT_ONCE, "start_timeout": BOUND} | fields
        self.around.spec = dataclasses.replace(self.around.spec, **wanted)
        child = Child(index, self.around)
        self.children.append(child)
        return child

    async def started(self, **fields):
        child = self.child(**fields)
        await child.start()
        return child

    @property
    def kinds(self):
        return [event.kind for event in self.events]

    async def heard(self, kind, count=1):
        await until(lambda: self.kinds.count(kind) >= count)
        return [event for event in self.events if event.kind == kind][-1]


@pytest.fixture
async def world(fork, unix_path):
    world = World(fork, Path(unix_path).parent)
    yield world
    for child in world.children:
        await child.stop(SHORT)


class TestGenerations:
    async def test_one_that_starts_while_a_host_is_lost_is_told(self, world, fork):
        lost = ["tcp://there:1/"]

        def lose(process, fields):
            world.around.generation.take(0, 1, 1, lost, [])
            return "fake://container/"

        fork.answers["start"] = lose
        await world.started()
        [process] = fork.processes
        [(fields,)] = process.calls_of("start")
        assert (fields["accept"], fields["known"], fields["generation"]) == (0, 0, 0)
        [call] = process.calls_of("set_generation")
        assert list(call) == [0, 1, 1, tuple(lost)]

    async def test_one_that_is_too_busy_hears_all_of_it_as_soon_as_it_listens(self, world, fork):
        child = await world.started()
        listens, heard = asyncio.Event(), []

        async def hear(process, *terms):
            await listens.wait()
            heard.append(terms)

        fork.answers["set_generation"] = hear
        for terms in ((0, 1, 0), (1, 1, 1)):
            with pytest.raises(ClusterError, match=r"set_generation\(\) within 0.05 s; it is done"):
                await child.set_generation(*terms, [], [], timeout=SHORT)
        await asyncio.sleep(2 * SHORT)  # longer than it was waited for
        listens.set()
        await until(lambda: len(heard) == 2)
        assert [terms[:3] for terms in heard] == [(0, 1, 0), (1, 1, 1)]

    async def test_one_that_ends_before_it_has_heard_is_told_when_it_starts(self, world, fork):
        child = await world.started()
        fork.answers["set_generation"] = never
        world.around.generation.take(1, 1, 1, [], [])
        with pytest.raises(ClusterError):
            await child.set_generation(1, 1, 1, [], [], timeout=SHORT)
        fork.processes[0].end(1)
        await world.heard(EventKind.RESTARTED)
        [(fields,)] = fork.processes[1].calls_of("start")
        assert (fields["accept"], fields["known"], fields["generation"]) == (1, 1, 1)
        assert not child._telling._tasks

    async def test_one_that_is_stopped_is_told_nothing_more(self, world, fork):
        child = await world.started()
        fork.answers["set_generation"] = never
        with pytest.raises(ClusterError):
            await child.set_generation(1, 1, 1, [], [], timeout=SHORT)
        await child.stop(SHORT)
        assert not child._telling._tasks
        await child.set_generation(1, 1, 1, [], [], timeout=SHORT)

    async def test_one_that_fails_later_is_in_the_log(self, world, fork, caplog):
        child = await world.started()
        listens = asyncio.Event()

        async def hear(*_):
            await listens.wait()
            fails()

        fork.answers["set_generation"] = hear
        with pytest.raises(ClusterError):
            await child.set_generation(1, 1, 1, [], [], timeout=SHORT)
        listens.set()
        await until(lambda: caplog.records)
        assert "code of the user" in caplog.records[0].getMessage()

    async def test_one_whose_host_was_taken_for_lost_is_started_as_the_policy_says(
        self, world, fork
    ):
        child = await world.started()  # where the host is lost indeed, its supervisor ends as well
        fork.processes[0].end(FENCED)
        await world.heard(EventKind.RESTARTED)
        assert (child.state, child.restarts) == ("running", 1)


class TestStart:
    async def test_it_listens_runs_and_says_so(self, world, fork):
        child = await world.started()
        [process] = fork.processes
        assert (child.state, child.pid, child.url) == ("running", process.pid, "fake://container/")
        assert (child.restarts, child.exit_code) == (0, None)
        assert 0 <= child.uptime < BOUND
        assert world.kinds == [EventKind.STARTED]
        assert world.events[0].message == f"Container 1 (pid {process.pid}) is ready"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(world.around.directory / "1.sock"))
        [[fields]] = process.calls_of("start")
        assert fields["addr"] == str(world.around.directory / "1.sock")
        assert (fields["token"], fields["life"], fields["time"]) == ("secret", 0, 0)
        assert Limits(**fields["limits"]) == PATIENT

    async def test_its_process_gets_what_surrounds_it(self, world, fork, tmp_path):
        await world.started(
            seed=5, env=({}, {"A": "1"}), cwd=str(tmp_path), nice=3, memory=10**9, open_files=99
        )
        job = fork.processes[0].job
        assert job["uvloop"] is False
        assert job["directory"] == str(world.around.directory)
        assert job["environment"] == {
            "env": {"A": "1"},
            "cwd": str(tmp_path),
            "cpu": None,
            "nice": 3,
            "memory": 10**9,
            "open_files": 99,
            "seed": "5/1/0",
            "title": "aiomas plant/1",
        }

    @pytest.mark.parametrize(("cores", "expected"), [({4, 6}, 6), (set(), None)])
    async def test_it_is_pinned_to_a_core(self, world, fork, monkeypatch, cores, expected):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
        await world.started(pin=True)
        assert fork.processes[0].job["environment"]["cpu"] == expected

    async def test_nothing_is_pinned_where_the_system_cannot(self, world, fork, monkeypatch):
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        await world.started(pin=True)
        assert fork.processes[0].job["environment"]["cpu"] is None

    async def test_it_has_the_port_of_its_index(self, world, fork):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            free = sock.getsockname()[1]
        await world.started(transport="tcp", port=free - 1)
        assert list(fork.processes[0].calls_of("start")[0][0]["addr"]) == ["127.0.0.1", free]

    async def test_it_has_any_free_port(self, world, fork):
        await world.started(transport="tcp")
        host, port = fork.processes[0].calls_of("start")[0][0]["addr"]
        assert (host, port > 0) == ("127.0.0.1", True)

    async def test_an_address_that_is_taken_is_named(self, world):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            port = sock.getsockname()[1]
            child = world.child(transport="tcp", port=port - 1)
            with pytest.raises(OSError, match=rf"address of container 1, .*127.0.0.1.*{port}"):
                await child.start()

    async def test_one_that_ends_before_it_answers_says_what_it_wrote(self, world, fork):
        def end(process, fields):
            process.write("no such\nmodule")
            process.end(3)

        fork.answers["start"] = end
        child = world.child()
        with pytest.raises(ContainerDied) as caught:
            await child.start()
        assert str(caught.value) == (
            f"Container 1 (pid {fork.processes[0].pid}) ended with exit code 3\n"
            "The last lines of its log:\n  no such\n  module"
        )
        assert (caught.value.index, caught.value.exit_code) == (1, 3)
        assert list(caught.value.log) == ["no such", "module"]
        assert child.state == "died"

    async def test_one_that_cannot_be_made_is_ended(self, world, fork):
        fork.answers["start"] = fails
        with pytest.raises(ClusterError, match=r"(?s)Container 1 .*code of the user\n$"):
            await world.started()
        assert fork.processes[0].signals == [signal.SIGKILL]

    async def test_one_that_cannot_be_forked_is_an_error_of_the_system(self, world, fork):
        fork.errors = [OSError("no more processes")]
        with pytest.raises(OSError, match="no more processes"):
            await world.started()

    async def test_its_secrets_are_in_no_message(self, world):
        assert "secret" not in repr(world.around)

    async def test_its_pid_is_known_while_it_has_one(self, world, fork):
        child = world.child(restart=RestartPolicy(backoff=50, max_backoff=50))
        assert child.running_pid is None
        await child.start()
        assert child.running_pid == child.pid
        fork.processes[0].end(1)
        assert child.running_pid is None
        await world.heard(EventKind.RESTARTING)
        assert child.running_pid is None

    async def test_the_lines_of_its_log_are_passed_on(self, world, fork):
        lines = []
        world.around.echo = lambda index, line: lines.append((index, line))
        await world.started()
        fork.processes[0].write("one\ntwo\n")
        await until(lambda: lines == [(1, "one"), (1, "two")])
        assert (world.around.logs / "1.log").read_text() == "one\ntwo\n"


class TestRestart:
    async def test_it_goes_on_at_the_same_address(self, world, fork):
        child = await world.started(seed="x")
        fork.processes[0].end(1)
        event = await world.heard(EventKind.RESTARTED)
        assert world.kinds[1:] == [EventKind.DIED, EventKind.RESTARTING, EventKind.RESTARTED]
        old, new = fork.processes
        assert (child.pid, child.state, child.restarts, event.pid) == (
            new.pid,
            "running",
            1,
            new.pid,
        )
        assert os.path.samestat(os.fstat(new.listening), os.fstat(child._socket.fileno()))
        assert new.calls_of("start")[0][0]["life"] == 1
        assert new.job["environment"]["seed"] == "x/1/1"
        died = world.events[1]
        assert (died.pid, died.error.exit_code) == (old.pid, 1)

    async def test_one_that_ended_well_is_not_restarted(self, world, fork):
        child = await world.started()
        fork.processes[0].end(0)
        event = await world.heard(EventKind.FAILED)
        assert "is not started again: restart mode 'transient'. Container 1" in event.message
        assert (child.state, child.exit_code) == ("failed", 0)
        with socket.socket(socket.AF_UNIX) as sock, pytest.raises(FileNotFoundError):
            sock.connect(str(world.around.directory / "1.sock"))
        with pytest.raises(ContainerDied, match="does not run: its state is 'failed'"):
            await child.call("status")
        await child.stop(SHORT)
        assert child.state == "failed"

    async def test_too_many_are_too_many(self, world, fork):
        fork.answers["start"] = lambda process, fields: (
            process.end(9) if fields["life"] else "fake://"
        )
        await world.started(restart=RestartPolicy(intensity=3, period=60, backoff=0))
        fork.processes[0].end(9)
        event = await world.heard(EventKind.FAILED)
        assert "it was restarted intensity=3 times within period=60 s" in event.message
        assert isinstance(event.error, ContainerDied)
        assert len(fork.processes) == 4
        assert world.kinds.count(EventKind.DIED) == 4

    @pytest.mark.parametrize("method", ["start", "restore", None])
    async def test_there_is_never_a_second_process(self, world, fork, monkeypatch, method):
        monkeypatch.setattr(life, "_DEATH_TIMEOUT", SHORT)
        monkeypatch.setattr(life, "_EXIT_TIMEOUT", SHORT)
        child = await world.started(start_timeout=0.5)
        fork.answers["spawn"] = lambda *_: ([("fake://container/5", "A", ["5"])], None)
        await child.spawn("m:A", b"", respawn=True)
        fork.deadly.clear()
        if method is None:
            fork.serving = False
        else:
            fork.answers[method] = never
        fork.processes[0].end(1)
        event = await world.heard(EventKind.FAILED)
        start = "Container 1 is not started again: its last process does not end. Container 1 could"
        assert event.message.startswith(start)
        assert len(fork.processes) == 2
        assert not (world.around.directory / "1.sock").exists()
        assert child.state == "failed"

    async def test_one_that_cannot_be_forked_is_tried_again(self, world, fork):
        await world.started()
        fork.errors = [OSError("no more processes"), None]
        fork.processes[0].end(1)
        await world.heard(EventKind.RESTARTED)
        first, second = (event for event in world.events if event.kind is EventKind.DIED)
        assert second.error.exit_code is None
        assert second.message == "Container 1 could not be started again: no more processes"
        assert first.error.exit_code == 1

    async def test_it_can_be_stopped_during_the_pause(self, world, fork):
        child = await world.started(restart=RestartPolicy(backoff=50, max_backoff=50))
        fork.processes[0].end(1)
        await world.heard(EventKind.RESTARTING)
        assert child.state == "restarting"
        await child.stop(BOUND)
        assert child.state == "stopped"
        assert len(fork.processes) == 1

    async def test_it_can_be_stopped_while_it_starts(self, world, fork):
        child = await world.started()
        fork.answers["start"] = never
        fork.processes[0].end(1)
        await until(lambda: fork.processes[-1].calls_of("start") and len(fork.processes) == 2)
        await child.stop(BOUND)
        assert fork.processes[1].exited.done()


class FakeArchive:
    def __init__(self):
        self.saved: list[Any] = []

    def save(self, *state):
        self.saved.append(state)

    def forget(self, *agent):
        pass


class TestAgents:
    async def test_those_that_shall_be_are_made_again_with_their_states(self, world, fork):
        child = await world.started()
        fork.answers["spawn"] = lambda process, target, arguments: (
            [("fake://container/5", "A", ["5", "6"]), ("fake://container/7", "A", ["7"])],
            None,
        )
        made, failure = await child.spawn("m:A", b"arguments", respawn=True)
        assert [list(agent) for agent in made] == [
            ["fake://container/5", "A", ("5", "6")],
            ["fake://container/7", "A", ("7",)],
        ]
        assert failure is None
        supervisor = fork.processes[0].client.remote
        await supervisor.save("5", b"old")
        await supervisor.save("6", b"inner")
        await supervisor.save("5", b"new")
        await supervisor.forget("7")
        fork.processes[0].end(1)
        await world.heard(EventKind.RESTARTED)
        assert list(fork.processes[1].calls_of("start")[0][0]["awaited"]) == ["5", "6"]
        [[target, arguments, aids, _]] = fork.processes[1].calls_of("restore")
        [[states]] = fork.processes[1].calls_of("take_states")
        assert (target, arguments) == ("m:A", b"arguments")
        assert [list(made) for made in aids] == [["5", "6"], []]
        assert states == {"5": b"new", "6": b"inner"}

    async def test_those_of_another_container_have_their_states(self, world, fork):
        """They begin with them, and again if they have saved none since."""
        child = await world.started()
        made = [("fake://container/5", "A", ["5", "6"]), ("fake://container/7", "A", ["7"])]
        fork.answers["spawn"] = lambda *_: (made, None)
        child.take_states({"0": b"first", "2": b"old"})
        await child.spawn("m:A", b"arguments", [["0", "1"], ["2"]], respawn=True)
        assert fork.processes[0].calls_of("take_states") == [[{"0": b"first", "2": b"old"}]]
        assert fork.processes[0].calls_of("spawn") == [
            ["m:A", b"arguments", (("0", "1"), ("2",))],
        ]
        await fork.processes[0].client.remote.save("7", b"new")
        fork.processes[0].end(1)
        await world.heard(EventKind.RESTARTED)
        assert fork.processes[1].calls_of("take_states") == [[{"5": b"first", "7": b"new"}]]

    async def test_states_are_used_once(self, world, fork):
        child = await world.started()
        child.take_states({"0": b"x"})
        fork.answers["spawn"] = fails
        with pytest.raises(ClusterError):
            await child.spawn("m:A", b"", [["0"]], respawn=True)
        del fork.answers["spawn"]
        await child.spawn("m:A", b"", [["0"]], respawn=True)
        assert fork.processes[0].calls_of("take_states") == [[{"0": b"x"}]]

    async def test_states_are_not_lost_with_a_process_that_ends_before(self, world, fork):
        child = await world.started()
        child.take_states({"0": b"x"})
        fork.processes[0].end(1)
        await world.heard(EventKind.RESTARTED)
        await child.spawn("m:A", b"", [["0"]], respawn=True)
        assert fork.processes[1].calls_of("take_states") == [[{"0": b"x"}]]

    async def test_no_agent_is_made_in_a_process_that_does_not_have_its_state(self, world, fork):
        child = await world.started()
        fork.answers["take_states"] = lambda process, _: process.end(1)
        child.take_states({"0": b"x"})
        with pytest.raises(ContainerDied, match="exit code 1"):
            await child.spawn("m:A", b"", [["0"]], respawn=True)
        await world.heard(EventKind.RESTARTED)
        assert [process.calls_of("spawn") for process in fork.processes] == [[], []]

    async def test_states_that_are_handed_over_are_all_that_there_are(self, world, fork):
        child = await world.started()
        made = [("fake://container/5", "A", ["5", "6"]), ("fake://container/7", "A", ["7"])]
        fork.answers["spawn"] = lambda *_: (made, None)
        child.take_states({"0": b"x"})
        await child.spawn("m:A", b"", [["0"]], respawn=True)
        await fork.processes[0].client.remote.save("7", b"y")
        archive = FakeArchive()
        child.hand_over(archive)
        assert archive.saved == [(1, "5", b"x"), (1, "7", b"y")]
        await fork.processes[0].client.remote.save("7", b"z")
        assert len(archive.saved) == 2

    async def test_states_need_not_fit_into_one_message(self, world, fork, monkeypatch):
        monkeypatch.setattr(streams, "PIECE", 100)
        child = await world.started()
        numbers = [str(number) for number in range(5)]
        fork.answers["spawn"] = lambda *_: ([(f"fake://{n}", "A", [n]) for n in numbers], None)
        await child.spawn("m:A", b"", respawn=True)
        for number in numbers:
            await fork.processes[0].client.remote.save(number, bytes(200 if number == "4" else 40))
        fork.processes[0].end(1)
        await world.heard(EventKind.RESTARTED)
        pieces = [list(states) for [states] in fork.processes[1].calls_of("take_states")]
        assert pieces == [["0", "1"], ["2", "3"], ["4"]]

    async def test_states_that_could_not_be_had_are_named(self, world, fork):
        child = await world.started()
        fork.answers["checkpoint"] = lambda *_: ([str(n) for n in range(12)], "a traceback")
        with pytest.raises(ClusterError) as caught:
            await child.checkpoint()
        assert str(caught.value) == (
            f"Container 1 (pid {child.pid}): the states of these agents could not be saved: '0', "
            "'1', '2', '3', '4', '5', '6', '7', '8', '9' and 2 others. The first error:\n"
            "a traceback"
        )

    async def test_the_others_are_gone(self, world, fork):
        child = await world.started()
        fork.answers["spawn"] = lambda *_: ([("fake://container/5", "A", ["5"])], "a traceback")
        assert (await child.spawn("m:A", b"", respawn=False))[1] == "a traceback"
        fork.processes[0].end(1)
        await world.heard(EventKind.RESTARTED)
        assert fork.processes[1].calls_of("restore") == []

    async def test_ids_that_they_had_chosen_are_known_to_the_next_process(self, world, fork):
        child = await world.started()
        fork.answers["spawn"] = lambda *_: ([("fake://boss", "A", ["boss", "7", "aide"])], None)
        await child.spawn("m:A", b"", respawn=False)
        fork.processes[0].end(1)
        await world.heard(EventKind.RESTARTED)
        assert list(fork.processes[1].calls_of("start")[0][0]["chosen"]) == ["aide", "boss"]

    async def test_one_that_cannot_be_made_again_is_told(self, world, fork):
        child = await world.started()
        fork.answers["spawn"] = lambda *_: ([("fake://container/5", "A", ["5"])], None)
        fork.answers["restore"] = lambda *_: ["a traceback"]
        await child.spawn("m:A", b"", respawn=True)
        fork.processes[0].end(1)
        await world.heard(EventKind.RESTARTED)
        event = await world.heard(EventKind.AGENT_LOST)
        expected = "An agent could not be made again in container 1:\na traceback"
        assert (event.message, str(event.error)) == (expected, expected)

    async def test_many_may_take_longer_than_one(self, world, fork):
        child = await world.started(start_timeout=0.5)
        numbers = [str(number) for number in range(20)]
        fork.answers["spawn"] = lambda *_: ([(f"fake://{n}", "A", [n]) for n in numbers], None)

        async def restore(*_):
            await asyncio.sleep(1.2)
            return []

        fork.answers["restore"] = restore
        await child.spawn("m:A", b"", respawn=True)
        fork.processes[0].end(1)
        await world.heard(EventKind.RESTARTED)
        assert world.kinds.count(EventKind.DIED) == 1

    async def test_one_whose_making_blocks_does_not_hold_it_up_for_ever(self, world, fork):
        child = await world.started(start_timeout=0.5)
        numbers = [str(number) for number in range(1000)]
        fork.answers["spawn"] = lambda *_: ([(f"fake://{n}", "A", [n]) for n in numbers], None)
        fork.answers["restore"] = fork.answers["ping"] = never
        await child.spawn("m:A", b"", respawn=True)
        fork.processes[0].end(1)
        await world.heard(EventKind.DIED, count=2)
        died = [event for event in world.events if event.kind is EventKind.DIED]
        assert "has not answered for 0.5 s while m:A made its agents again" in died[1].message

    async def test_one_whose_making_hangs_does_not_hold_it_up_for_ever(self, world, fork):
        child = await world.started()
        child._spec = dataclasses.replace(child._spec, start_timeout=0.5)
        fork.answers["spawn"] = lambda *_: ([("fake://container/5", "A", ["5"])], None)
        fork.answers["restore"] = never
        await child.spawn("m:A", b"", respawn=True)
        fork.processes[0].end(1)
        await world.heard(EventKind.DIED, count=2)
        assert "has not answered restore() within 1.0 s" in world.events[-1].message or (
            world.kinds[-1] is EventKind.RESTARTING
        )


class TestFailuresOfItsSupervisor:
    """What should not happen is no reason to say nothing for ever."""

    async def test_a_restart_that_fails_in_an_unknown_way(self, world, fork, monkeypatch, caplog):
        child = await world.started()
        monkeypatch.setattr(child._records, "plan", fails)
        fork.processes[0].end(1)
        event = await world.heard(EventKind.FAILED)
        assert event.message == (
            "Container 1 is given up, because its supervisor has failed: "
            "LookupError: code of the user"
        )
        assert isinstance(event.error, ContainerDied)
        assert "Traceback" in caplog.text
        assert child.state == "failed"
        assert not (world.around.directory / "1.sock").exists()
        await until(fork.processes[1].exited.done)
        with pytest.raises(ContainerDied, match="its state is 'failed'"):
            await child.set_time(5)

    async def test_a_look_at_hangs_that_fails(self, world, fork, monkeypatch):
        child = await world.started(hang_timeout=SHORT)
        monkeypatch.setattr(child._life, "answers", fails)
        await world.heard(EventKind.FAILED)
        await until(fork.processes[0].exited.done)
        assert world.kinds == [EventKind.STARTED, EventKind.FAILED]
        assert not (world.around.directory / "1.sock").exists()


class TestTime:
    async def test_it_is_set(self, world, fork):
        child = await world.started()
        await child.set_time(5)
        assert fork.processes[0].calls_of("set_time") == [[5]]

    async def test_one_that_is_being_restarted_gets_it_then(self, world, fork):
        child = await world.started(restart=RestartPolicy(backoff=0.01))
        fork.processes[0].end(1)
        await world.heard(EventKind.DIED)
        world.around.time = 5
        await child.set_time(5)
        assert fork.processes[1].calls_of("start")[0][0]["time"] == 5
        assert fork.processes[1].calls_of("set_time") == [[5]]

    async def test_one_that_is_given_up_says_so(self, world, fork):
        child = await world.started(restart=RestartPolicy(mode="temporary"))
        fork.processes[0].end(1)
        await world.heard(EventKind.FAILED)
        with pytest.raises(ContainerDied) as caught:
            await child.set_time(5)
        assert caught.value.exit_code == 1


class TestHangs:
    async def test_they_are_reported_and_their_end_as_well(self, world, fork):
        child = await world.started(hang_timeout=SHORT)
        released = asyncio.Event()
        fork.answers["ping"] = lambda process: released.wait()
        event = await world.heard(EventKind.HUNG)
        assert f"did not answer for hang_timeout={SHORT} s" in event.message
        assert child.state == "hung"
        del fork.answers["ping"]
        released.set()
        await world.heard(EventKind.RECOVERED)
        await until(lambda: child.state == "running")
        assert fork.processes[0].signals == []

    async def test_one_that_hangs_is_restarted_with_its_stacks_in_the_log(
        self, world, fork, monkeypatch
    ):
        released = asyncio.Event()
        fork.answers["ping"] = lambda process: (
            released.wait() if process is fork.processes[0] else None
        )
        await world.started(hang_timeout=0.5, on_hang="restart")
        await world.heard(EventKind.RESTARTED)
        assert fork.processes[0].signals == [STACK_DUMP, signal.SIGKILL]
        died = next(event for event in world.events if event.kind is EventKind.DIED)
        assert "did not answer for hang_timeout=0.5 s, and was killed" in died.message
        released.set()

    async def test_nobody_waits_for_one_that_hangs(self, world, fork):
        child = await world.started(hang_timeout=SHORT)
        released = asyncio.Event()
        fork.answers["ping"] = fork.answers["spawn"] = lambda *_: released.wait()
        message = rf"^Container 1 \(pid {child.pid}\) has not answered for hang_timeout={SHORT} s"
        with pytest.raises(ClusterError, match=message):
            await child.spawn("m:A", b"", respawn=True)
        assert child.state == "hung"
        with pytest.raises(ClusterError, match=rf"{message}.* whether set_time\(\) was done"):
            await child.set_time(5)
        # Who has a limit of his own may ask.
        assert await child.call("status", timeout=BOUND) == {"agents": 7}
        fork.answers.clear()
        released.set()
        await world.heard(EventKind.RECOVERED)
        await child.set_time(5)

    async def test_who_is_patient_waits_for_one_that_hangs(self, world, fork):
        child = await world.started(hang_timeout=SHORT)
        released = asyncio.Event()

        async def spawn(*_):
            await released.wait()
            return [("fake://container/5", "A", ["5"])], None

        fork.answers["ping"] = lambda *_: released.wait()
        fork.answers["spawn"] = spawn
        spawning = asyncio.create_task(child.spawn("m:A", b"", respawn=True, patient=True))
        await world.heard(EventKind.HUNG)
        late = asyncio.create_task(child.spawn("m:A", b"", respawn=True, patient=True))
        await asyncio.sleep(SHORT)
        assert not any(task.done() for task in (spawning, late))
        released.set()
        async with asyncio.timeout(BOUND):
            assert [made for [made], _ in await asyncio.gather(spawning, late)]
        await world.heard(EventKind.RECOVERED)

    async def test_who_is_patient_does_not_outlive_its_process(self, world, fork):
        child = await world.started(hang_timeout=SHORT)
        fork.answers["ping"] = fork.answers["spawn"] = never
        spawning = asyncio.create_task(child.spawn("m:A", b"", respawn=True, patient=True))
        await world.heard(EventKind.HUNG)
        fork.processes[0].end(1)
        with pytest.raises(ContainerDied, match="exit code 1"):
            await spawning

    async def test_the_next_process_does_not_hang(self, world, fork):
        child = await world.started(hang_timeout=BOUND)
        child._hung.set_result(None)
        fork.processes[0].end(1)
        await world.heard(EventKind.RESTARTED)
        await child.set_time(5)

    async def test_one_that_is_restarted_is_not_looked_at(self, world, fork):
        child = await world.started(
            hang_timeout=SHORT, restart=RestartPolicy(backoff=0.2, max_backoff=0.2)
        )
        fork.processes[0].end(1)
        await world.heard(EventKind.RESTARTED)
        assert EventKind.HUNG not in world.kinds[: world.kinds.index(EventKind.RESTARTED)]
        assert child.state in {"running", "hung"}

    async def test_the_answer_of_a_former_process_says_nothing_of_the_next(self, world, fork):
        asked = asyncio.Event()

        def ping(process):
            asked.set()
            return never(process)

        child = await world.started(hang_timeout=BOUND)
        looking = asyncio.create_task(child._notice_hangs(SHORT * 3))
        fork.answers["ping"] = ping
        await asked.wait()
        fork.processes[0].end(1)
        del fork.answers["ping"]
        await world.heard(EventKind.RESTARTED)
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking

    async def test_nobody_looks_if_nobody_wants_it(self, world):
        child = await world.started(hang_timeout=None)
        assert len(child._tasks) == 1


class TestRetire:
    async def test_states_are_saved_before_its_end(self, world, fork):
        child = await world.started()
        assert await child.retire(SHORT) is None
        [process] = fork.processes
        assert [name for name, *_ in process.calls if name in {"retire", "stop"}] == [
            "retire",
            "stop",
        ]
        assert process.calls_of("retire") == [[SHORT]]
        assert (child.state, child.exit_code) == ("stopped", 0)
        assert world.kinds == [EventKind.STARTED]

    async def test_states_that_could_not_be_had_are_named(self, world, fork):
        child = await world.started()
        fork.answers["retire"] = lambda *_: (["5"], "a traceback")
        problem = await child.retire(SHORT)
        assert "states of these agents could not be saved: '5'" in problem
        assert child.state == "stopped"

    async def test_one_that_fails_or_ends_at_it_has_ended_as_well(self, world, fork):
        child = await world.started()
        fork.answers["retire"] = fails
        assert "code of the user" in await child.retire(SHORT)
        assert child.state == "stopped"
        second = await world.started(index=2)
        fork.answers["retire"] = lambda process, _: process.end(3)
        assert "ended with exit code 3" in await second.retire(SHORT)
        assert world.kinds == [EventKind.STARTED] * 2  # nor is it started again

    async def test_nobody_waits_for_the_states_of_one_that_is_gone(self, world, fork):
        child = await world.started(restart=RestartPolicy(mode="temporary"))
        fork.processes[0].end(1)
        await world.heard(EventKind.FAILED)
        assert await child.retire(SHORT) is None
        assert child.state == "failed"

    async def test_one_that_does_not_answer_any_more_has_ended_if_nobody_waits(self, world, fork):
        child = await world.started()
        fork.answers["retire"] = never
        retiring = asyncio.create_task(child.retire(SHORT))
        await until(lambda: fork.processes[0].calls_of("retire"))
        retiring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await retiring
        assert fork.processes[0].exited.done()
        assert child.state == "stopped"


class TestStop:
    async def test_all_is_closed(self, world, fork):
        child = await world.started()
        await child.stop(BOUND)
        assert (child.state, child.exit_code) == ("stopped", 0)
        assert not (world.around.directory / "1.sock").exists()
        await child.stop(BOUND)

    async def test_one_that_was_never_started_is_no_trouble(self, world):
        child = world.child()
        await child.stop(BOUND)
        assert child.state == "stopped"
