"""Logs of several hosts are printed in order, whole lines of them, until the run ends."""

from __future__ import annotations

import asyncio

import pytest

from aiomas.cluster import log_parts, rundir, watched_logs
from aiomas.exceptions import ClusterError


@pytest.fixture(autouse=True)
def no_long_pause(monkeypatch):
    monkeypatch.setattr(watched_logs, "_PAUSE", 0.01)


@pytest.fixture
def supervisor(supervise):
    supervisor = supervise("winter", containers=3)
    supervisor.spread("node1", "node2")
    supervisor.log(0, "a\nb\nc\n")
    supervisor.log(1, "x\r\ny\xe9\nres")
    return supervisor


async def show(index=None, *, lines=2, wait=False):
    async with asyncio.timeout(10):
        await watched_logs.show(rundir.find("winter"), index, lines=lines, wait=wait)


async def test_of_all_have_the_index_in_front(supervisor, capsys):
    await show()
    assert capsys.readouterr() == ("[0] b\n[0] c\n[1] x\n[1] yé\n[1] res\n", "")


@pytest.mark.parametrize(("lines", "text"), [(0, "res\n"), (1, "yé\nres\n"), (9, "x\nyé\nres\n")])
async def test_of_one_are_as_they_are(supervisor, capsys, lines, text):
    await show(1, lines=lines)
    assert capsys.readouterr() == (text, "")


async def test_that_are_long_come_in_parts(supervisor, capsys, monkeypatch):
    monkeypatch.setattr(log_parts, "MOST", 100)
    following = asyncio.create_task(show(2, wait=True))
    while not supervisor.reads:  # noqa: ASYNC110 - it happens in another thread
        await asyncio.sleep(0.005)
    text = "".join(f"{number} {'z' * 33}\n" for number in range(40))
    supervisor.log(2, text)
    out = ""
    while len(out) < len(text):
        await asyncio.sleep(0.01)
        out += capsys.readouterr().out
    assert out == text
    await asyncio.to_thread(supervisor.end)
    await following


async def test_a_line_without_an_end_is_passed_on(supervisor, capsys, monkeypatch):
    monkeypatch.setattr(watched_logs, "_UNBROKEN", 50)
    monkeypatch.setattr(log_parts, "MOST", 40)
    supervisor.log(2, "")
    following = asyncio.create_task(show(2, wait=True))
    while not supervisor.reads:  # noqa: ASYNC110 - it happens in another thread
        await asyncio.sleep(0.005)
    supervisor.log(2, "z" * 200)
    while not capsys.readouterr().out.startswith("z" * 80):  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.01)
    await asyncio.to_thread(supervisor.end)
    await following


async def test_are_followed_until_the_run_ends(supervisor, capsys):
    following = asyncio.create_task(show(lines=1, wait=True))
    out = ""
    while not out.endswith("[1] yé\n"):
        await asyncio.sleep(0.01)
        out += capsys.readouterr().out
    assert out == "[0] c\n[1] yé\n"
    for index, text, seen in ((1, "t\nno end", "[1] rest\n"), (2, "new\n", "[2] new\n")):
        supervisor.log(index, text)
        while not out.endswith(seen):
            await asyncio.sleep(0.01)
            out += capsys.readouterr().out
    await asyncio.to_thread(supervisor.end)
    await following
    out += capsys.readouterr().out
    assert out == "[0] c\n[1] yé\n[1] rest\n[2] new\n[1] no end\n"


async def test_what_cannot_be_read_is_said_once_and_tried_again(supervisor, capsys):
    supervisor.unreadable[1] = "node2 is lost"
    following = asyncio.create_task(show(lines=1, wait=True))
    while supervisor.reads < 30:  # noqa: ASYNC110 - it happens in another thread
        await asyncio.sleep(0.005)
    out, errors = capsys.readouterr()
    assert out == "[0] c\n"
    assert errors == (
        "[1] cannot be read: the supervisor of cluster 'winter' (pid 4711) failed: "
        "LookupError: node2 is lost\n"
    )
    del supervisor.unreadable[1]
    out = ""
    while out != "[1] yé\n":
        await asyncio.sleep(0.01)
        out += capsys.readouterr().out
    await asyncio.to_thread(supervisor.end)
    await following


async def test_what_cannot_be_read_is_an_error_in_the_end(supervisor, capsys):
    supervisor.unreadable[0] = "node1 is lost"
    with pytest.raises(ClusterError, match=r"^1 of 3 logs cannot be read$"):
        await show(lines=1)
    assert capsys.readouterr().out == "[1] yé\n[1] res\n"
    with pytest.raises(ClusterError, match=r"LookupError: node1 is lost$"):
        await show(0)


async def test_of_a_container_that_is_not_there_are_an_error(supervisor):
    supervisor.containers[1]["index"] = 5  # containers may have been taken away
    with pytest.raises(ClusterError, match=r"has 3 containers \(0, 2, 5\), there is no 1$"):
        await show(1)
    supervisor.containers[1]["index"] = 1
    with pytest.raises(ClusterError, match=r"has 3 containers \(0-2\), there is no 3$"):
        await show(3)
