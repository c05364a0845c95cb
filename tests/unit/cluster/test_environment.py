"""What a fresh process is given: each of it is tried in a child process of the test."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from aiomas.cluster import environment
from aiomas.cluster.environment import Environment

BOUND = 20  # seconds
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this")

APPLY = """\
import json, os, random, resource, signal, sys, time
from aiomas.cluster.environment import *
from aiomas.exceptions import ClusterError
"""
FROM_JOB = "Environment.from_job(json.loads(sys.argv[1])).apply()\n"


def start(code, env=None):
    """Start a process that takes *env* and then runs *code*."""
    program = APPLY + (FROM_JOB if env else "") + textwrap.dedent(code)
    argument = json.dumps((env or Environment()).to_job())
    return subprocess.Popen(
        [sys.executable, "-c", program, argument, " " * 100],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    try:
        output, errors = process.communicate(timeout=BOUND)
    finally:
        process.kill()
        process.wait()
    return process.returncode, output, errors


def run(env, code):
    """Return what *code* prints."""
    returncode, output, errors = finish(start(code, env))
    assert (returncode, errors) == (0, "")
    return output.strip()


def refused(env):
    """Return the message with which *env* is refused."""
    returncode, _, errors = finish(start("", env))
    assert returncode == 1
    *_, last = errors.strip().splitlines()
    name, _, message = last.partition(": ")
    assert name == "aiomas.exceptions.ClusterError"
    return message


def test_it_travels_as_plain_values():
    env = Environment({"A": "b"}, "/tmp", 1, 2, 3, 4, "five", "six")
    assert json.loads(json.dumps(env.to_job())) == env.to_job()
    assert Environment.from_job(env.to_job()) == env
    assert Environment.from_job({}) == Environment()


def test_variables(monkeypatch):
    monkeypatch.setenv("KEPT", "as it was")
    code = "print(os.environ['KEPT'], os.environ['NEW'], os.popen('echo $NEW').read())"
    assert run(Environment({"NEW": "x y"}), code) == "as it was x y x y"


def test_the_time_zone_is_a_variable_that_needs_more():
    code = "print(time.localtime(0).tm_hour, time.tzname[0])"
    assert run(Environment({"TZ": "ABC-3"}), code) == "3 ABC"


def test_a_bad_variable_is_refused():
    assert refused(Environment({"A": "\0"}, title="shop/3")) == (
        "shop/3: env={'A': '\\x00'} is not possible: embedded null byte"
    )


def test_the_directory(tmp_path):
    assert run(Environment(cwd=str(tmp_path)), "print(os.getcwd())") == str(tmp_path)
    assert run(Environment(), "print(os.getcwd())") == os.getcwd()  # noqa: PTH109


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    path = f"{tmp_path}/nowhere"
    message = refused(Environment(cwd=path, title="shop/3"))
    assert message == f"shop/3: cwd={path!r} is not possible: No such file or directory"


@LINUX
def test_the_core():
    core = max(os.sched_getaffinity(0))
    assert run(Environment(cpu=core), "print(os.sched_getaffinity(0))") == f"{{{core}}}"


@LINUX
@pytest.mark.parametrize("core", [4000, 2**40, -1])
def test_a_core_that_is_not_there_is_refused(core):
    message = refused(Environment(cpu=core, title="shop/3"))
    allowed = sorted(os.sched_getaffinity(0))
    assert message == (
        f"shop/3: cpu={core} is not possible: the cores that it may use are {allowed}"
    )


def test_niceness():
    before = os.nice(0)
    assert run(Environment(nice=2), "print(os.nice(0))") == str(min(19, before + 2))
    assert run(Environment(), "print(os.nice(0))") == str(before)


@LINUX
def test_too_large_an_allocation_is_a_memory_error():
    code = """
        import threading
        thread = threading.Thread(target=lambda: print("thread"))
        thread.start()
        thread.join()
        try:
            data = bytearray(400 * 2**20)
        except MemoryError:
            print("refused")
        print(len(bytearray(50 * 2**20)))
    """
    output = run(Environment(memory=300 * 2**20), code)
    assert output.split() == ["thread", "refused", str(50 * 2**20)]


@LINUX
def test_memory_that_is_used_already_is_refused():
    message = refused(Environment(memory=2**20, title="shop/3"))
    assert message.startswith("shop/3: memory=1048576 is not possible: an empty container takes ")
    assert message.endswith(" bytes already")


def test_open_files():
    code = """
        print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        try:
            files = [open(os.devnull) for _ in range(100)]
        except OSError as exc:
            print(exc.strerror)
    """
    output = run(Environment(open_files=50), code)
    assert output == "50\nToo many open files"


def test_fewer_open_files_than_a_container_needs_are_refused():
    message = refused(Environment(open_files=5, title="shop/3"))
    found = re.fullmatch(
        r"shop/3: open_files=5 is not possible: a container needs (\d+) at least", message
    )
    assert found
    least = int(found[1])
    assert 16 < least < 50
    assert run(Environment(open_files=least), "print('done')") == "done"
    refused(Environment(open_files=least - 1))


def test_more_open_files_than_are_possible_are_refused():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    message = refused(Environment(open_files=hard + 1, title="shop/3"))
    assert message == (
        f"shop/3: open_files={hard + 1} is not possible: "
        f"the hard limit of this process is {hard} open files"
    )


@pytest.mark.parametrize("seed", [-3, "text"])
def test_a_seed_makes_what_is_random_repeatable(seed):
    code = "print(random.random())"
    if importlib.util.find_spec("numpy"):
        code = "import numpy\n" + FROM_JOB + "print(random.random(), numpy.random.random())"
    first = run(Environment(seed=seed), code)
    assert run(Environment(seed=seed), code) == first
    assert run(Environment(seed="another"), code) != first


def test_without_a_seed_each_forked_process_has_its_own_numbers():
    pytest.importorskip("numpy")
    code = """
        import numpy
        sys.stdout.flush()
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                Environment().apply()
                print(random.random(), numpy.random.random(), flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
    """
    code = "os.environ['OPENBLAS_NUM_THREADS'] = '1'\n" + textwrap.dedent(code)
    first, second = run(Environment(), code).splitlines()
    assert not set(first.split()) & set(second.split())


@LINUX
@pytest.mark.parametrize("title", ["shop/3 (aiomas)", "x" * 40, "Übergrößenträger", "a" * 14 + "ü"])
def test_the_title_is_what_tools_show(title):
    process = start("print('ready', flush=True); sys.stdin.read()", Environment(title=title))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        there = psutil.Process(process.pid)
        assert there.cmdline()[0] == title
        assert not any(there.cmdline()[1:])  # nothing of the variables behind it
        assert there.name() == title or title.startswith(there.name())
        with open(f"/proc/{process.pid}/comm", "rb") as comm:  # noqa: PTH123
            short = comm.read().rstrip(b"\n")
        assert short.decode() == title.encode()[:15].decode(errors="ignore")
    finally:
        assert finish(process)[0] == 0


@LINUX
def test_a_title_that_is_longer_than_its_room_is_cut():
    code = """
        set_title("y" * 100_000)
        print(open("/proc/self/cmdline").read().rstrip("\\0") == "y" * 100_000)
        print(set(open("/proc/self/cmdline").read().rstrip("\\0")), os.environ["PATH"] != "")
    """
    assert run(Environment(), code) == "False\n{'y'} True"


def test_a_title_never_fails(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(environment, "Path", lambda *_: (_ for _ in ()).throw(OSError()))
    environment.set_title("some\0thing \udc80")
    monkeypatch.setattr(sys, "platform", "darwin")
    environment.set_title("something")


@LINUX
def test_a_process_dies_with_its_parent():
    code = """
        pid = os.fork()
        if pid == 0:
            die_with_parent(os.getppid())
            print(os.getpid(), flush=True)
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
    """
    process = start(code)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    process.kill()
    finish(process)
    deadline = time.monotonic() + BOUND
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_process_whose_parent_is_gone_already_ends():
    assert finish(start("die_with_parent(2**22 + 1)"))[0] == -signal.SIGKILL
    assert finish(start("die_with_parent(os.getppid())"))[0] == 0


class TestKernelOomKills:
    @pytest.fixture
    def files(self, monkeypatch, tmp_path):
        """A function that writes a file of the system's, of which there are no others."""
        monkeypatch.setattr(
            environment, "Path", lambda *parts: tmp_path.joinpath("/".join(parts).lstrip("/"))
        )

        def write(name, text):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

        return write

    def test_those_of_our_group(self, files):
        files("proc/self/cgroup", "1:cpu:/other\n0::/system.slice/x.service\n")
        files("sys/fs/cgroup/system.slice/x.service/memory.events", "oom 5\noom_kill 3\n")
        files("proc/vmstat", "oom_kill 9\n")
        assert environment.kernel_oom_kills() == 3

    @pytest.mark.parametrize("group", ["0::/\n", "1:cpu:/other\n", ""])
    def test_those_of_the_machine(self, files, group):
        files("proc/self/cgroup", group)
        files("proc/vmstat", "nr_free_pages 1\noom_kill 9\n")
        assert environment.kernel_oom_kills() == 9

    def test_nobody_knows(self, files):
        assert environment.kernel_oom_kills() == 0

    def test_on_this_machine(self):
        assert environment.kernel_oom_kills() >= 0
