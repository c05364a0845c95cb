"""The table of containers: what is in a row, what fits on a screen, and how it is left."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from rich.console import Console

from aiomas.cluster.top import TITLES, Look, cells, columns, view
from aiomas.cluster.watch import Rates

ROOT = Path(__file__).parents[3]
RATES = Rates(cpu=33.4, calls_in=12.6, calls_out=1.2, bytes_in=0, bytes_out=0)
CONTAINER = {
    "index": 3,
    "pid": 10,
    "state": "running",
    "agents": 5,
    "rss": 2**20,
    "restarts": 1,
}
ALTERNATE_SCREEN, NORMAL_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


def look(count):
    facts = {"name": "winter", "transport": "tls", "started": time.time() - 5, "pid": 7}
    containers = [CONTAINER | {"index": index} for index in range(count)]
    return Look({"facts": facts, "containers": containers}, {0: RATES})


def drawn(what, width=80):
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(what)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_row_has_what_is_known():
    assert cells(CONTAINER, RATES) == ["3", "10", "running", "33", "1.0 MiB", "5", "13", "1", "1"]
    bare = {"index": 3, "pid": 0, "state": "starting"}
    assert cells(bare, None) == ["3", "0", "starting", "-", "-", "-", "-", "-", "-"]


def test_rates_are_those_of_the_container():
    titles, rows = columns(look(3))
    assert titles == list(TITLES)
    assert [row[3] for row in rows] == ["33", "-", "-"]


def test_a_view_has_a_line_for_each_container():
    first, titles, *lines, last = drawn(view(look(4), height=24))
    assert first.startswith("winter: 4 of 4")
    assert titles.split()[:3] == ["#", "pid", "state"]
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "3"]
    assert last == ""


def on_hosts(count, **states):
    found = look(count)
    hosts = [{"name": name, "state": state, "problem": None} for name, state in states.items()]
    for container in found.containers:
        container["host"] = hosts[container["index"] % len(hosts)]["name"]
    found.status["facts"]["hosts"] = hosts
    return found


def test_containers_on_several_hosts_are_together_with_those_of_their_host():
    titles, rows = columns(on_hosts(4, b="running", a="running"))
    assert titles == ["host", *TITLES]
    assert [row[:2] for row in rows] == [["b", "0"], ["b", "2"], ["a", "1"], ["a", "3"]]
    assert [row[4] for row in rows] == ["33", "-", "-", "-"]


def test_hosts_that_do_not_run_are_below_the_heading():
    found = on_hosts(22, a="running", b="lost")
    found.status["facts"]["hosts"][1]["problem"] = "no heartbeat"
    first, second, titles, *lines, last = drawn(view(found, height=24))
    assert first.startswith("winter: 22 of 22 containers running on 1 of 2 hosts, tls")
    assert second == "b: lost: no heartbeat"
    assert titles.split()[:4] == ["host", "#", "pid", "state"]
    assert len(lines) == 20
    assert last == "and 2 more, for which this terminal is too small"


def test_a_view_is_as_high_as_the_terminal():
    assert drawn(view(look(21), height=24))[-1] == ""
    lines = drawn(view(look(22), height=24))
    assert len(lines) == 24
    assert lines[-1] == "and 1 more, for which this terminal is too small"
    assert len(drawn(view(look(22), height=1))) == 4


def test_a_view_in_a_narrow_terminal_has_no_more_lines():
    assert len(drawn(view(look(4), height=24), width=30)) == 7


def test_what_could_confuse_a_terminal_is_escaped():
    found = look(1)
    found.containers[0]["state"] = "\x1b[2J"
    assert not any("\x1b" in line for line in drawn(view(found, height=24)))


class Terminal:
    """A pseudo-terminal in which the command runs, with a group of its own for signals."""

    def __init__(self, *arguments):
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.settings = termios.tcgetattr(theirs)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aiomas.cli", "cluster", "top", *arguments],
            env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads of its own
        )
        self.theirs = theirs
        self.seen = ""

    def read_until(self, done):
        deadline = time.monotonic() + 15
        while not done():
            assert time.monotonic() < deadline, self.seen
            if select.select([self.ours], [], [], 0.05)[0]:
                self.seen += os.read(self.ours, 4096).decode()

    def end(self):
        """Return the exit code, and what was seen after the screen was left."""
        self.read_until(lambda: self.process.poll() is not None)
        while select.select([self.ours], [], [], 0)[0]:
            self.seen += os.read(self.ours, 4096).decode()
        assert self.seen.count(ALTERNATE_SCREEN) == self.seen.count(NORMAL_SCREEN) == 1
        assert termios.tcgetattr(self.theirs) == self.settings
        return self.process.returncode, self.seen.rpartition(NORMAL_SCREEN)[2]

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def supervisor(supervise):
    return supervise("winter")


@pytest.fixture
def terminal(supervisor):
    terminal = Terminal("--interval", "0.1")
    try:
        terminal.read_until(lambda: supervisor.asked > 2)
        yield terminal
    finally:
        terminal.close()


def test_q_leaves_the_screen(terminal):
    assert "2 of 2 containers running" in terminal.seen
    os.write(terminal.ours, b"xq")
    assert terminal.end() == (0, "")


def test_ctrl_c_leaves_the_screen(terminal):
    os.write(terminal.ours, b"\x03")
    assert terminal.end() == (0, "")


def test_the_end_of_the_run_is_said(terminal, supervisor):
    supervisor.end()
    code, rest = terminal.end()
    assert (code, rest.strip()) == (0, "cluster 'winter' has ended")
