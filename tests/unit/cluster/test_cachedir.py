"""The cache for modules: where it is, who may own it, and what killed processes leave there."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aiomas.cluster import cachedir
from aiomas.exceptions import ClusterError

STRANGER = 12345  # the id of a user


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "cache"
    cachedir.make_base(path)
    return path


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/c")
    assert cachedir.default_base() == Path("/var/c/aiomas/sync")
    for useless in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", useless)
        assert cachedir.default_base() == tmp_path / ".cache/aiomas/sync"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cachedir.default_base() == tmp_path / ".cache/aiomas/sync"


def test_a_user_without_a_home_directory_has_no_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    assert cachedir.default_base() is None
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)  # as with `sudo -u`
    assert cachedir.default_base() is None


def test_the_cache_is_private_whatever_the_umask_is(tmp_path):
    base = tmp_path / "a/b/cache"
    before = os.umask(0)
    try:
        cachedir.make_base(base)
        own, descriptor = cachedir.make_own(base)
        os.close(descriptor)
        os.umask(0o777 if os.geteuid() == 0 else 0o077)
        cachedir.make_base(base / "inner")
        strict, descriptor = cachedir.make_own(base)
        os.close(descriptor)
    finally:
        os.umask(before)
    for path in (tmp_path / "a", tmp_path / "a/b", base, own, base / "inner", strict):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["link", "dangling", "file", "open", "group", "foreign"])
def test_a_cache_that_others_could_use_is_refused(tmp_path, kind):
    base = tmp_path / "cache"
    (tmp_path / "elsewhere").mkdir(0o700)
    match kind:
        case "link" | "dangling":
            base.symlink_to("elsewhere" if kind == "link" else "missing")
            problem = "it is a symbolic link"
        case "file":
            base.touch()
            problem = "it is no directory"
        case "open" | "group":
            base.mkdir()
            base.chmod(0o777 if kind == "open" else 0o750)
            problem = r"others may use it \(its mode is 07.., not 0700\)"
        case "foreign":
            if os.geteuid() != 0:
                pytest.skip("only root can give files away")
            base.mkdir(0o700)
            os.chown(base, STRANGER, STRANGER)
            problem = f"it belongs to the user with id {STRANGER}, not to 0"
    with pytest.raises(ClusterError, match=f"{base} cannot hold .*{problem}; .*XDG_CACHE_HOME"):
        cachedir.make_base(base)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_a_killed_process_has_left_is_removed_and_nothing_else(base):
    program = (
        "import os, pathlib, sys, time\n"
        "from aiomas.cluster import cachedir\n"
        "own, _ = cachedir.make_own(pathlib.Path(sys.argv[1]))\n"
        "(own / 'part').touch()\n"
        "print(own, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, base],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        own = Path(process.stdout.readline().strip())
        for name in ("a" * 64, "other", ".run"):
            (base / name).mkdir()
        (base / ".run-file").touch()
        cachedir.sweep(base)
        assert (own / "part").exists()
        process.kill()
    cachedir.sweep(base)
    assert not own.exists()
    assert {path.name for path in base.iterdir()} == {"a" * 64, "other", ".run", ".run-file"}


def test_a_new_directory_is_not_taken_for_one_that_was_left(base, monkeypatch):
    real = cachedir._try_lock
    taken: list[Path] = []

    def try_lock(descriptor):
        if len(taken) < 2:  # another process is faster, at different moments
            path = next(base.iterdir())
            taken.append(path)
            if len(taken) == 1:
                with_lock = os.open(path, os.O_RDONLY)
                real(with_lock)
                assert not real(descriptor)
                os.close(with_lock)
                shutil.rmtree(path)
                return False
            shutil.rmtree(path)
        return real(descriptor)

    monkeypatch.setattr(cachedir, "_try_lock", try_lock)
    own, descriptor = cachedir.make_own(base)
    assert own.exists()
    assert len(taken) == 2
    os.close(descriptor)


def test_many_processes_at_once_do_not_disturb_each_other(base):
    failures = []
    start = threading.Barrier(4)

    def work():
        start.wait(10)
        for _ in range(50):
            try:
                cachedir.sweep(base)
                own, descriptor = cachedir.make_own(base)
                (own / "part").touch()
                (own / "part").unlink()
                own.rmdir()
                os.close(descriptor)
            except OSError as exc:
                failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(base.iterdir()) == []


def test_a_directory_that_is_always_taken_is_an_error(base, monkeypatch):
    def flock(*_):
        raise BlockingIOError(errno.EAGAIN, "taken")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="other processes remove"):
        cachedir.make_own(base)


def test_a_file_system_without_locks_is_an_error_that_leaves_nothing(base, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="No locks available"):
        cachedir.make_own(base)
    assert list(base.iterdir()) == []
    own, descriptor = cachedir.make_own(base, lock=False)
    assert own.is_dir()
    os.close(descriptor)
