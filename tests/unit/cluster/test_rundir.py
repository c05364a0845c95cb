"""Directories of runs: who may have them, what lives in them, and what is removed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import aiomas
from aiomas.cluster import rundir
from aiomas.cluster.rundir import RunDirectory, find, remove_tree, running, sweep
from aiomas.exceptions import ClusterError

ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
STRANGER = 12345  # the id of a user

HOLD = """
run = RunDirectory.create(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
run.remove()
"""


@pytest.fixture(autouse=True)
def base(temporary_folder, monkeypatch):
    """The base directory, which does not exist yet; short, so that no name is too long."""
    with tempfile.TemporaryDirectory(dir=temporary_folder, prefix="b") as folder:
        monkeypatch.setenv("AIOMAS_RUN_DIR", f"{folder}/base")
        yield Path(folder, "base")


@contextlib.contextmanager
def process(script, *args):
    """A Python process that runs *script* and is killed at the end."""
    script = f"import os, signal, sys\nfrom aiomas.cluster.rundir import *\n{script}"
    with subprocess.Popen(
        [sys.executable, "-c", script, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(aiomas.__file__).parents[1])},
    ) as child:
        try:
            yield child
        finally:
            child.kill()


@contextlib.contextmanager
def holding(name):
    """A process that lives in the run *name*."""
    with process(HOLD, name) as child:
        assert child.stdout.readline() == "ready\n"
        yield child


def killed(name, *, files=("0.sock",)):
    """Leave the run *name* as a process does that is killed."""
    with holding(name) as child:
        path = find(name).path
        for file in files:
            path.joinpath(file).touch()
        child.kill()
    return path


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


# --- one run --------------------------------------------------------------------------------------


def test_a_run_appears_with_its_facts_and_goes_with_the_base(base):
    run = RunDirectory.create("power")
    assert (run.name, run.path) == ("power", base / "power")
    (alive,) = running()
    assert (alive.name, alive.path, alive.facts["pid"]) == ("power", run.path, os.getpid())
    facts = {"name": "power", "pid": 1, "command": ["a", "\udcff"], "log_dir": None}
    run.publish(facts)
    assert find().facts == find("power").facts == facts
    assert entries(run.path) == ["run.json"]
    (run.path / "logs").mkdir()
    (run.path / "logs" / "0.log").write_text("x")
    run.remove()
    assert not base.exists()
    run.remove()
    assert running() == []


def test_a_base_that_is_in_use_stays(base):
    first, second = RunDirectory.create("a"), RunDirectory.create("b")
    first.remove()
    assert entries(base) == ["b"]
    second.remove()


def test_a_run_gets_a_name_that_is_free(base, monkeypatch):
    numbers = iter([1, 1, 2])
    real = os.urandom
    monkeypatch.setattr(
        os, "urandom", lambda n: real(n) if n != 3 else bytes([0xAB, 0, next(numbers)])
    )
    first, second = RunDirectory.create(), RunDirectory.create()
    assert (first.name, second.name) == ("run-ab0001", "run-ab0002")
    first.remove()
    second.remove()


@pytest.mark.parametrize("umask", [0, 0o777, 0o022])
def test_nobody_else_gets_in_whatever_the_umask_is(base, umask):
    before = os.umask(umask)
    try:
        run = RunDirectory.create("a")
        run.publish({"pid": 1})
    finally:
        os.umask(before)
    assert mode(base) == mode(run.path) == 0o700
    assert mode(run.path / "run.json") == 0o600
    run.remove()


def test_a_started_program_does_not_inherit_the_lock():
    run = RunDirectory.create("a")
    assert not os.get_inheritable(run._descriptor)
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        close_fds=False,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()  # it runs, so what it does not inherit is closed there by now
        os.close(run._descriptor)
        assert running() == []
        child.communicate(b"\n")
    run._descriptor = -1
    sweep()


@pytest.mark.parametrize("name", ["", ".", "..", "-a", ".a", "a/b", "a b", "ä", "a" * 65, "a\n"])
def test_a_name_that_cannot_be_a_directory_is_refused(base, name):
    with pytest.raises(ClusterError, match="cannot be the name of a cluster: at most 64 letters"):
        RunDirectory.create(name)
    assert not base.exists()


def test_facts_that_cannot_be_written_change_nothing():
    run = RunDirectory.create("a")
    before = find("a").facts
    with pytest.raises(TypeError):
        run.publish({"pid": object()})
    assert find("a").facts == before
    assert entries(run.path) == ["run.json"]
    run.remove()
    with pytest.raises(OSError, match="Bad file descriptor"):
        run.publish({})


def test_a_full_disk_while_publishing_leaves_what_was_published(monkeypatch):
    run = RunDirectory.create("a")
    before = find("a").facts

    def replace(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="No space left"):
        run.publish({"pid": 1})
    assert find("a").facts == before
    assert entries(run.path) == ["run.json"]
    run.remove()


def test_what_cannot_be_made_leaves_nothing(base, monkeypatch):
    monkeypatch.setattr(rundir, "_write_facts", lambda *_: Path("/nowhere").stat())
    with pytest.raises(FileNotFoundError):
        RunDirectory.create("a")
    assert not base.exists()


def test_a_run_that_was_removed_by_hand_is_not_removed_again(base):
    first = RunDirectory.create("a")
    shutil.rmtree(first.path)
    second = RunDirectory.create("a")
    first.remove()
    assert [run.path for run in running()] == [second.path]
    second.remove()
    third = RunDirectory.create("a")
    shutil.rmtree(base)
    third.remove()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe\x00", b"[" * 100_000, b'"x"', None, "fifo", "link"]
)
def test_a_living_run_with_damaged_facts_is_listed_without(content):
    with holding("a"):
        path = find("a").path / "run.json"
        path.unlink()
        if content == "fifo":
            os.mkfifo(path)
        elif content == "link":
            path.symlink_to("/etc/passwd")
        elif content is not None:
            path.write_bytes(content)
        assert [(run.name, run.facts) for run in running()] == [("a", {})]
        sweep()
        assert path.parent.exists()
        with pytest.raises(ClusterError, match=r"running already \(pid unknown, since an unknown"):
            RunDirectory.create("a")


# --- several runs ---------------------------------------------------------------------------------


def test_a_name_that_runs_already_is_refused_with_pid_and_time():
    with holding("a") as child:
        find("a")
        with pytest.raises(ClusterError) as caught:
            RunDirectory.create("a")
        year = time.strftime("%Y-%m-%d")
        assert f"cluster 'a' is running already (pid {child.pid}, since {year}" in str(caught.value)
        assert find("a").facts["pid"] == child.pid


@pytest.mark.parametrize("started", ["x", 1e300, float("nan"), None])
def test_an_odd_time_of_start_does_not_hide_the_error(started):
    run = RunDirectory.create("a")
    run.publish({"pid": 1, "started": started})
    with pytest.raises(ClusterError, match="since an unknown time"):
        RunDirectory.create("a")
    run.remove()


def test_finding_says_what_there_is(base):
    with pytest.raises(ClusterError, match=f"no cluster of this user is running .*{base}"):
        find()
    with pytest.raises(ClusterError, match="no cluster 'x' of this user is running"):
        find("x")
    runs = [RunDirectory.create(name) for name in ("b", "a")]
    with pytest.raises(ClusterError, match=r"2 clusters are running, .*: a, b"):
        find()
    with pytest.raises(ClusterError, match="no cluster 'x' is running; these are: a, b"):
        find("x")
    assert find("b").path == runs[0].path
    for run in runs:
        run.remove()


def test_exactly_one_of_many_gets_a_name():
    script = """
for _ in sys.stdin:
    try:
        run = RunDirectory.create("same")
        print("won", flush=True)
        sys.stdin.readline()
        run.remove()
        print("removed", flush=True)
    except ClusterError as exc:
        print("running already" in str(exc), flush=True)
        sys.stdin.readline()
        print("idle", flush=True)
"""

    def all_do():
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        return [child.stdout.readline().strip() for child in children]

    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(process(script)) for _ in range(4)]
        for _ in range(15):
            assert sorted(all_do()) == ["True"] * 3 + ["won"]
            assert sorted(all_do()) == ["idle"] * 3 + ["removed"]


def test_nothing_alive_is_removed_while_others_come_and_go(base):
    script = """
for number in range(60):
    run = RunDirectory.create(f"{sys.argv[1]}{number % 3}")
    run.publish({"number": number})
    assert [r.facts for r in running() if r.name == run.name] == [{"number": number}]
    sweep()
    assert (run.path / "run.json").exists()
    if number % 3:
        run.remove()
        assert not run.path.exists()
    else:
        os.close(run._descriptor)  # as if it were killed
print("ok")
"""
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(process(script, name)) for name in "abc"]
        assert [child.stdout.read() for child in children] == ["ok\n"] * 3
    sweep()
    assert not base.exists()


# --- what others left -----------------------------------------------------------------------------


def test_what_a_killed_run_left_is_removed_by_the_next(base):
    path = killed("old", files=["0.sock", "driver.sock"])
    assert running() == []
    assert path.exists()
    run = RunDirectory.create("new")
    assert entries(base) == ["new"]
    run.remove()


def test_the_name_of_a_killed_run_is_free():
    killed("a")
    run = RunDirectory.create("a")
    assert entries(run.path) == ["run.json"]
    run.remove()


@pytest.mark.parametrize("moment", ["Path.chmod", "rundir._write_facts", "Path.rename"])
def test_what_was_killed_half_made_is_removed(base, moment):
    script = f"""
from pathlib import Path
from aiomas.cluster import rundir
{moment} = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
os.umask(0o277)
RunDirectory.create("a")
"""
    with process(script) as child:
        assert child.wait() == -9
    if mode(base) == 0o700:
        assert len(entries(base)) == 1
    assert running() == []
    run = RunDirectory.create("b")
    assert mode(base) == 0o700
    assert entries(base) == ["b"]
    run.remove()


def test_what_was_killed_half_removed_is_removed(base):
    script = """
import shutil
run = RunDirectory.create("a")
shutil.rmtree = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
run.remove()
"""
    with process(script) as child:
        assert child.wait() == -9
    assert len(entries(base)) == 1
    remove_tree(base / "a")
    assert not base.exists()


def test_kills_at_any_moment_hurt_nobody_else_and_leave_nothing_for_good(base):
    script = """
import random
keeper = RunDirectory.create("keeper")
seed = random.Random(5)
signal.signal(signal.SIGALRM, signal.SIG_DFL)
for _ in range(60):
    pids = []
    for number in range(2):
        delay = seed.uniform(0.0001, 0.005)
        if not (pid := os.fork()):
            signal.setitimer(signal.ITIMER_REAL, delay)
            while True:
                run = RunDirectory.create(f"n{number}")
                (run.path / "logs").mkdir()
                (run.path / "logs" / "0.log").touch()
                run.remove()
                sweep()
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [signal.SIGALRM] * 2
    assert [(r.name, r.facts["pid"]) for r in running()] == [("keeper", os.getpid())]
sweep()
print(os.listdir(keeper.path.parent), os.listdir(keeper.path))
keeper.remove()
"""
    with process(script) as child:
        assert child.stdout.read() == "['keeper'] ['run.json']\n"
    assert not base.exists()


def test_damaged_and_empty_leftovers_are_removed(base):
    RunDirectory.create("x").remove()
    base.mkdir(0o700)
    for name in ("empty", "truncated", "sockets", ".aiomas-0123456789abcdef"):
        (base / name).mkdir(0o700)
    (base / "truncated" / "run.json").touch()
    (base / "truncated" / "tls").mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(base / "sockets" / "0.sock"))
    sweep()
    assert not base.exists()


def test_what_is_no_run_is_left_alone(base, tmp_path):
    base.mkdir(0o700)
    (base / "run.json").touch()
    (base / "documents").mkdir(0o700)
    (base / "documents" / "thesis").touch()
    (base / "shared").mkdir(0o755)
    (base / "two words").mkdir(0o700)
    (base / ".aiomas-mine").mkdir(0o700)
    (tmp_path / "run.json").touch()
    (base / "link").symlink_to(tmp_path)
    before = entries(base)
    sweep()
    assert entries(base) == before
    assert (tmp_path / "run.json").exists()
    assert running() == []
    with pytest.raises(ClusterError, match="documents is in the way, and is no directory of a"):
        RunDirectory.create("documents")
    with pytest.raises(ClusterError, match="link is in the way"):
        RunDirectory.create("link")


def test_a_link_in_a_run_is_removed_without_what_it_points_to(tmp_path):
    (tmp_path / "precious").touch()
    run = RunDirectory.create("a")
    (run.path / "link").symlink_to(tmp_path)
    run.remove()
    assert (tmp_path / "precious").exists()


def test_what_cannot_be_looked_at_is_not_taken_for_dead(base, monkeypatch):
    path = killed("a")
    real = os.open

    def no_descriptor_left(opened, *args, **kwargs):
        if opened == path:
            raise OSError(24, "Too many open files")
        return real(opened, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", no_descriptor_left)
        sweep()
    assert path.exists()
    sweep()
    assert not base.exists()


@pytest.fixture
def for_strangers(base):
    """Let the user `STRANGER` make the base directory."""
    before = base.parent.parent.stat().st_mode
    base.parent.parent.chmod(0o755)
    base.parent.chmod(0o777)
    yield
    base.parent.parent.chmod(before)


@ONLY_ROOT
@pytest.mark.usefixtures("for_strangers")
def test_files_of_somebody_else_do_not_keep_a_run_from_starting(base):
    # A user finds a directory in the old run that is root's, and not empty.
    path = killed("a")
    (path / "theirs").mkdir(0o700)
    (path / "theirs" / "file").touch()
    for mine in (base, path, path / "run.json"):
        os.chown(mine, STRANGER, STRANGER)
    script = """
os.setuid(int(sys.argv[1]))
run = RunDirectory.create("a")
print([r.name for r in running()], sorted(p.name for p in run.path.iterdir()))
run.remove()
sweep()
"""
    with process(script, str(STRANGER)) as child:
        assert child.stdout.read() == "['a'] ['run.json']\n"
        assert child.wait() == 0
    (left,) = base.iterdir()
    assert left.name.startswith(".aiomas-")


@ONLY_ROOT
@pytest.mark.usefixtures("for_strangers")
def test_what_was_killed_before_its_owner_could_use_it_is_removed(base):
    # Who is not root can do nothing with what a strict umask made.
    script = """
from pathlib import Path
os.setuid(int(sys.argv[1]))
os.umask(0o777)
real = Path.chmod
def chmod(path, mode):
    if path.name.startswith(".aiomas-"):
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, mode)
if sys.argv[2] == "kill":
    Path.chmod = chmod
run = RunDirectory.create("a")
print(sorted(p.name for p in run.path.parent.iterdir()))
run.remove()
"""
    with process(script, str(STRANGER), "kill") as child:
        assert child.wait() == -9
    (left,) = base.iterdir()
    assert mode(left) == 0
    with process(script, str(STRANGER), "") as child:
        assert child.stdout.read() == "['a']\n"
        assert child.wait() == 0
    assert not base.exists()


@ONLY_ROOT
def test_a_run_of_somebody_else_is_left_alone(base):
    path = killed("a")
    os.chown(path, STRANGER, STRANGER)
    sweep()
    assert path.exists()


# --- other processes of a run ---------------------------------------------------------------------


def test_the_others_of_a_killed_run_remove_it_at_once_and_together(base):
    path = killed("a")
    script = "sys.stdin.readline()\nremove_tree(sys.argv[1])"
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(process(script, str(path))) for _ in range(3)]
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        assert [child.wait() for child in children] == [0, 0, 0]
    assert not base.exists()
    remove_tree(path)


def test_they_wait_for_the_supervisor_to_be_gone(base):
    with holding("a") as child:
        path = find("a").path
        timer = threading.Timer(0.2, child.kill)
        timer.start()
        remove_tree(path, timeout=20)
        timer.join()
    assert not base.exists()


def test_they_do_not_remove_what_is_alive():
    with holding("a"):
        remove_tree(find("a").path, timeout=0.05)
        assert entries(find("a").path) == ["run.json"]


def test_nothing_is_removed_from_a_base_that_cannot_be_trusted(base):
    path = killed("a")
    base.chmod(0o755)
    remove_tree(path)
    assert path.exists()


def test_facts_are_json_for_everyone(base):
    run = RunDirectory.create("a")
    assert json.loads((run.path / "run.json").read_text())["name"] == "a"
    run.remove()
