"""The fork server as a program: its requests, its children and how they end, and its own end."""

from __future__ import annotations

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

from aiomas._wire import FrameReader, frame
from aiomas.cluster.forkserver import OUT_OF_MEMORY, TICKET
from aiomas.codecs import MsgPack

TARGET = f"{Path(__file__).with_name('forked.py')}:main"
BOUND = 10.0  # seconds
BOOT = """\
import sys
sys.path[:] = sys.argv[5:]
from aiomas.cluster.forkserver import serve
serve(*map(int, sys.argv[1:4]), sys.argv[4])
"""
WITHOUT_WAITID = "import os\nif hasattr(os, 'waitid'):\n    del os.waitid\n"


class Client:
    """Speaks to a fork server, one thing after the other."""

    def __init__(self, directory, target=TARGET, extra_path=(), boot=BOOT):
        self.requests, theirs = socket.socketpair()
        self.descriptors, their_descriptors = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.guard_read, self.guard = os.pipe()
        self.requests.settimeout(BOUND)
        fds = theirs.fileno(), their_descriptors.fileno(), self.guard_read
        arguments = [*map(str, fds), target, *sys.path, *map(str, extra_path)]
        with theirs, their_descriptors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", boot, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=fds,
            )
        self.reader = FrameReader(2**24)
        self.codec = MsgPack()
        self.messages = []
        self.exits = {}
        self.number = 0
        if directory is not None:
            self.call("tidy_up", str(directory))

    def send(self, path, *args):
        self.number += 1
        self.requests.sendall(frame(self.codec.encode([0, self.number, [path, args, {}]])))
        return self.number

    def receive(self):
        while not self.messages:
            data = self.requests.recv(65536)
            if not data:
                raise EOFError
            self.messages += map(self.codec.decode, self.reader.feed(data))
        kind, number, content = self.messages.pop(0)
        if kind == 0:
            path, (pid, code), _ = content
            assert path == "exited"
            self.exits[pid] = code
        return kind, number, content

    def call(self, path, *args):
        number = self.send(path, *args)
        while (message := self.receive())[:2] not in {(1, number), (2, number)}:
            pass
        return message[2] if message[0] == 1 else Failure(*message[2])

    def fork(self, do, *args, fds=(), ticket=None):
        ticket = self.number if ticket is None else ticket
        socket.send_fds(self.descriptors, [TICKET.pack(ticket, len(fds))], fds)
        return self.call("fork", ticket, {"do": do, "args": args})

    def exit_code(self, pid):
        while pid not in self.exits:
            self.receive()
        return self.exits[pid]

    def outcome(self, do, *args, fds=()):
        """Return the exit code of a child and all that it has printed."""
        read, write = os.pipe()
        with os.fdopen(read) as output:
            pid = self.fork(do, *args, fds=[write, *fds])
            os.close(write)
            code = self.exit_code(pid)
            return code, output.read()

    def wait(self):
        """Wait for the end of the program; return its exit code and what it has printed."""
        self.output, errors = self.process.communicate(timeout=BOUND)
        return self.process.returncode, errors.decode()

    def close(self):
        self.requests.close()
        self.descriptors.close()
        for name in ("guard_read", "guard"):
            fd = getattr(self, name)
            setattr(self, name, None)
            if fd is not None:
                os.close(fd)
        try:
            return self.wait()
        finally:
            self.process.kill()
            self.process.wait()


class Failure(list):
    def __init__(self, *args):
        super().__init__(args)
        self.kind, self.number, self.text = args


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / "0.sock").touch()
    return path


@pytest.fixture
def old_client(directory):
    """One whose fork server is on a system without ``waitid()``."""
    client = Client(directory, boot=WITHOUT_WAITID + BOOT)
    yield client
    assert client.close() == (0, "")


@pytest.fixture
def client(directory, tmp_path):
    client = Client(directory, extra_path=[tmp_path])
    yield client
    code, errors = client.close()
    assert (code, errors) in {(0, ""), (-signal.SIGKILL, "")}
    assert not directory.exists() or code != 0


def wait_until(condition):
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)


def is_gone(pid):
    """Whether the process has ended, and none of ours has failed to wait for it."""
    try:
        process = psutil.Process(pid)
        # The system's first process may take a while to reap what it has inherited.
        return process.status() == psutil.STATUS_ZOMBIE and process.ppid() == 1
    except psutil.NoSuchProcess:
        return True


class TestChildren:
    def test_what_a_child_prints_goes_to_its_first_descriptor(self, client):
        code, output = client.outcome("returns")
        assert code == 0
        assert output == "on stdout\non stderr\nwithout an end of the line"

    @pytest.mark.parametrize(
        ("given", "code", "text"),
        [
            (None, 0, ""),
            (0, 0, ""),
            (3, 3, ""),
            (-1, 255, ""),
            (True, 1, ""),
            ("what for", 1, "what for\n"),
        ],
    )
    def test_sys_exit(self, client, given, code, text):
        assert client.outcome("leaves", given) == (code, text)

    def test_an_exception_is_printed(self, client):
        code, output = client.outcome("fails", "ValueError")
        assert code == 1
        assert output.startswith("Traceback")
        assert output.endswith("ValueError: for a reason\n")

    def test_a_memory_error_has_an_exit_code_of_its_own(self, client):
        code, output = client.outcome("fails", "MemoryError")
        assert code == OUT_OF_MEMORY == 77
        assert "MemoryError: for a reason" in output
        assert client.outcome("fails_in_group")[0] == OUT_OF_MEMORY

    def test_an_interrupt_is_an_error(self, client):
        code, output = client.outcome("fails", "KeyboardInterrupt")
        assert code == 1
        assert "KeyboardInterrupt" in output

    @pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
    def test_one_that_is_killed_by_a_signal(self, client, number):
        resource.prlimit(client.process.pid, resource.RLIMIT_CORE, (0, 0))
        assert client.outcome("kills_itself", number)[0] == -number

    def test_the_others_live_on(self, client):
        others = [client.fork("wait") for _ in range(3)]
        client.outcome("fails", "ValueError")
        assert client.call("ping") is None
        assert not set(others) & set(client.exits)
        assert len({*others}) == 3

    def test_descriptors_arrive_in_order_and_are_not_the_servers_any_more(self, client):
        before = psutil.Process(client.process.pid).num_fds() if client.call("ping") is None else 0
        pairs = [os.pipe() for _ in range(3)]
        code, _ = client.outcome("writes", "x", fds=[write for _, write in pairs])
        assert code == 0
        for read, write in pairs:
            os.close(write)
            assert os.read(read, 10) == b"x"
            assert os.read(read, 10) == b""
            os.close(read)
        assert psutil.Process(client.process.pid).num_fds() == before

    def test_a_child_is_a_process_of_its_own(self, client):
        code, output = client.outcome("tells")
        assert code == 0, output
        assert output.splitlines() == [
            "SIGINT <built-in function default_int_handler>",
            "SIGTERM 0",
            "SIGHUP 0",
            "SIGCHLD 0",
            "blocked set()",
            "wakeup -1",
            "group True",
            "stdin /dev/null",
            "more open []",
            "inheritable []",
        ]

    @pytest.mark.parametrize("code", [0, 1])
    def test_what_a_child_has_started_ends_with_it(self, client, code):
        ended, output = client.outcome("has_child", code)
        assert ended == code
        wait_until(lambda: is_gone(int(output)))

    def test_killing_one_kills_what_it_has_started(self, client):
        read, write = os.pipe()
        pid = client.fork("has_child", None, fds=[write])
        os.close(write)
        with os.fdopen(read) as output:
            grandchild = int(output.readline())
            assert client.call("kill", pid, signal.SIGKILL) is None
            assert client.exit_code(pid) == -signal.SIGKILL
            wait_until(lambda: is_gone(grandchild))

    def test_another_signal_is_for_the_child_alone(self, client):
        read, write = os.pipe()
        with os.fdopen(read) as output:
            pid = client.fork("exits_on_sigterm", fds=[write])
            os.close(write)
            assert output.readline() == "ready\n"
            assert client.call("kill", pid, signal.SIGTERM) is None
            assert client.exit_code(pid) == 5

    def test_only_living_children_can_be_killed(self, client):
        client.outcome("leaves", 0)
        (pid,) = client.exits
        for number in (pid, client.process.pid, os.getpid(), 1, 2**22 + 1):
            for sig in (0, signal.SIGKILL):
                failure = client.call("kill", number, sig)
                assert failure.kind == "LookupError"
                assert failure.text == f"There is no process {number} of this run (any more)"

    def test_a_signal_that_does_not_exist_is_refused(self, client):
        pid = client.fork("wait")
        assert client.call("kill", pid, 999).kind == "OSError"
        assert client.call("kill", pid, 9) is None

    def test_many_requests_at_once(self, client):
        for ticket in range(8):
            socket.send_fds(client.descriptors, [TICKET.pack(ticket, 0)], [])
        data = b"".join(
            frame(client.codec.encode([0, n, ["fork", [n, {"do": "leaves", "args": [0]}], {}]]))
            for n in range(8)
        )
        client.requests.sendall(data)
        pids: set[int] = set()
        while len(pids) < 8 or set(client.exits) != pids:
            kind, _, content = client.receive()
            if kind:
                assert kind == 1
                pids.add(content)
        assert set(client.exits.values()) == {0}

    def test_descriptors_of_a_fork_that_was_given_up_are_closed(self, client):
        client.call("ping")
        before = psutil.Process(client.process.pid).num_fds()
        read, write = os.pipe()
        socket.send_fds(client.descriptors, [TICKET.pack(100, 1)], [write])
        os.close(write)
        pid = client.fork("wait", ticket=101)
        assert isinstance(pid, int)
        assert os.read(read, 1) == b""
        os.close(read)
        assert psutil.Process(client.process.pid).num_fds() == before

    def test_a_fork_without_a_message_with_its_descriptors_is_refused(self, client):
        failure = client.call("fork", 5, {"do": "wait"})
        assert failure == ["ClusterError", 0, "No descriptors came for fork number 5"]

    def test_when_descriptors_run_out_the_server_lives_on(self, client):
        client.call("ping")
        process = psutil.Process(client.process.pid)
        before = process.num_fds()
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (before + 3, 4096))
        failure = client.fork("wait", fds=[0] * 10)
        assert failure.kind == "OSError"
        assert "Too many open files: the fork server has no room for 10" in failure.text
        assert process.num_fds() == before
        assert isinstance(client.fork("wait", fds=[0] * 3), int)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (4096, 4096))
        assert isinstance(client.fork("wait", fds=[0] * 10), int)

    def test_a_target_that_cannot_be_loaded(self, directory):
        client = Client(directory, target="no_such_module:main")
        try:
            failure = client.fork("wait")
            assert failure.kind == "ClusterError"
            assert failure.text.startswith("no_such_module:main cannot be loaded:\nTraceback")
            assert client.call("ping") is None
        finally:
            client.close()

    def test_a_function_that_there_is_not(self, client):
        assert client.call("spam").text == "The fork server has no function spam"


class TestPreload:
    def test_children_have_the_module(self, client, tmp_path):
        (tmp_path / "preloaded.py").write_text("import os\nPID = os.getpid()\n")
        assert client.call("preload", ["preloaded", "json"]) is None
        assert client.outcome("imports", "preloaded") == (0, f"{client.process.pid}\n")

    def test_one_that_cannot_be_imported_is_named(self, client, tmp_path):
        failure = client.call("preload", ["json", "no_such_module"])
        assert failure.kind == "ClusterError"
        assert failure.text.startswith("The module no_such_module cannot be preloaded:")
        assert "ModuleNotFoundError" in failure.text
        for name, line in (("leaver", "raise SystemExit(1)"), ("breaker", "1/0")):
            (tmp_path / f"{name}.py").write_text(line)
            failure = client.call("preload", [name])
            assert failure.text.startswith(f"The module {name} cannot be preloaded:")
        assert client.outcome("returns")[0] == 0

    def test_one_that_starts_a_thread_is_named(self, client, tmp_path):
        (tmp_path / "threads.py").write_text(
            "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
        )
        failure = client.call("preload", ["json", "threads", "csv"])
        assert failure.kind == "ClusterError"
        assert failure.text.startswith("Importing threads leaves the fork server with 2 threads")
        assert client.fork("wait").text.startswith("The fork server has 2 threads")

    def test_what_one_prints_is_printed_once(self, client, tmp_path):
        (tmp_path / "prints.py").write_text("import sys\nprint('spam', end='')\n")
        client.call("preload", ["prints"])
        assert client.outcome("leaves", 0) == (0, "")
        assert client.exit_code(client.fork("leaves", 0)) == 0  # has the server's output
        client.close()
        assert client.output == b"spam"

    def test_one_that_takes_the_signals_does_not_make_us_deaf(self, client, tmp_path):
        (tmp_path / "takes.py").write_text(
            "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_DFL)\nsignal.set_wakeup_fd(-1)"
        )
        client.call("preload", ["takes"])
        assert client.outcome("leaves", 4)[0] == 4

    def test_a_process_that_one_has_started_is_reaped_and_not_reported(self, client, tmp_path):
        (tmp_path / "starts.py").write_text("import os\nif not (pid := os.fork()): os._exit(3)\n")
        client.call("preload", ["starts"])
        process = psutil.Process(client.process.pid)
        client.outcome("returns")
        wait_until(lambda: not process.children())
        client.call("ping")
        assert len(client.exits) == 1


class TestEnd:
    @pytest.fixture
    def family(self, client):
        """The pids of a child, of what it has started, and of another child."""
        read, write = os.pipe()
        pids = [client.fork("has_child", None, fds=[write]), client.fork("wait")]
        os.close(write)
        with os.fdopen(read) as output:
            return [*pids, int(output.readline())]

    @pytest.mark.parametrize("end", ["requests", "guard"])
    def test_it_takes_all_children_and_the_directory_along(self, client, family, directory, end):
        if end == "guard":
            os.close(client.guard)
            client.guard = None
        else:
            client.requests.shutdown(socket.SHUT_WR)
        assert client.wait() == (0, "")
        assert not directory.exists()
        wait_until(lambda: all(map(is_gone, family)))

    def test_a_killed_one_takes_its_children_along(self, client, directory):
        pids = [client.fork("wait") for _ in range(5)]
        client.process.kill()
        client.process.wait()
        wait_until(lambda: all(map(is_gone, pids)))
        assert directory.exists()  # nobody is left but the supervisor

    def test_one_that_was_told_to_stop_leaves_the_directory_to_the_supervisor(
        self, directory, tmp_path
    ):
        client = Client(directory)
        pids = [client.fork("wait") for _ in range(5)]
        assert client.call("stop") is None
        assert client.exits == dict.fromkeys(pids, -signal.SIGKILL)
        assert all(map(is_gone, pids))
        assert client.close() == (0, "")
        assert directory.exists()

    def test_a_directory_that_is_gone_is_no_error(self, client, directory):
        client.call("ping")
        (directory / "0.sock").unlink()
        directory.rmdir()
        client.requests.shutdown(socket.SHUT_WR)
        assert client.wait() == (0, "")

    def test_signals_do_not_end_it(self, client):
        pid = client.fork("wait")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            for _ in range(20):
                client.process.send_signal(number)
            assert client.call("ping") is None
        assert pid not in client.exits

    def test_a_child_that_is_stopped_ends_with_it(self, client):
        pid = client.fork("wait")
        assert client.call("kill", pid, signal.SIGSTOP) is None
        os.close(client.guard)
        client.guard = None
        assert client.wait()[0] == 0
        assert is_gone(pid)

    def test_a_supervisor_that_does_not_read_and_is_gone(self, client):
        pids = [client.fork("wait") for _ in range(4)]
        client.send("ping")
        client.requests.close()
        assert client.wait() == (0, "")
        assert all(map(is_gone, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has titles")
def test_it_has_the_name_of_its_run(client, directory):
    title = psutil.Process(client.process.pid).cmdline()[0]
    assert title.rstrip() == f"aiomas {directory.name}/fork server"


class TestWithoutWaitid:
    @pytest.mark.parametrize("code", [0, 3])
    def test_children_of_children_do_not_outlive_them(self, old_client, code):
        ended, output = old_client.outcome("has_child", code)
        assert ended == code
        wait_until(lambda: is_gone(int(output)))

    def test_each_end_is_told_once(self, old_client):
        pids = [old_client.fork("leaves", code) for code in range(5)]
        lasting = old_client.fork("wait")
        assert [old_client.exit_code(pid) for pid in pids] == list(range(5))
        assert old_client.call("kill", lasting, int(signal.SIGKILL)) is None
        assert old_client.exit_code(lasting) == -signal.SIGKILL
        assert old_client.call("kill", lasting, int(signal.SIGKILL)).kind == "LookupError"
        assert all(map(is_gone, [*pids, lasting]))

    def test_all_are_ended_with_it(self, old_client):
        pid = old_client.fork("wait")
        old_client.close()
        assert is_gone(pid)
