"""The fork server as the supervisor sees it: it starts, forks, tells of ends, and ends itself."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from aiomas.cluster import zygote
from aiomas.cluster.forkserver import TICKET
from aiomas.cluster.zygote import ForkServer, Program
from aiomas.exceptions import ClusterError, SerializationError

TARGET = f"{Path(__file__).with_name('forked.py')}:main"
BOUND = 10.0  # seconds
SHORT = 0.2  # seconds, for calls that are not answered

SUPERVISOR = """\
import asyncio, os, pathlib, sys
from aiomas.cluster import zygote
from aiomas.cluster.forkserver import TICKET
from aiomas.cluster.zygote import ForkServer, fork_program

async def main(directory, program):
    server = await ForkServer.attach(program)
    await server.tidy_up(pathlib.Path(directory))
    processes = [await server.fork({"do": "wait"}) for _ in range(3)]
    print(server.pid, *(process.pid for process in processes), flush=True)
    await asyncio.Event().wait()

directory, target = sys.argv[1:]
guard, _ = os.pipe()
asyncio.run(main(directory, fork_program(guard, target)))
"""

BOOT = """\
import json, sys
requests, descriptors, guard, target, sys.path[:] = json.loads(sys.argv.pop())
from aiomas.cluster.forkserver import run
run(requests, descriptors, guard, target)
"""


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.fixture
def guard():
    read, write = os.pipe()
    yield read
    os.close(read)
    os.close(write)


@pytest.fixture
async def server(directory, guard, tmp_path):
    path = [*sys.path, str(tmp_path)]
    server = await start(directory, guard, target=TARGET, sys_path=path, timeout=BOUND)
    yield server
    await server.close()


async def start(directory, guard, *, target=TARGET, sys_path=None, timeout=BOUND):
    """Start a fork server in a new interpreter: this one has threads and an event loop."""
    requests, their_requests = socket.socketpair()
    descriptors, their_descriptors = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    fds = their_requests.fileno(), their_descriptors.fileno(), guard
    with their_requests, their_descriptors:
        for fd in fds:
            os.set_inheritable(fd, True)
        arguments = json.dumps([*fds, target, sys_path or sys.path])
        command = [sys.executable, "-c", BOOT, arguments]
        pid = os.posix_spawn(sys.executable, command, os.environ)
        os.set_inheritable(guard, False)
    server = await ForkServer.attach(Program(pid, requests, descriptors), timeout=timeout)
    if directory is not None:
        with contextlib.suppress(ClusterError):  # it may not have come that far
            await server.tidy_up(directory)
    return server


def job(do, *args):
    return {"do": do, "args": args}


async def bounded(awaitable):
    async with asyncio.timeout(BOUND):
        return await awaitable


async def until(condition):
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110 - other processes set no events
            await asyncio.sleep(0.005)


def is_gone(pid):
    """Whether the process has ended, and none of ours has failed to wait for it."""
    try:
        process = psutil.Process(pid)
        # The system's first process may take a while to reap what it has inherited.
        return process.status() == psutil.STATUS_ZOMBIE and process.ppid() == 1
    except psutil.NoSuchProcess:
        return True


async def has_stopped(pid):
    await until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


async def fork_printing(server, *args):
    """Return a new process, and a file with what it prints."""
    read, write = os.pipe()
    try:
        return await server.fork(job(*args), [write]), os.fdopen(read)
    finally:
        os.close(write)


def fill(sock):
    """Send descriptors of no fork until no more of them fit."""
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(TICKET.pack(12345, 0))


class TestProcesses:
    async def test_they_run_and_their_ends_are_known(self, server):
        waiting = await server.fork(job("wait"))
        assert psutil.Process(waiting.pid).ppid() == server.pid
        process, output = await fork_printing(server, "leaves", "what for")
        with output:
            assert await bounded(process.wait()) == 1
            assert output.read() == "what for\n"
        assert repr(process) == f"<Process {process.pid} (ended)>"
        assert not waiting.exited.done()
        assert repr(waiting) == f"<Process {waiting.pid}>"

    async def test_many_at_once(self, server):
        processes = await asyncio.gather(*(server.fork(job("leaves", n)) for n in range(64)))
        codes = await bounded(asyncio.gather(*(process.wait() for process in processes)))
        assert codes == list(range(64))
        assert not psutil.Process(server.pid).children()

    async def test_one_that_has_ended_before_its_fork_returns(self, server, monkeypatch):
        async def late(reply):
            await asyncio.wait([reply])
            await until(lambda: reply.result() in server._unclaimed)
            return reply.result()

        monkeypatch.setattr(zygote, "_result", late)
        process = await server.fork(job("leaves", 3))
        monkeypatch.undo()
        assert await bounded(process.wait()) == 3
        assert not server._unclaimed

    async def test_a_cancelled_wait_for_an_end_disturbs_nobody(self, server):
        process = await server.fork(job("wait"))
        process.exited.cancel()
        await server.kill(process)
        await until(lambda: is_gone(process.pid))
        await server.ping()

    async def test_kill(self, server):
        process = await server.fork(job("wait"))
        await server.kill(process, signal.SIGTERM)
        assert await bounded(process.wait()) == -signal.SIGTERM
        with pytest.raises(ProcessLookupError, match=f"process {process.pid}"):
            await server.kill(process)

    async def test_kill_of_one_whose_end_is_not_known_yet(self, server):
        process = await server.fork(job("wait"))
        first = asyncio.create_task(server.kill(process))
        second = asyncio.create_task(server.kill(process))
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert results[0] is None
        assert results[1] is None or isinstance(results[1], ProcessLookupError)
        assert await bounded(process.wait()) == -signal.SIGKILL

    async def test_a_fork_that_is_cancelled_leaves_no_process(self, server):
        await server.ping()
        os.kill(server.pid, signal.SIGSTOP)
        await has_stopped(server.pid)
        task = asyncio.create_task(server.fork(job("wait")))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        os.kill(server.pid, signal.SIGCONT)
        other = await server.fork(job("wait"))
        children = psutil.Process(server.pid).children
        await until(lambda: [child.pid for child in children()] == [other.pid])

    async def test_a_function_that_is_not_there_is_a_cluster_error(self, directory, guard):
        server = await start(directory, guard, target="aiomas.cluster.loading:spam")
        try:
            with pytest.raises(ClusterError, match="spam cannot be loaded"):
                await server.fork({})
        finally:
            await server.close()


class TestErrors:
    async def test_descriptors_that_cannot_be_passed(self, server):
        with pytest.raises(OSError, match="300 descriptors: at most 253") as caught:
            await server.fork(job("wait"), [0] * 300)
        assert caught.value.errno == errno.E2BIG
        with pytest.raises(OSError) as caught:
            await server.fork(job("wait"), [987654])
        assert caught.value.errno == errno.EBADF
        await server.fork(job("wait"), [2] * 253)

    async def test_descriptors_that_run_out_there(self, server):
        await server.ping()
        limit = psutil.Process(server.pid).num_fds() + 2
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, 4096))
        with pytest.raises(OSError, match="has no room for 20 descriptors") as caught:
            await server.fork(job("wait"), [2] * 20)
        assert caught.value.errno == errno.EMFILE
        process = await server.fork(job("leaves", 0), [2])
        assert await bounded(process.wait()) == 0

    async def test_a_module_that_cannot_be_preloaded(self, server, tmp_path):
        (tmp_path / "threads.py").write_text(
            "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
        )
        await server.preload(["json", "uvloop"])
        with pytest.raises(ClusterError, match="no_such_module cannot be preloaded"):
            await server.preload(["no_such_module"])
        with pytest.raises(ClusterError, match="Importing threads leaves"):
            await server.preload(["threads"])

    async def test_a_job_that_cannot_be_sent(self, server):
        for _ in range(600):  # more than the socket holds
            with pytest.raises(SerializationError):
                await server.fork({"do": object()}, [2])
        process = await server.fork(job("leaves", 0))
        assert await bounded(process.wait()) == 0

    @pytest.mark.leaves_resources("what comes of a failed start is told on standard error")
    async def test_a_fork_server_that_cannot_start(self, directory, guard, tmp_path):
        (tmp_path / "aiomas.py").write_text("raise SystemExit(9)")
        path = [str(tmp_path), *sys.path]
        server = await start(directory, guard, target=TARGET, sys_path=path)
        try:
            with pytest.raises(ClusterError):
                await server.ping()
            error = await bounded(server.lost)
            assert str(error) == f"The fork server (process {server.pid}) ended with exit code 9"
        finally:
            await server.close()


class TestLoss:
    async def test_all_is_over_if_it_is_killed(self, server):
        processes = [await server.fork(job("wait")) for _ in range(4)]
        process, output = await fork_printing(server, "has_child", None)
        with output:
            grandchild = int(output.readline())
        os.kill(server.pid, signal.SIGKILL)
        error = await bounded(server.lost)
        assert str(error) == f"The fork server (process {server.pid}) was killed by SIGKILL"
        for each in (*processes, process):
            with pytest.raises(ClusterError, match="was killed by SIGKILL"):
                await bounded(each.wait())
        await until(lambda: all(is_gone(each.pid) for each in processes))
        await until(lambda: is_gone(process.pid) and is_gone(grandchild))

    async def test_calls_fail_at_once_then(self, server):
        process = await server.fork(job("wait"))
        os.kill(server.pid, signal.SIGSTOP)
        await has_stopped(server.pid)
        calls = [server.ping(), server.fork(job("wait")), server.preload(["json"])]
        tasks = [asyncio.create_task(call) for call in calls]
        await asyncio.sleep(0)
        os.kill(server.pid, signal.SIGKILL)
        for task in tasks:
            with pytest.raises(ClusterError):
                await bounded(task)
        await bounded(server.lost)
        with pytest.raises(ClusterError, match="killed by SIGKILL"):
            await server.fork(job("wait"))
        with pytest.raises(ProcessLookupError):
            await server.kill(process)

    async def test_one_that_closes_its_connection_is_ended(self, server):
        process = await server.fork(job("wait"))
        server._client.channel.transport.abort()
        await bounded(server.lost)
        with pytest.raises(ClusterError):
            await bounded(process.wait())
        await until(lambda: is_gone(process.pid))

    async def test_one_that_is_stuck_is_given_up_in_time(self, directory, guard):
        server = await start(directory, guard, target=TARGET, timeout=BOUND)
        try:
            process = await server.fork(job("wait"))
            server._timeout = SHORT
            os.kill(server.pid, signal.SIGSTOP)
            await has_stopped(server.pid)
            started = time.monotonic()
            calls = [server.ping(), *(server.fork(job("wait"), [2]) for _ in range(10))]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(result) for result in results} == {ClusterError}
            assert str(results[0]) == (
                f"The fork server (process {server.pid}) did not answer ping() within {SHORT} s"
            )
            with pytest.raises(ClusterError, match=r"did not answer preload\(\)"):
                await server.preload(["json"], timeout=SHORT)
            with pytest.raises(ClusterError, match=r"did not answer kill\(\)"):
                await server.kill(process)
        finally:
            await server.close()
        assert time.monotonic() - started < BOUND
        with pytest.raises(ClusterError, match="was closed"):
            await process.exited
        await until(lambda: is_gone(process.pid))
        assert is_gone(server.pid)

    async def test_a_fork_that_was_given_up_leaves_no_process(self, server):
        await server.ping()
        os.kill(server.pid, signal.SIGSTOP)
        await has_stopped(server.pid)
        server._timeout = SHORT
        with pytest.raises(ClusterError, match=r"did not answer fork\(\)"):
            await server.fork(job("wait"), [2])
        server._timeout = BOUND
        os.kill(server.pid, signal.SIGCONT)
        process = await server.fork(job("wait"))
        children = psutil.Process(server.pid).children
        await until(lambda: [child.pid for child in children()] == [process.pid])
        await until(lambda: set(server._processes) == {process.pid})
        assert not server._unclaimed

    async def test_forks_that_nobody_takes_are_refused(self, server):
        await server.ping()
        os.kill(server.pid, signal.SIGSTOP)
        await has_stopped(server.pid)
        fill(server._descriptors)
        with pytest.raises(OSError, match="1 descriptors: the fork server does not take them"):
            await server.fork(job("wait"), [2])
        server._timeout = SHORT  # for close()

    @pytest.mark.leaves_resources("the processes of another one's children are not ours")
    async def test_all_is_over_if_the_supervisor_is_killed(self, directory):
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(directory), TARGET], stdout=subprocess.PIPE
        )
        with process:
            assert process.stdout is not None
            pids = [*map(int, process.stdout.readline().split())]
            assert len(pids) == 4
            process.kill()
        await until(lambda: all(map(is_gone, pids)) and not directory.exists())


class TestClose:
    async def test_it_tells_how_all_have_ended(self, server, directory):
        processes = [await server.fork(job("wait")) for _ in range(5)]
        await server.close()
        assert [process.exited.result() for process in processes] == [-signal.SIGKILL] * 5
        assert all(is_gone(process.pid) for process in processes)
        assert is_gone(server.pid)
        assert directory.exists()
        assert not server.lost.done()

    async def test_it_can_be_repeated_and_nothing_works_then(self, server):
        process = await server.fork(job("wait"))
        await asyncio.gather(server.close(), server.close())
        await server.close()
        with pytest.raises(ClusterError, match="was closed"):
            await server.ping()
        with pytest.raises(ClusterError, match="was closed"):
            await server.fork(job("wait"))
        with pytest.raises(ClusterError, match="was closed"):
            await server.preload(["json"])
        with pytest.raises(ProcessLookupError):
            await server.kill(process)

    async def test_it_may_be_the_first_thing_that_is_asked_for(self, directory, guard):
        server = await start(directory, guard, target=TARGET)
        await server.close()
        assert is_gone(server.pid)

    async def test_it_ends_a_fork_server_even_if_it_is_cancelled(self, server):
        process = await server.fork(job("wait"))
        os.kill(server.pid, signal.SIGSTOP)
        task = asyncio.create_task(server.close())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await until(lambda: is_gone(server.pid) and is_gone(process.pid))
