"""A run is asked and stopped through its socket; errors say of which run; rates are per second."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from pathlib import Path

import pytest

from aiomas.cluster import rundir
from aiomas.cluster.rundir import RunDirectory
from aiomas.cluster.watch import SOCKET, Rates, RunGone, Watch, rates, serve_watch, wait_until_gone
from aiomas.exceptions import ClusterError

CONTAINER = {
    "index": 0,
    "pid": 10,
    "cpu": 1.0,
    "calls_in": 100,
    "calls_out": 50,
    "bytes_in": 1000,
    "bytes_out": 0,
}


@pytest.fixture
def directory(unix_path, monkeypatch):
    monkeypatch.setenv("AIOMAS_RUN_DIR", str(Path(unix_path).with_name("runs")))
    made = RunDirectory.create("mine")
    made.publish({"name": "mine", "pid": 17, "started": 5.0})
    yield made
    made.remove()


class Supervisor:
    def __init__(self):
        self.stopped = False
        self.error: Exception | None = None

    async def status(self):
        if self.error:
            raise self.error
        return {"facts": {"name": "mine"}, "containers": [CONTAINER]}

    def stop(self):
        self.stopped = True

    async def log_read(self, index, position):
        if index > 3:
            raise LookupError(f"there is no container {index}")
        return (index, position), b"line\n\xff"


@pytest.fixture
async def supervisor(directory):
    supervisor = Supervisor()
    async with await serve_watch(directory.path / SOCKET, supervisor.status, supervisor.stop):
        yield supervisor


async def test_the_status_is_that_of_the_supervisor(supervisor):
    async with Watch(rundir.find()) as watch:
        for _ in range(2):
            assert await watch.status() == await supervisor.status()
    assert not supervisor.stopped


async def test_a_run_is_asked_to_stop(supervisor):
    async with Watch(rundir.find("mine")) as watch:
        await watch.stop()
    assert supervisor.stopped


async def test_without_somebody_who_reads_logs_there_are_none(supervisor):
    async with Watch(rundir.find()) as watch:
        with pytest.raises(ClusterError, match=r"'mine' \(pid 17\) failed: LookupError: logs are"):
            await watch.log_read(0, None)


async def test_logs_are_read_by_whoever_can(directory):
    own = Supervisor()
    path = directory.path / SOCKET
    server = await serve_watch(path, own.status, own.stop, own.log_read)
    async with server, Watch(rundir.find()) as watch:
        position, data = await watch.log_read(3, -5)
        assert (tuple(position), data) == ((3, -5), b"line\n\xff")
        # A position is the supervisor's own matter.
        position, _ = await watch.log_read(2, position)
        assert (position[0], tuple(position[1])) == (2, (3, -5))
        with pytest.raises(ClusterError, match=r"there is no container 4$"):
            await watch.log_read(4, None)


async def test_the_end_of_the_server_is_that_of_its_connections(directory):
    async def status():
        return {"facts": {}, "containers": []}

    stopped = asyncio.Event()
    server = await serve_watch(directory.path / SOCKET, status, stopped.set)
    async with Watch(rundir.find()) as watch:
        # The answer comes before the end.
        asking = asyncio.create_task(watch.stop())
        await stopped.wait()
        server.close()
        await asking
        with pytest.raises(RunGone):
            await watch.status()
    await server.wait_closed()
    with pytest.raises(RunGone):
        async with Watch(rundir.find()):
            pass


async def test_only_this_user_can_connect(supervisor, directory):
    mode = (directory.path / SOCKET).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


async def test_a_supervisor_that_fails_is_an_error_of_one_line(supervisor):
    supervisor.error = LookupError("no idea")
    async with Watch(rundir.find()) as watch:
        with pytest.raises(ClusterError, match=r"'mine' \(pid 17\) failed: .*no idea$"):
            await watch.status()


async def test_a_supervisor_that_does_not_answer_is_an_error_in_time(directory):
    # The system accepts for it, as for a process that is stopped.
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(directory.path / SOCKET))
        silent.listen()
        began = time.monotonic()
        async with Watch(rundir.find(), timeout=0.1) as watch:
            with pytest.raises(ClusterError, match=r"\(pid 17\) did not answer within 0.1 s"):
                await watch.status()
        assert time.monotonic() - began < 3


async def test_a_run_without_a_socket_has_gone(directory):
    with pytest.raises(RunGone, match=r"'mine'.*starts or ends"):
        async with Watch(rundir.find()):
            pass


async def test_a_run_that_ends_while_it_is_asked_has_gone(directory):
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.setblocking(False)
        listener.bind(str(directory.path / SOCKET))
        listener.listen()
        async with Watch(rundir.find()) as watch:
            supervisor, _ = await loop.sock_accept(listener)
            with supervisor:
                question = asyncio.create_task(watch.status())
                assert await loop.sock_recv(supervisor, 1000)
            with pytest.raises(RunGone):
                await question


def test_waiting_for_the_end_is_bounded(directory):
    run = rundir.find()
    assert not wait_until_gone(run, 0.1)
    directory.remove()
    assert wait_until_gone(run, 0)


def test_a_new_run_of_the_same_name_is_another_one(directory):
    run = rundir.find()
    directory.publish({"name": "mine", "pid": os.getpid(), "started": 6.0})
    assert wait_until_gone(run, 0)


class TestRates:
    def test_are_differences_per_second(self):
        later = CONTAINER | {
            "cpu": 2.0,
            "calls_in": 140,
            "calls_out": 50,
            "bytes_in": 3000,
            "bytes_out": 6,
        }
        assert rates([CONTAINER], [later], 2.0) == {0: Rates(50.0, 20.0, 0.0, 1000.0, 3.0)}

    def test_are_found_by_index(self):
        other = CONTAINER | {"index": 1, "pid": 11}
        busy = other | {"calls_in": 101}
        found = rates([CONTAINER, other], [busy, CONTAINER], 1.0)
        assert (found[0].calls_in, found[1].calls_in) == (0, 1)

    @pytest.mark.parametrize(
        "change", [{"pid": 11}, {"cpu": None}, {"index": 3}], ids=lambda change: next(iter(change))
    )
    def test_of_another_process_are_not_known(self, change):
        assert rates([CONTAINER], [CONTAINER | change], 1.0) == {}
        assert rates([CONTAINER | change], [CONTAINER], 1.0) == {}

    def test_without_time_are_not_known(self):
        assert rates([CONTAINER], [CONTAINER], 0.0) == {}
        assert rates([], [CONTAINER], 1.0) == {}

    def test_of_a_container_without_counters_are_not_known(self):
        bare = {"index": 0, "pid": 10}
        assert rates([bare], [CONTAINER], 1.0) == {}
