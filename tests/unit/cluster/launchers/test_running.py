"""A command is watched: what it says, how it ends, and what it has started."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil
import pytest

from aiomas.cluster.launchers.running import Running
from tests.unit.cluster.fakes import BOUND, until


def run(script):
    return Running(["sh", "-c", script], os.environ)


async def test_it_has_a_stream_of_bytes_and_an_end():
    running = run("read a; echo got $a; exit 3")
    running.sock.setblocking(True)
    running.sock.sendall(b"it\n")
    assert running.sock.recv(100) == b"got it\n"
    assert running.sock.recv(100) == b""
    assert await running.ended == 3
    await running.end()


async def test_only_the_last_lines_of_what_it_says_are_kept_however_much_that_is():
    running = run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done >&2")
    assert await running.how_it_ended(BOUND) == 0
    assert running.said().splitlines() == [f"line {i}" for i in range(19_981, 20_001)]
    await running.end()


async def test_a_long_line_is_cut_and_bytes_that_are_no_text_are_shown():
    running = run(r"""head -c 100000 /dev/zero | tr '\0' x >&2; printf '\377end' >&2""")
    await running.ended
    assert len(running.said()) == 4096
    assert running.said().endswith("x\ufffdend")
    await running.end()


async def test_what_it_has_said_is_known_while_it_runs():
    running = run("echo now >&2; exec sleep 60")  # it does not end with its stream
    await until(lambda: running.said() == "now")
    assert await running.how_it_ended(0.01) is None
    await running.end()
    assert running.ended.result() == -signal.SIGKILL


async def test_what_it_has_started_ends_with_it():
    running = run("sleep 60 & echo $!")
    running.sock.setblocking(True)
    child = psutil.Process(int(running.sock.recv(100)))
    assert await running.ended == 0
    _, left = psutil.wait_procs([child], BOUND)
    assert not left
    await running.end()


async def test_somebody_who_has_left_keeps_its_words_from_nobody():
    # As the process that shares a connection, which ssh leaves behind.
    running = run("echo said >&2; setsid sleep 60 & echo $!")
    running.sock.setblocking(True)
    child = psutil.Process(int(running.sock.recv(100)))
    try:
        async with asyncio.timeout(BOUND):
            assert await running.ended == 0
        assert running.said() == "said"
    finally:
        child.kill()
        await running.end()


async def test_what_was_handed_over_is_not_ended():
    running = run("read a; exit 3")
    link = running.hand_over({"hostname": "far"})
    await running.end()
    assert not link.ended.done()
    assert link.facts == {"hostname": "far"}
    link.sock.close()
    assert await link.ended == 3


async def test_what_cannot_be_started_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Running([str(tmp_path / "none")], os.environ)
