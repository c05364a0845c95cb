"""Progress is shown on a terminal, and nowhere else."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from aiomas.cluster.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def stderr(monkeypatch):
    def replace(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return replace


def run(progress: Progress) -> None:
    with progress:
        progress.started(3)
        for _ in range(2):
            progress.advance()
        progress.advance(1)


def test_it_shows_how_much_is_done_on_a_terminal(stderr):
    stream = stderr(Terminal())
    run(Progress("Starting containers"))
    assert "Starting containers" in stream.getvalue()
    assert "3/3" in stream.getvalue()


def test_it_begins_anew(stderr):
    stream = stderr(Terminal())
    with Progress("Spawning agents") as progress:
        progress.started(3)
        progress.advance()
        progress.started(5)
        progress.advance(2)
    assert "2/5" in stream.getvalue()
    assert stream.getvalue().rstrip().rpartition("\r")[2].count("/") <= 1


@pytest.mark.parametrize("shown", [None, False])
def test_it_shows_nothing_elsewhere(stderr, shown):
    stream = stderr(io.StringIO() if shown is None else Terminal())
    run(Progress("Starting containers", shown=shown))
    assert stream.getvalue() == ""


def test_it_can_be_forced(stderr):
    stream = stderr(io.StringIO())
    run(Progress("Starting containers", shown=True))
    assert "3/3" in stream.getvalue()


def test_there_may_be_no_stream(stderr):
    stderr(None)
    run(Progress("Starting containers"))


def test_the_terminal_is_left_alone_after_an_error(stderr):
    stream = stderr(Terminal())

    def start() -> None:
        with Progress("Starting containers") as progress:
            progress.started(3)
            raise KeyError

    with pytest.raises(KeyError):
        start()
    assert stream.getvalue().endswith("\x1b[2K")


def test_who_sees_nothing_does_not_load_rich():
    code = (
        "import sys; from aiomas.cluster.progress import Progress\n"
        "with Progress('x') as p: p.started(1); p.advance()\n"
        "sys.exit('rich' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.PIPE, timeout=30)
