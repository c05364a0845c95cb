"""Files that must never be half written, readable by others, or changed by two at once."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pki import _files
from pki._files import NewFile, StoreError


@pytest.fixture
def umask_zero():
    before = os.umask(0)
    yield
    os.umask(before)


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def disk_full(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_private_file_has_its_mode_before_its_first_byte(tmp_path, umask_zero, monkeypatch):
    modes = []
    write = os.write

    def look_and_write(descriptor, data):
        modes.append((stat.S_IMODE(os.fstat(descriptor).st_mode), os.fstat(descriptor).st_size))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", look_and_write)
    _files.write(tmp_path / "key", b"secret", private=True)

    assert modes == [(0o600, 0)]
    assert mode(tmp_path / "key") == 0o600


def test_private_file_replaces_a_readable_one_as_private(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o644)

    _files.write(path, b"new", private=True, replace=True)

    assert (path.read_bytes(), mode(path)) == (b"new", 0o600)


def test_public_file_keeps_the_mode_of_the_one_it_replaces(tmp_path):
    path = tmp_path / "certificate"
    path.write_bytes(b"old")
    path.chmod(0o640)

    _files.write(path, b"new", replace=True)

    assert mode(path) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_file_that_root_replaces_keeps_its_owner(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"old")
    os.chown(path, 12345, 12346)

    _files.write(path, b"new", private=True, replace=True)

    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)


def test_nothing_is_replaced_unasked(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    with pytest.raises(FileExistsError, match="file is there already"):
        _files.write(path, b"new")

    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_file_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "file"
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (path.write_bytes(b"theirs"), fsync(fd)))

    with pytest.raises(FileExistsError, match="file is there already"):
        _files.write(path, b"ours")

    assert path.read_bytes() == b"theirs"
    assert names_in(tmp_path) == ["file"]


def test_symbolic_link_is_replaced_and_not_followed(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"target")
    link.symlink_to(target)

    _files.write(link, b"new", private=True, replace=True)

    assert target.read_bytes() == b"target"
    assert not link.is_symlink()


def test_dangling_link_is_something_that_is_there(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(FileExistsError):
        _files.write(tmp_path / "link", b"new")

    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("function", ["write", "fsync"])
def test_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch, function):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, function, disk_full)

    with pytest.raises(OSError, match="No space left") as caught:
        _files.write(path, b"new", replace=True)

    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_full_disk_leaves_both_of_two_files_that_belong_together(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"old")
    second.write_bytes(b"old")
    write = os.write
    monkeypatch.setattr(
        os, "write", lambda fd, data: disk_full() if data == b"b" else write(fd, data)
    )

    with pytest.raises(OSError, match="No space left"):
        _files.write_together([NewFile(first, b"a"), NewFile(second, b"b")], replace=True)

    assert {first.read_bytes(), second.read_bytes()} == {b"old"}
    assert names_in(tmp_path) == ["first", "second"]


def test_writes_that_take_a_part_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))

    _files.write(tmp_path / "file", b"0123456789")

    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_file_system_without_hard_links_will_do(tmp_path, monkeypatch):
    def no_links(self, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", no_links)

    _files.write(tmp_path / "file", b"new")
    with pytest.raises(FileExistsError):
        _files.write(tmp_path / "file", b"newer")

    assert (tmp_path / "file").read_bytes() == b"new"
    assert names_in(tmp_path) == ["file"]


def test_file_system_without_modes_gets_no_key(tmp_path, monkeypatch):
    stats = os.stat_result((0o100755, *[0] * 9))
    monkeypatch.setattr(os, "fstat", lambda fd: stats)
    monkeypatch.setattr(os, "write", lambda fd, data: pytest.fail("it was written"))

    with pytest.raises(StoreError, match="does not keep permissions"):
        _files.write(tmp_path / "key", b"secret", private=True)

    assert names_in(tmp_path) == []


def test_directory_is_made_for_its_owner_alone(tmp_path, umask_zero):
    _files.make_directory(tmp_path / "new")

    assert mode(tmp_path / "new") == 0o700


@pytest.mark.parametrize("readable", [0o640, 0o604, 0o620, 0o601])
def test_key_of_which_others_can_do_something_is_not_read(tmp_path, readable):
    key = tmp_path / "key"
    key.write_bytes(b"secret")
    key.chmod(readable)

    with pytest.raises(StoreError, match=r"chmod 600 .*key, or --allow-readable-key"):
        _files.read_private(key)

    assert _files.read_private(key, allow_readable=True) == b"secret"


def test_file_without_end_is_refused():
    with pytest.raises(StoreError, match="/dev/zero is too large"):
        _files.read(Path("/dev/zero"))


def test_line_is_appended_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    log = tmp_path / "log"
    _files.append_line(log, "first")
    write = os.write
    parts: list[bytes] = []

    def part_then_full(fd, data):
        if parts:
            disk_full()
        parts.append(data)
        return write(fd, data[:2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", part_then_full)
        with pytest.raises(OSError, match="No space left"):
            _files.append_line(log, "second")
    _files.append_line(log, "third")

    assert log.read_text() == "first\nthird\n"
    assert mode(log) == 0o600


class TestLock:
    HOLD = (
        "import sys, pathlib; from pki import _files\n"
        "with _files.lock(pathlib.Path(sys.argv[1]), timeout=5):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )

    def hold(self, directory):
        process = subprocess.Popen(
            [sys.executable, "-c", self.HOLD, directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        return process

    def test_other_process_waits_and_says_when_it_gives_up(self, tmp_path):
        with self.hold(tmp_path) as process:
            with (
                pytest.raises(StoreError, match=r"in use by another process: gave up after 0.1 s"),
                _files.lock(tmp_path, timeout=0.1),
            ):
                pass
            process.communicate()

        with _files.lock(tmp_path, timeout=0):
            pass

    def test_killed_process_leaves_no_lock(self, tmp_path):
        with self.hold(tmp_path) as process:
            process.kill()

        with _files.lock(tmp_path, timeout=0):
            pass


def test_what_killed_processes_left_is_removed(tmp_path):
    (tmp_path / ".ca.key.0badcafe.unfinished").write_bytes(b"half a key")
    (tmp_path / ".other").write_bytes(b"")

    _files.remove_unfinished(tmp_path)

    assert names_in(tmp_path) == [".other"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("owner", "mode", "kept"),
    [(0, 0o755, True), (12345, 0o700, True), (54321, 0o755, False), (0, 0o1777, False)],
)
def test_owner_is_kept_only_where_nobody_else_could_put_the_old_file(tmp_path, owner, mode, kept):
    path = tmp_path / "folder" / "key"
    path.parent.mkdir()
    path.write_bytes(b"old")
    os.chown(path, 12345, 12346)
    os.chown(path.parent, owner, 0)
    path.parent.chmod(mode)

    _files.write(path, b"new", private=True, replace=True)

    assert path.stat().st_uid == (12345 if kept else 0)
