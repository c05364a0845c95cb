"""Log files: what fits is there, what does not is counted, and readers follow."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from io import FileIO
from pathlib import Path

import pytest

import aiomas
from aiomas.cluster import logs
from aiomas.cluster.logs import Log, follow

TIMEOUT = 10  # seconds


@pytest.fixture
def path(tmp_path):
    return tmp_path / "0.log"


@pytest.fixture
def make(path):
    """Make logs that are closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda **kwargs: stack.enter_context(contextlib.closing(Log(path, **kwargs)))


@pytest.fixture
def tmpfs(tmp_path):
    """A file system with room for 64 KiB."""
    folder = tmp_path / "full"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def short_polls(monkeypatch):
    monkeypatch.setattr(logs, "_POLL", 0.002)


class Reader:
    """Follows a log in a thread; what it yields can be waited for."""

    def __init__(self, path, **kwargs):
        self.lines = []
        self._seen = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(path, kwargs))
        self._thread.start()

    def _read(self, path, kwargs):
        for line in follow(path, **kwargs):
            with self._seen:
                self.lines.append(line)
                self._seen.notify_all()

    def wait_for(self, line):
        with self._seen:
            assert self._seen.wait_for(lambda: line in self.lines, TIMEOUT), self.lines

    def end(self):
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()
        return self.lines


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0, 0o777])
def test_what_is_written_is_in_a_file_for_the_owner_alone(tmp_path, umask):
    path = tmp_path / "logs" / "0.log"
    before = os.umask(umask)
    try:
        log = Log(path, max_bytes=4)
        for data in (b"one\n", b"two\n"):
            log.write(data)
    finally:
        os.umask(before)
    log.close()
    log.close()
    assert path.read_bytes() == b"two\n"
    assert path.with_name("0.log.1").read_bytes() == b"one\n"
    assert mode(path) == mode(path.with_name("0.log.1")) == 0o600
    assert mode(path.parent) == 0o700
    assert log.dropped == 0


def test_a_log_goes_on_where_another_one_ended(make, path):
    make().write(b"one\n")
    make().write(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


def test_the_oldest_parts_go(make, path):
    log = make(max_bytes=4, backups=2)
    for number in range(5):
        log.write(b"%d..\n" % number)
    parts = {part.name: part.read_bytes() for part in path.parent.iterdir()}
    assert parts == {"0.log": b"4..\n", "0.log.1": b"3..\n", "0.log.2": b"2..\n"}


def test_without_backups_the_file_begins_again(make, path):
    log = make(max_bytes=4, backups=0)
    for number in range(5):
        log.write(b"%d..\n" % number)
    assert {part.name: part.read_bytes() for part in path.parent.iterdir()} == {"0.log": b"4..\n"}


def test_a_write_that_is_larger_than_a_part_is_not_torn(make, path):
    log = make(max_bytes=4)
    log.write(b"x" * 10)
    log.write(b"y" * 10)
    assert path.read_bytes() == b"y" * 10
    assert path.with_name("0.log.1").read_bytes() == b"x" * 10


def test_a_file_that_somebody_removed_is_made_again(make, path):
    log = make()
    log.write(b"one\n")
    path.unlink()
    log.write(b"two\n")
    assert path.read_bytes() == b"two\n"
    assert log.dropped == 0


def test_a_link_is_not_written_through(make, path, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("x")
    path.symlink_to(precious)
    log = make()
    log.write(b"y")
    assert precious.read_text() == "x"
    assert log.dropped == 1


# --- the last lines -------------------------------------------------------------------------------


def test_the_last_lines_are_remembered_and_complete_ones_echoed(make):
    seen: list[str] = []
    log = make(tail=3, echo=seen.append)
    log.write(b"a\nb\r\nc")
    assert log.last_lines == ["a", "b", "c"]
    log.write(b"c\nd\ne")
    assert log.last_lines == ["cc", "d", "e"]
    assert seen == ["a", "b", "cc", "d"]
    log.close()
    assert log.last_lines == ["cc", "d", "e"]
    assert seen == ["a", "b", "cc", "d", "e"]


def test_characters_that_arrive_in_pieces_are_whole(make):
    log = make()
    for byte in "grün €\n".encode():
        log.write(bytes([byte]))
    assert log.last_lines == ["grün €"]


def test_what_is_no_text_is_written_as_it_is_and_shown_as_well_as_possible(make, path):
    seen: list[str] = []
    log = make(echo=seen.append)
    data = bytes(range(256)) * 3 + b"\n"
    log.write(data)
    assert path.read_bytes() == data
    assert log.last_lines == seen
    assert "\ufffd" in seen[-1]


@pytest.mark.parametrize("piece", [1000, 100_000])
def test_endless_lines_take_a_bounded_memory(make, path, piece):
    log = make()
    for _ in range(100):
        log.write(b"x" * piece)
    assert log.last_lines == ["x" * 4096]
    assert len(log._partial) <= 4 * 4096
    log.write(b"\nnext")
    assert log.last_lines == ["x" * 4096, "next"]


def test_many_short_lines_at_once_are_cut_to_the_last(make):
    log = make(tail=2)
    log.write(b"a\n" * 1000 + b"b\nc\n")
    assert log.last_lines == ["b", "c"]
    assert make(tail=0).last_lines == []


def test_no_lines_are_remembered_where_none_are_asked_for(make):
    log = make(tail=0)
    log.write(b"a\nb")
    assert log.last_lines == []


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O operation on closed file")])
def test_a_terminal_that_is_gone_does_not_hurt_the_log(make, path, error):
    def echo(line):
        raise error

    log = make(echo=echo)
    log.write(b"a\nb\n")
    assert path.read_bytes() == b"a\nb\n"
    assert log.last_lines == ["a", "b"]


# --- what is lost ---------------------------------------------------------------------------------


def test_a_directory_that_is_gone_loses_what_is_written_until_it_is_back(make, path, tmp_path):
    log = make()
    log.write(b"one\n")
    shutil.rmtree(tmp_path)
    log.write(b"two\n")
    log.write(b"three\n")
    assert log.dropped == 10
    assert log.last_lines == ["one", "two", "three"]
    tmp_path.mkdir()
    log.write(b"four\n")
    lost = b"[aiomas: 10 bytes of the log were lost: No such file or directory]\n"
    assert path.read_bytes() == lost + b"four\n"
    log.write(b"five\n")
    assert path.read_bytes() == lost + b"four\nfive\n"
    assert log.dropped == 10


def test_a_directory_that_never_was_is_no_error(tmp_path):
    log = Log(tmp_path / "a" / "b" / "0.log")
    log.write(b"x")
    log.close()
    assert log.dropped == 1


def test_what_comes_after_the_end_is_counted(make, path):
    log = make()
    log.close()
    log.write(b"abc")
    assert log.dropped == 3
    assert path.read_bytes() == b""


def test_a_log_that_cannot_be_rotated_does_not_grow(make, path, monkeypatch):
    log = make(max_bytes=4)
    log.write(b"one\n")

    def replace(self, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        log.write(b"two\n")
    assert path.read_bytes() == b"one\n"
    log.write(b"three\n")
    lost = b"[aiomas: 4 bytes of the log were lost: Operation not permitted]\n"
    assert path.read_bytes() == lost + b"three\n"


def test_a_loss_in_the_middle_of_a_line_is_noted_on_its_own_line(make, path, monkeypatch):
    log = make()

    class Full(FileIO):
        def write(self, data):
            if answers and answers.pop():
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data[:3] if data[:1] == b"a" else data)

    answers = [True, False]
    log._file.close()
    log._file = None
    monkeypatch.setattr(logs, "FileIO", Full)
    log.write(b"abcdef\n")
    assert answers == []
    assert log.dropped == 4
    log.close()  # has the last chance to say it
    lost = b"[aiomas: 4 bytes of the log were lost: No space left on device]\n"
    assert path.read_bytes() == b"abc\n" + lost


def test_a_note_in_a_new_part_needs_no_line_of_its_own(make, path, tmp_path):
    log = make(max_bytes=20)
    log.write(b"half a line, no end")
    aside = tmp_path.rename(tmp_path.with_name("aside"))
    tmp_path.mkdir()
    log._file.close()
    log._file = None
    shutil.rmtree(tmp_path)
    log.write(b"lost")
    aside.rename(tmp_path)
    log._file = log._open()
    log.write(b"more\n")
    start = "[aiomas: 4 bytes of the log were lost: No such file or directory]\nmore\n"
    assert path.read_text() == start


def test_a_full_disk_loses_what_has_no_room_and_says_so_later(tmpfs):
    path = tmpfs / "0.log"
    log = Log(path)
    line = b"x" * 999 + b"\n"
    for _ in range(100):
        log.write(line)
    size = path.stat().st_size
    assert 0 < size <= 2**16
    assert log.dropped == 100_000 - size
    assert log.last_lines == ["x" * 999] * 50
    os.truncate(path, 0)
    log.write(b"again\n")
    log.close()
    start, note, end = path.read_bytes().split(b"\n", 2)
    lost = f"[aiomas: {log.dropped} bytes of the log were lost: No space left on device]"
    assert (start, note, end) == (b"", lost.encode(), b"again\n")


def test_a_disk_that_is_nearly_full_gets_no_torn_notes(tmpfs):
    path = tmpfs / "0.log"
    filler = tmpfs / "filler"
    log = Log(path)
    log.write(b"x" * 100_000)
    assert log.dropped
    size = path.stat().st_size
    for _ in range(10):
        log.write(b"y" * 100)
    assert path.stat().st_size == size
    assert log.dropped == 100_000 - size + 1000
    log.close()
    assert not filler.exists()
    assert path.read_bytes() == b"x" * size


def test_a_limit_of_file_sizes_is_survived(path):
    script = """
import resource, signal, sys
from aiomas.cluster.logs import Log
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
soft = lambda n: resource.setrlimit(resource.RLIMIT_FSIZE, (n, resource.RLIM_INFINITY))
log = Log(sys.argv[1])
soft(10)
log.write(b"0123456\\n")
log.write(b"0123456\\n")
log.write(b"0123456\\n")
print(log.dropped)
soft(30)  # room for a part of the note
log.write(b"01\\n")
print(open(sys.argv[1], "rb").read())
soft(resource.RLIM_INFINITY)
log.write(b"end\\n")
log.close()
print(log.dropped)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(aiomas.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script, path],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT,
    )
    assert done.stdout.split() == ["14", r"b'0123456\n01'", "17"]
    assert path.read_text() == (
        "0123456\n01\n[aiomas: 17 bytes of the log were lost: File too large]\nend\n"
    )


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [0, 1, 3, 10])
def test_the_last_lines_that_are_there(path, lines):
    path.write_bytes(b"a\nb\r\n\xff\nd\n")
    assert (
        list(follow(path, lines=lines, wait=False))
        == ["a", "b", "\ufffd", "d"][4 - lines :][-lines or 4 :]
    )


def test_a_line_that_is_not_complete_is_one_more(path):
    path.write_bytes(b"a\nb")
    assert list(follow(path, lines=1, wait=False)) == ["a", "b"]


def test_last_lines_go_back_to_older_parts(make, path):
    log = make(max_bytes=8)
    for number in range(9):
        log.write(b"line %d\nx" % number)
    expected = ["line 0", *(f"xline {number}" for number in range(1, 9)), "x"]
    assert list(follow(path, lines=3, wait=False)) == expected[-4:]
    assert list(follow(path, lines=99, wait=False)) == [
        line.removeprefix("x") if line == "xline 5" else line for line in expected[5:]
    ]


def test_the_end_of_a_large_log_is_found(path):
    path.write_bytes(b"".join(b"%d\n" % number for number in range(200_000)))
    expected = [str(number) for number in range(150_000, 200_000)]
    assert list(follow(path, lines=50_000, wait=False)) == expected


def test_a_log_that_is_not_there(path):
    with pytest.raises(FileNotFoundError):
        next(follow(path))


def test_added_lines_come_whole_until_the_file_is_removed(make, path, short_polls):
    log = make()
    log.write(b"old\nhalf")
    reader = Reader(path, lines=1)
    reader.wait_for("old")
    log.write(b" done\n")
    reader.wait_for("half done")
    log.write(b"last")
    path.unlink()
    assert reader.end() == ["old", "half done", "last"]


def test_no_line_is_missed_in_rotations(make, path, short_polls):
    log = make(max_bytes=1000, backups=50)
    log.write(b"begin\n")
    reader = Reader(path)
    reader.wait_for("begin")
    for number in range(2000):
        log.write(b"line %d\n" % number)
        if number % 500 == 0:
            reader.wait_for(f"line {number}")
    reader.wait_for("line 1999")
    log.close()
    shutil.rmtree(path.parent)
    assert reader.end() == ["begin", *(f"line {number}" for number in range(2000))]


def test_no_line_is_missed_if_the_log_is_rotated_while_one_looks(make, path, monkeypatch):
    log = make(max_bytes=2)
    log.write(b"0\n")
    lines = follow(path)
    assert next(lines) == "0"
    real, more = logs._parts, [b"2\n"]

    def parts(path):
        found = real(path)
        if more:
            log.write(more.pop())
        return found

    monkeypatch.setattr(logs, "_parts", parts)
    log.write(b"1\n")
    assert [next(lines) for _ in range(2)] == ["1", "2"]
    lines.close()


def test_a_reader_that_is_too_slow_goes_on_with_the_oldest_part(make, path, short_polls):
    log = make(max_bytes=2, backups=2)
    log.write(b"0\n")
    lines = follow(path)
    assert next(lines) == "0"
    for number in range(1, 9):
        log.write(b"%d\n" % number)
    assert [next(lines) for _ in range(3)] == ["6", "7", "8"]
    lines.close()


def test_a_file_that_begins_again_is_followed(make, path, short_polls):
    log = make(max_bytes=20, backups=0)
    log.write(b"a line, nearly full\n")
    lines = follow(path)
    assert next(lines) == "a line, nearly full"
    log.write(b"next\n")
    assert next(lines) == "next"
    lines.close()


def test_the_next_run_of_that_name_is_another_one(tmp_path, short_polls):
    path = tmp_path / "run" / "0.log"
    with contextlib.closing(Log(path)) as log:
        log.write(b"old\n")
    lines = follow(path)
    assert next(lines) == "old"
    path.parent.rename(tmp_path / "aside")
    with contextlib.closing(Log(path)) as log:
        log.write(b"new\n")
    assert list(lines) == []


def test_an_endless_line_is_passed_on_in_pieces(make, path, monkeypatch, short_polls):
    monkeypatch.setattr(logs, "_UNBROKEN", 100_000)
    log = make()
    log.write(b"begin\n")
    lines = follow(path)
    assert next(lines) == "begin"
    log.write(b"x" * 300_000 + b"\n")
    pieces = [next(lines) for _ in range(3)]
    assert "".join(pieces) == "x" * 300_000
    assert max(map(len, pieces)) <= 100_000 + logs._CHUNK
    lines.close()


def test_a_part_that_is_renamed_while_one_looks_is_not_taken_for_gone(make, path, monkeypatch):
    monkeypatch.setattr(logs, "_POLL", 0.001)
    log = make(max_bytes=2)
    log.write(b"0\n")
    lines = follow(path)
    assert next(lines) == "0"
    log.write(b"1\n")
    assert next(lines) == "1"
    real, looks = logs._parts, []

    def parts(path):
        looks.append(path)
        # The one that is read is seen under neither of its names at first.
        return [part for part in real(path) if len(looks) > 1 or part[0] != 1]

    monkeypatch.setattr(logs, "_parts", parts)
    log.write(b"2\n")
    assert next(lines) == "2"
    assert len(looks) == 2
    lines.close()
