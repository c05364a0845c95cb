"""The program that is sent looks for what a supervisor needs; test_command.py runs all of it."""

from __future__ import annotations

import errno
import json
import os
import tempfile

import pytest

from aiomas.cluster.launchers import stage


@pytest.fixture
def stream():
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def test_a_line_is_read_and_nothing_after_it(stream):
    reading, writing = stream
    os.write(writing, b"one\ntwo")
    assert stage._line(reading) == b"one\n"
    assert os.read(reading, 100) == b"two"


def test_a_line_without_its_end_is_none():
    reading, writing = os.pipe()
    os.write(writing, b"half a li")
    os.close(writing)
    assert stage._line(reading) == b""
    os.close(reading)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_found(monkeypatch, tmp_path, number):
    monkeypatch.setenv("AIOMAS_RUN_DIR", str(tmp_path / "not" / "there"))

    def full(**options):
        assert options["dir"] == tmp_path
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert stage._full_disk() == (
        f"its disk is full: nothing can be written to {tmp_path} ({os.strerror(number)})"
    )


def test_a_machine_that_has_room_for_no_temporary_file_is_full(monkeypatch):
    def full():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.delenv("AIOMAS_RUN_DIR", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", full)
    assert stage._full_disk() == "No usable temporary directory found in ['/tmp']"


def test_a_place_that_cannot_be_written_to_is_left_to_the_supervisor(monkeypatch, tmp_path):
    monkeypatch.setenv("AIOMAS_RUN_DIR", str(tmp_path))

    def refuse(**_options):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert stage._full_disk() is None


def test_where_there_is_room_nothing_is_left(monkeypatch, tmp_path):
    monkeypatch.setenv("AIOMAS_RUN_DIR", str(tmp_path))
    assert stage._full_disk() is None
    assert list(tmp_path.iterdir()) == []


def test_a_driver_that_hangs_up_at_once_gets_no_answer(monkeypatch):
    monkeypatch.setattr(stage, "_line", lambda _fd: b"")
    monkeypatch.setattr(stage, "_answer", pytest.fail)
    stage.main("nonce", "")


def test_what_is_answered_can_be_sent():
    found = stage._look_around(None)
    assert json.loads(json.dumps(found)) == found
    assert found["trouble"] is None
