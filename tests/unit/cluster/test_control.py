"""The driver's thread for the control plane, and what a driver knows of a lost supervisor."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
from typing import Any

import pytest

from aiomas import rpc
from aiomas.cluster import control, streams
from aiomas.cluster.archive import formers_of
from aiomas.cluster.control import ControlThread, Host
from aiomas.cluster.events import ClusterEvent, EventKind, error_content
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.launchers.base import Launcher, Link
from aiomas.codecs import MsgPack
from aiomas.exceptions import ClusterError, ContainerDied
from tests.unit.cluster.fakes import BOUND, until

SHORT = 0.05  # seconds
HERE = HostSpec("localhost")


class TestThread:
    @pytest.fixture
    async def thread(self):
        thread = ControlThread()
        yield thread
        await thread.stop()

    async def test_coroutines_run_there(self, thread):
        async def where():
            await asyncio.sleep(0)
            return threading.current_thread().name

        assert await thread.run(where()) == "aiomas-control"
        assert threading.current_thread().name != "aiomas-control"

    async def test_who_waits_for_its_end_may_give_up(self, monkeypatch):
        complaints: list[object] = []
        monkeypatch.setattr(threading, "excepthook", complaints.append)
        thread = ControlThread()
        entered, goes_on = threading.Event(), threading.Event()
        thread.call_soon(entered.set)
        thread.call_soon(lambda: goes_on.wait(BOUND))
        assert entered.wait(BOUND)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(thread.stop(), SHORT)
        goes_on.set()
        await thread.stop()
        assert not thread._thread.is_alive()
        assert complaints == []

    async def test_errors_come_back(self, thread):
        async def fail():
            raise LookupError("there")

        with pytest.raises(LookupError, match="there"):
            await thread.run(fail())

    async def test_who_waits_no_more_cancels_what_runs_there(self, thread):
        begun, cancelled = threading.Event(), threading.Event()

        async def wait():
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        waiting = asyncio.create_task(thread.run(wait()))
        await until(begun.is_set)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await asyncio.to_thread(cancelled.wait, BOUND)

    async def test_what_is_begun_when_it_ends_is_told(self, thread):
        """The loop stops before it comes to what it is asked for."""
        stop, goes_on = threading.Event(), threading.Event()

        def hold():
            thread._loop.stop()
            stop.set()
            goes_on.wait(BOUND)

        async def never():
            await asyncio.Event().wait()

        thread.call_soon(hold)
        assert stop.wait(BOUND)
        waiting = asyncio.create_task(thread.run(never()))
        await asyncio.sleep(0)
        goes_on.set()
        with pytest.raises(ClusterError, match="does not run any more"):
            await waiting

    async def test_nothing_is_begun_after_its_end(self, thread):
        async def nothing():
            raise AssertionError

        await thread.stop()
        with pytest.raises(ClusterError, match="does not run any more"):
            await thread.run(nothing())

    async def test_what_still_runs_there_is_cancelled_and_who_waits_is_told(self, thread):
        begun, cancelled = threading.Event(), threading.Event()

        async def wait():
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        waiting = asyncio.ensure_future(thread.run(wait()))
        await until(begun.is_set)
        await thread.stop()
        assert cancelled.is_set()
        with pytest.raises(ClusterError, match="does not run any more"):
            await waiting

    async def test_after_the_end_calls_do_nothing(self, thread):
        await thread.stop()
        thread.call_soon(lambda: 1 / 0)
        await thread.stop()


class FakeService:
    """A supervisor that knows three answers."""

    router = rpc.Service()
    driver: Any

    @rpc.expose
    def good(self, *args, **kwargs):
        return {"value": [args, kwargs]}

    @rpc.expose
    def died(self):
        return {"error": error_content(ContainerDied("it died", 3, -9, log=["line"]))}

    @rpc.expose
    def failed(self):
        return {"error": error_content(ClusterError("no such thing"))}

    @rpc.expose
    def broken(self):
        msg = "a bug"
        raise LookupError(msg)

    @rpc.expose
    async def spawn(self, index, target, arguments, respawn, former=(), patient=False):
        assert target == ("/there.py:A" if respawn else "m:A")
        if respawn:
            await self.driver.keep_state(index, "2", b"newer than what it began with")
        made = [("u/0", "A", ["0", "1"]), ("u/2", "A", ["2"]), ("u/3", "A", ["3"])]
        return {"value": [made, None, 7]}

    @rpc.expose
    async def slow(self):
        await asyncio.sleep(BOUND)


class FakeLauncher(Launcher):
    def __init__(self, *, serves=True):
        self.serves = serves
        self.sock = None
        self.client = None
        self.killed = 0
        self.lost = 0

    async def launch(self, host, timeout):
        self.ended = asyncio.get_running_loop().create_future()
        ours, self.sock = socket.socketpair()
        if self.serves:
            service: Any = FakeService()
            self.client = await streams.accept(self.sock, service)
            service.driver = self.client.remote
            self.client.channel.on_closed(lambda: self.end(0))
        return Link(ours, self.ended, self.kill)

    def end(self, how):
        if not self.ended.done():
            self.ended.set_result(how)

    def kill(self):
        if not self.ended.done():
            self.killed += 1
            self.ended.set_result(-9)

    def close(self):
        if self.sock is not None:
            self.sock.close()
        if self.client is not None:
            self.client.close()


@pytest.fixture
def launcher():
    launcher = FakeLauncher()
    yield launcher
    launcher.close()


class TestHost:
    @pytest.fixture
    def heard(self):
        return []

    @pytest.fixture
    async def host(self, launcher, heard):
        host = Host(heard.append, lambda *line: heard.append(line))

        def lost():
            launcher.lost += 1

        await host.launch(launcher, HERE, BOUND, lost)
        yield host
        await host.close(BOUND)

    async def test_calls_have_results(self, host):
        args, kwargs = await host.call("good", 1, "x", timeout=BOUND, y=2)
        assert (list(args), kwargs) == ([1, "x"], {"y": 2})

    async def test_errors_are_raised_as_they_were(self, host):
        with pytest.raises(ContainerDied, match="it died") as caught:
            await host.call("died")
        assert (caught.value.index, caught.value.exit_code) == (3, -9)
        with pytest.raises(ClusterError, match=r"^no such thing$"):
            await host.call("failed")

    async def test_a_bug_there_has_its_traceback(self, host):
        with pytest.raises(ClusterError, match=r"(?s)The supervisor failed: .*a bug"):
            await host.call("broken")

    async def test_a_call_that_takes_too_long_says_so(self, host):
        with pytest.raises(ClusterError, match=r"has not answered slow\(\) within 0.05 s"):
            await host.call("slow", timeout=SHORT)

    async def test_agents_that_are_made_again_are_known_with_what_they_began_with(
        self, host, launcher
    ):
        """Or a second loss would cost them what they had."""
        arguments = MsgPack().encode([((n,), {}) for n in range(3)])
        states = [[b"a", None], [b"b"], [b"c"]]
        given = (3, "m:A", "/there.py:A", arguments, [["k", "l"], ["m"], ["n"]], True)
        made, failure, _ = await host.spawn(*given, respawn=True, states=states)
        assert (len(made), failure) == (3, None)
        known = [
            (f.url, f.target, f.states) for f in formers_of(host.archive.kept(3), "u/", MsgPack())
        ]
        assert known == [
            ("u/0", "m:A", [b"a", None]),
            ("u/2", "m:A", [b"newer than what it began with"]),
            ("u/3", "m:A", [b"c"]),
        ]

    async def test_of_others_nothing_is_known(self, host):
        await host.spawn(3, "m:A", "m:A", b"", respawn=False)
        assert host.archive.kept(3) == []

    async def test_events_and_lines_are_passed_on(self, host, launcher, heard):
        event = ClusterEvent(kind=EventKind.HUNG, message="it hangs", index=1)
        await launcher.client.remote.event(event.content())
        await launcher.client.remote.log(2, ["a line", "another"])
        there = dataclasses.replace(event, host="localhost")
        assert heard == [there, (2, ("a line", "another"))]

    async def test_a_lost_supervisor_is_noticed_and_said_to_be(self, host, launcher):
        launcher.client.close()
        await until(lambda: launcher.lost == 1)
        with pytest.raises(ClusterError) as caught:
            await host.call("good")
        expected = "The cluster is gone: its supervisor ended with exit code 0"
        assert str(caught.value) == expected

    async def test_what_it_says_before_it_ends_is_the_reason(self, host, launcher, monkeypatch):
        """Also if that comes to us only after the end of the stream."""
        error = ClusterError("The cluster is gone: the fork server was killed")
        event = ClusterEvent(kind=EventKind.LOST, message=str(error), error=error)
        monkeypatch.setattr(launcher, "end", lambda how: None)
        launcher.client.close()
        await until(lambda: launcher.lost == 1)
        calling = asyncio.create_task(host.call("good"))
        await asyncio.sleep(0)
        host.event(event.content())
        FakeLauncher.end(launcher, 0)
        with pytest.raises(ClusterError, match="the fork server was killed"):
            await calling

    async def test_one_that_does_not_end_has_closed_its_stream(self, host, launcher, monkeypatch):
        monkeypatch.setattr(control, "_EXIT_TIMEOUT", SHORT)
        launcher.client.channel.on_closed(lambda: None)
        monkeypatch.setattr(launcher, "end", lambda how: None)
        launcher.client.close()
        with pytest.raises(ClusterError, match="its supervisor closed its control stream"):
            await host.call("good")
        await host.close(SHORT)
        assert launcher.killed == 1

    async def test_it_is_killed_if_it_does_not_end_in_time(self, host, launcher, monkeypatch):
        monkeypatch.setattr(launcher, "end", lambda how: None)
        monkeypatch.setattr(control, "_EXIT_TIMEOUT", SHORT)
        await host.close(SHORT)
        assert launcher.killed == 1

    async def test_it_is_killed_if_nobody_waits_any_more(self, host, launcher, monkeypatch):
        monkeypatch.setattr(launcher, "end", lambda how: None)
        closing = asyncio.create_task(host.close(BOUND))
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert launcher.killed == 1


async def test_nothing_can_be_called_before_the_start():
    host = Host(print, print)
    with pytest.raises(ClusterError, match="does not run"):
        await host.call("good")
    assert str(await host.lost()) == "The cluster is gone: its supervisor closed its control stream"
    await host.close(BOUND)


async def test_a_supervisor_that_does_not_answer_is_ended():
    launcher = FakeLauncher(serves=False)
    host = Host(print, print)
    with pytest.raises(TimeoutError, match=r"The supervisor .*not answered within 0\.05 s"):
        await host.launch(launcher, HERE, SHORT, lambda: None)
    assert launcher.killed == 1
    await host.close(BOUND)
    launcher.close()


async def test_a_supervisor_that_ends_at_once_says_how():
    launcher = FakeLauncher(serves=False)
    host = Host(print, print)
    launching = asyncio.create_task(host.launch(launcher, HERE, BOUND, lambda: None))
    await until(lambda: host._link)
    launcher.close()
    launcher.end(-9)
    with pytest.raises(ClusterError, match="its supervisor was killed by SIGKILL"):
        await launching
    await host.close(BOUND)


async def test_a_supervisor_that_hangs_does_not_answer_and_is_ended(launcher, caplog):
    host = Host(print, print, heartbeat=SHORT)
    lost = asyncio.Event()
    await host.launch(launcher, HERE, BOUND, lost.set)
    launcher.client.channel.transport.pause_reading()
    async with asyncio.timeout(BOUND):
        await lost.wait()
    expected = "The cluster is gone: its supervisor has been silent for 0.15 s"
    assert str(await host.lost()) == expected
    assert launcher.killed == 1
    [record] = caplog.records
    message = record.getMessage()
    assert message.startswith("Cutting the connection to the supervisor of this cluster: ")
    await host.close(BOUND)
    launcher.client.channel.transport.abort()
    await launcher.client.channel.wait_closed()


async def test_a_launcher_that_fails_leaves_nothing():
    class Broken(Launcher):
        async def launch(self, host, timeout):
            raise OSError("no more processes")

    host = Host(print, print)
    with pytest.raises(OSError, match="no more processes"):
        await host.launch(Broken(), HERE, BOUND, lambda: None)
    await host.close(BOUND)
