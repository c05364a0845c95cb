"""What is checked after each of these tests, beside what `tests/conftest.py` looks for.

Here the parents of processes are killed, so it is not enough to look below this process: who has
the variable of our session is one of ours.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiomas.cluster import basedir

SESSION_VARIABLE = "AIOMAS_TEST_SESSION"
GRACE = 5.0
"""Seconds after which nothing of a cluster is left, whatever has happened to it."""


@pytest.fixture(autouse=True)
def nothing_left_of_clusters(no_leftovers: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test after which a process of this session runs, or a directory of a cluster exists.

    They are all below the temporary folder of the session, wherever the user has theirs.
    """
    monkeypatch.delenv(basedir.VARIABLE, raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    processes, directories = our_processes(), cluster_directories()
    yield
    deadline = time.monotonic() + GRACE
    while True:
        left = {pid: what for pid, what in our_processes().items() if pid not in processes}
        found = [f"process {pid} ({what})" for pid, what in left.items()]
        found += [f"directory {path}" for path in cluster_directories() - directories]
        if not found or time.monotonic() > deadline:
            break
        gc.collect()
        time.sleep(0.02)
    if found:
        pytest.fail("the test left behind: " + "; ".join(found))


def our_processes() -> dict[int, str]:
    """Return all other processes of this session by their ids: state, parent and command line.

    What has ended is found as long as its parent has not waited for it: those of our session are
    our children, or children of others that are found.
    """
    mark = f"{SESSION_VARIABLE}={os.environ[SESSION_VARIABLE]}".encode()
    found: dict[int, str] = {}
    parents: dict[int, int] = {}
    ours = {os.getpid()}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            state, parent = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:2]
            variables = (folder / "environ").read_bytes().split(b"\0") if state != b"Z" else []
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:  # it has ended
            continue
        parents[pid] = int(parent)
        if mark in variables or state == b"Z":
            found[pid] = f"{state.decode()}, child of {int(parent)}: {command or 'a zombie'}"
        if mark in variables:
            ours.add(pid)
    found.pop(os.getpid(), None)
    return {pid: what for pid, what in found.items() if pid in ours or parents[pid] in ours}


def cluster_directories() -> set[Path]:
    """Return the directories in which runs are found, as far as they exist."""
    return {path for path, _ in basedir.bases() if path.exists()}
