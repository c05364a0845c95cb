"""The program of a supervisor makes its fork server before it loads what is for itself alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from aiomas.cluster import boot, supervisor
from aiomas.cluster.environment import ignore


def test_the_program_does_not_see_ctrl_c_and_serves_its_socket(monkeypatch):
    served = []
    ignored = []
    monkeypatch.setattr(signal, "signal", lambda *args: ignored.append(args))

    class Fake:
        def __init__(self, program):
            served.append(program.target)

        async def serve(self, control):
            served.append(control.family)
            control.close()

    monkeypatch.setattr(supervisor, "Supervisor", Fake)
    guards, groups = [], []

    def done(coro):
        with pytest.raises(StopIteration):
            coro.send(None)

    def fork_program(guard, target):
        guards.append(os.dup(guard))
        return SimpleNamespace(pid=4711, target=target)

    monkeypatch.setattr(boot, "fork_program", fork_program)
    pipe = os.pipe()
    ours, theirs = socket.socketpair()
    with ours:
        os.set_inheritable(theirs.fileno(), True)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pipe", lambda: pipe)
            patch.setattr(os, "setpgid", lambda *ids: groups.append(ids))
            patch.setattr(asyncio, "run", done)
            boot.main(theirs.detach())
    os.close(pipe[1])
    assert os.read(guards[0], 1) == b""  # it ends with us
    os.close(guards[0])
    assert groups == [(4711, 4711)]  # who kills our group leaves it time to tidy up
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


class Pipes:
    """Both ends of the stream between a driver and a supervisor that is reached over pipes."""

    def __init__(self, stack):
        self.incoming, self.to_supervisor = os.pipe()
        self.from_supervisor, self.outgoing = os.pipe()
        self.open = {self.incoming, self.to_supervisor, self.from_supervisor, self.outgoing}
        stack.callback(lambda: [self.close(fd) for fd in set(self.open)])

    def close(self, fd):
        self.open.remove(fd)
        os.close(fd)


@pytest.fixture
def pipes():
    with contextlib.ExitStack() as stack:
        yield Pipes(stack)


@pytest.fixture
def run_over(monkeypatch, pipes):
    """Run the program over pipes with a function in the place of a supervisor."""

    def run(serve):
        monkeypatch.setattr(boot, "_make_fork_server", lambda *fds: fds)

        def checked(program, control):
            assert program == (pipes.incoming, pipes.outgoing)
            control.settimeout(30)
            with control:
                serve(control)

        monkeypatch.setattr(boot, "_serve", checked)
        boot.main_over_pipes(pipes.incoming, pipes.outgoing)

    return run


def test_both_directions_pass_and_the_last_words_arrive(run_over, pipes):
    os.write(pipes.to_supervisor, b"hello")
    large = bytes(50_000)

    def serve(control):
        assert control.recv(100) == b"hello"
        control.sendall(large)
        os.write(pipes.to_supervisor, b"again")
        assert control.recv(100) == b"again"
        pipes.close(pipes.to_supervisor)
        assert control.recv(100) == b""  # the driver is gone
        control.sendall(b"bye")

    run_over(serve)
    pipes.close(pipes.outgoing)
    with open(pipes.from_supervisor, "rb", closefd=False) as stream:
        assert stream.read() == large + b"bye"


def test_a_driver_that_does_not_read_keeps_nobody_from_ending(run_over, pipes, monkeypatch):
    monkeypatch.setattr(boot, "_LAST_WORDS_TIMEOUT", 0.1)
    run_over(lambda control: control.sendall(bytes(200_000)))
    pipes.close(pipes.to_supervisor)
    pipes.close(pipes.from_supervisor)  # now the thread, which the program would not wait for, ends


def test_a_driver_that_cannot_be_written_to_is_gone(run_over, pipes):
    def serve(control):
        pipes.close(pipes.from_supervisor)
        control.sendall(b"hello")
        assert control.recv(100) == b""

    run_over(serve)
    pipes.close(pipes.to_supervisor)


def test_descriptors_that_do_not_wait_are_waited_for(run_over, pipes):
    os.set_blocking(pipes.incoming, False)
    os.set_blocking(pipes.outgoing, False)
    writer = threading.Thread(target=os.write, args=(pipes.to_supervisor, b"hello"))

    def serve(control):
        writer.start()
        assert control.recv(100) == b"hello"

    run_over(serve)
    writer.join()
    pipes.close(pipes.to_supervisor)


def test_the_fork_server_has_a_process_group_of_its_own_and_not_our_stream():
    program = """
import os
from aiomas.cluster import boot
reading, writing = os.pipe()
os.set_inheritable(writing, True)
made = boot._make_fork_server(reading, writing)
assert os.getpgid(made.pid) == made.pid != os.getpgid(0)
assert not os.get_inheritable(writing)
os.close(writing)
assert os.read(reading, 1) == b""  # nobody else has it
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
