"""A log is read part by part, with all of it in order, although its files are renamed meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomas.cluster import log_parts
from aiomas.cluster.log_parts import read_part
from aiomas.cluster.logs import Log


@pytest.fixture
def log(tmp_path):
    log = Log(tmp_path / "logs" / "1.log", max_bytes=40, backups=3)
    yield log
    log.close()


@pytest.mark.parametrize(
    ("position", "data"),
    [
        (None, b"res"),
        (-1, b"d\nres"),
        (-3, b"b\nc\nd\nres"),
        (-4, b"a\nb\nc\nd\nres"),
        (-9, b"a\nb\nc\nd\nres"),
    ],
)
def test_it_begins_with_the_last_lines(log, position, data):
    log.write(b"a\nb\nc\nd\nres")
    position, found = read_part(log.path, position)
    assert found == data
    log.write(b"t\ne\n")
    position, found = read_part(log.path, position)
    assert found == b"t\ne\n"
    assert read_part(log.path, position) == (position, b"")


def test_the_last_lines_may_be_in_older_files(log):
    for number in range(8):
        log.write(b"%d " % number + b"x" * 20 + b"\n")
    assert log.path.with_name("1.log.3").exists()
    _, data = read_part(log.path, -3)
    assert [line.split()[0] for line in data.splitlines()] == [b"5", b"6", b"7"]
    _, data = read_part(log.path, -100)
    assert [line.split()[0] for line in data.splitlines()] == [b"4", b"5", b"6", b"7"]


def test_a_log_that_is_not_there_yet_is_read_from_its_beginning(tmp_path):
    for name in ("logs/1.log", "1.log"):
        (tmp_path / "1.log.old").touch()
        position, data = read_part(tmp_path / name, -3)
        assert data == b""
        assert read_part(tmp_path / name, position) == (position, b"")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"".join(b"%d\n" % number for number in range(5)))
        _, data = read_part(tmp_path / name, position)
        assert data == b"0\n1\n2\n3\n4\n"


def test_a_log_without_older_files_begins_again(tmp_path):
    log = Log(tmp_path / "1.log", max_bytes=40, backups=0)
    log.write(b"a" * 30 + b"\n")
    position, _ = read_part(log.path, -1)
    log.write(b"b" * 20 + b"\n")
    log.close()
    assert read_part(log.path, position)[1] == b"b" * 20 + b"\n"


def test_who_has_missed_files_goes_on_with_the_oldest(log):
    log.write(b"first\n")
    position, _ = read_part(log.path, -1)
    keep = log.path.open("rb")  # so that no other file gets its identity
    for number in range(8):
        log.write(b"%d " % number + b"x" * 20 + b"\n")
    _, data = read_part(log.path, position)
    keep.close()
    assert [line.split()[0] for line in data.splitlines()] == [b"4", b"5", b"6", b"7"]


def test_other_logs_are_not_read(tmp_path):
    for name in ("1.log", "1.log.1", "11.log", "1.logs", "1.log.1x", "1.log.", "1.log2"):
        (tmp_path / name).write_text(f"{name}\n")
    assert read_part(tmp_path / "1.log", -9)[1] == b"1.log.1\n1.log\n"


def test_a_part_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(log_parts, "MOST", 10)
    (tmp_path / "a").write_bytes(b"0123456789abc\nxyz\n")
    assert read_part(tmp_path / "a", -9)[1] == b"89abc\nxyz\n"[-10:]
    position, data = read_part(tmp_path / "a", (0, 0))
    assert data == b"0123456789"
    assert read_part(tmp_path / "a", position)[1] == b"abc\nxyz\n"


@given(
    st.lists(st.one_of(st.none(), st.binary(min_size=1, max_size=12)), max_size=40),
    st.integers(1, 30),
)
def test_nothing_is_lost_or_read_twice(tmp_path_factory, writes, most):
    folder = tmp_path_factory.mktemp("logs")
    log = Log(folder / "1.log", max_bytes=10, backups=100)
    position, found = (0, 0), b""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_parts, "MOST", most)
        for data in writes:
            if data is not None:
                log.write(data)
            else:
                position, more = read_part(log.path, position)
                assert len(more) <= most
                found += more
        while more := read_part(log.path, position)[1]:
            position, _ = read_part(log.path, position)
            found += more
    log.close()
    assert found == b"".join(data for data in writes if data is not None)


def test_a_part_that_is_renamed_while_one_looks_is_not_taken_for_gone(tmp_path, monkeypatch):
    path = tmp_path / "0.log"
    path.write_bytes(b"one\n")
    position, _ = read_part(path, -1)
    path.rename(tmp_path / "0.log.1")
    (tmp_path / "0.log.2").write_bytes(b"older\n")
    path.write_bytes(b"two\n")
    real, looks = log_parts._files, []

    def files(path):
        looks.append(path)
        return [file for file in real(path) if len(looks) > 1 or file[1].name != "0.log.1"]

    monkeypatch.setattr(log_parts, "_files", files)
    assert read_part(path, position)[1] == b"two\n"
