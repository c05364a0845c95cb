"""The base directory: where it is, who may own it, and who waits for its lock."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from aiomas._endpoint import MAX_UNIX_PATH
from aiomas.cluster import basedir
from aiomas.cluster.rundir import RunDirectory, find, running, sweep
from aiomas.exceptions import ClusterError

STRANGER = 12345  # the id of a user


@pytest.fixture(autouse=True)
def base(temporary_folder, monkeypatch):
    """The base directory, which does not exist yet; short, so that no name is too long."""
    with tempfile.TemporaryDirectory(dir=temporary_folder, prefix="b") as folder:
        monkeypatch.setenv("AIOMAS_RUN_DIR", f"{folder}/base")
        yield Path(folder, "base")


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["link", "file", "open", "group", "foreign"])
def test_a_base_that_others_could_use_is_refused(base, tmp_path, kind):
    match kind:
        case "link":
            base.symlink_to(tmp_path)
            problem = "is a symbolic link"
        case "file":
            base.touch()
            problem = "is no directory"
        case "open" | "group":
            base.mkdir()
            base.chmod(0o777 if kind == "open" else 0o710)
            problem = r"others may use it \(its mode is 07.., not 0700\)"
        case "foreign":
            if os.geteuid() != 0:
                pytest.skip("only root can give files away")
            base.mkdir(0o700)
            os.chown(base, STRANGER, STRANGER)
            problem = f"belongs to the user with id {STRANGER}"
    for function in (RunDirectory.create, running, find, sweep):
        with pytest.raises(ClusterError, match=f"{base} .*{problem}.*AIOMAS_RUN_DIR"):
            function()
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_cannot_be_made_is_explained(base, monkeypatch):
    monkeypatch.setenv("AIOMAS_RUN_DIR", f"{base}/missing")
    with pytest.raises(ClusterError, match=f"No such file or directory.*make {base} first"):
        RunDirectory.create()
    base.touch()
    with pytest.raises(ClusterError, match="cannot be made"):
        RunDirectory.create()
    assert running() == []
    sweep()


def test_where_the_base_is(tmp_path, monkeypatch):
    uid = os.geteuid()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIOMAS_RUN_DIR", "here")
    assert basedir._preferred() == tmp_path / "here"
    monkeypatch.setenv("AIOMAS_RUN_DIR", "")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert basedir._preferred() == tmp_path / "aiomas"
    elsewhere = Path(tempfile.gettempdir(), f"aiomas-{uid}")
    for runtime in ("", "relative", str(tmp_path / "missing"), sys.executable):
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        assert basedir._preferred() == elsewhere
    if uid == 0:
        os.chown(tmp_path, STRANGER, STRANGER)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        assert basedir._preferred() == elsewhere
    assert basedir._fallback() == Path(f"/tmp/aiomas-{uid}")


def test_a_run_whose_sockets_would_not_fit_is_made_elsewhere(base, monkeypatch):
    short = base.parent / "short"
    monkeypatch.setattr(basedir, "_fallback", lambda: short)
    # As long as a name of 20 characters allows.
    room = MAX_UNIX_PATH - len(str(base)) - 20 - len("//driver.sock")
    base = base.with_name("base" + room * "x")
    monkeypatch.setenv("AIOMAS_RUN_DIR", str(base))
    fits, long = RunDirectory.create("a" * 20), RunDirectory.create("b" * 21)
    assert (fits.path.parent, long.path.parent) == (base, short)
    for run in (fits, long):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(run.path / "driver.sock"))
    assert [run.path for run in running()] == [fits.path, long.path]
    assert find(long.name).path == long.path
    # One that is there for other reasons is not seen twice, or from here.
    other = short / "c"
    other.mkdir(0o700)
    held = os.open(other, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert len(running()) == 2
    os.close(held)
    fits.remove()
    long.remove()
    sweep()
    assert not base.exists()
    assert not short.exists()


def test_a_base_that_is_removed_while_one_waits_for_it_is_made_again(base, monkeypatch):
    base.mkdir(0o700)
    held = os.open(base, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    waits = threading.Event()

    def sleep(seconds):
        waits.set()
        threading.Event().wait(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    runs = []
    thread = threading.Thread(target=lambda: runs.append(RunDirectory.create("a")))
    thread.start()
    assert waits.wait(10)
    base.rmdir()
    os.close(held)
    thread.join()
    assert running()[0].path == base / "a"
    runs[0].remove()


def test_a_base_that_stays_locked_is_reported_in_time(base, monkeypatch):
    monkeypatch.setattr(basedir, "LOCK_TIMEOUT", 0.1)
    run = RunDirectory.create("a")
    held = os.open(base, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    for function in (RunDirectory.create, running, find, sweep):
        with pytest.raises(ClusterError, match=r"has kept .* locked for 0.1 s; end it"):
            function()
    run.remove()  # its own part does not wait for others
    assert entries(base) == []
    os.close(held)
    sweep()
    assert not base.exists()


def test_a_file_system_without_locks_is_reported(base, monkeypatch):
    def flock(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ClusterError, match=r"cannot be locked .No locks available.*local file sys"):
        RunDirectory.create("a")
    base.rmdir()
