"""What every test gets: an event loop, short paths for sockets, and a look at what it left behind.

A test that leaves a process, thread, task, descriptor or file behind, or that made asyncio log an
error, fails at its end. Fixtures that live longer than one test are set up before the look that
the test is compared with, so what they hold does not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

from aiomas import _authorize, _dispatch, _handshake, _protocol

LOOPS = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "debug": ("asyncio", {"use_uvloop": False, "debug": True}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
}
SESSION_VARIABLE = "AIOMAS_TEST_SESSION"
GRACE = 2.0
"""Seconds in which what a test has already told to end may end."""

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--loop",
        choices=sorted(LOOPS),
        default="asyncio",
        help="the event loop that async tests run on; debug: asyncio's, in debug mode",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> None:
    """Let async tests use `no_task_left`: the first of their fixtures, so the last to end."""
    if isinstance(collector, pytest.Module | pytest.Class) and collector.istestfunction(obj, name):
        inner = obj.hypothesis.inner_test if hasattr(obj, "hypothesis") else obj
        if inspect.iscoroutinefunction(inner):
            pytest.mark.usefixtures("no_task_left")(obj)


@pytest.fixture(scope="session")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return LOOPS[request.config.getoption("--loop")]


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let all temporary files of a session, its child processes included, be in one folder."""
    tmp_path_factory.getbasetemp()  # stays where pytest's users look for it
    # Not in TMPDIR, which may be so deep that no socket's path fits below it.
    folder = Path(tempfile.mkdtemp(prefix="aiomas-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session", autouse=True)
def bytecode_of_children(temporary_folder: Path) -> Iterator[None]:
    """Let child processes share bytecode where they may not leave any beside the sources.

    Hundreds of interpreters are started, and each one would compile all of this project again.
    """
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("PYTHONDONTWRITEBYTECODE"):
            folder = temporary_folder / "bytecode"
            folder.mkdir()
            patch.delenv("PYTHONDONTWRITEBYTECODE")
            patch.setenv("PYTHONPYCACHEPREFIX", str(folder))
        yield


@pytest.fixture(scope="session", autouse=True)
def collector_of_garbage() -> Iterator[None]:
    """Let the collector leave alone what lives as long as the session: modules and all tests.

    Tests that let it run would otherwise wait for it to look at a million objects.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def no_orphans() -> Iterator[None]:
    """Fail at the end if a process that a test started, whoever is its parent now, still runs."""
    token = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SESSION_VARIABLE, token)
        yield

    def orphans() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(SESSION_VARIABLE) == token and process.pid != os.getpid():
                    found.append(process)
        return found

    if left := settled(orphans):
        described = "; ".join(map(describe, left))
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        pytest.fail(f"these processes outlived the tests that started them: {described}")


@pytest.fixture(scope="session", autouse=True)
def libuv_is_set_up() -> None:
    """Let libuv open the pipe that it keeps for as long as the process runs."""
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.new_event_loop().close()


@pytest.fixture
def unix_path(temporary_folder: Path) -> Iterator[str]:
    """A path for a Unix socket: in a folder of its own, and short (`tmp_path` may not be)."""
    with tempfile.TemporaryDirectory(dir=temporary_folder, prefix="s") as folder:
        yield f"{folder}/sock"


@pytest.fixture(autouse=True)
def full_logs() -> None:
    """Let the limit of log lines hold for each test, not for all of them together."""
    for log in (
        _authorize.refusals,
        _dispatch.troubles,
        _handshake.bad_clients,
        _protocol.bad_peers,
    ):
        log.clear()


@pytest.fixture(autouse=True)
def no_leftovers(request: pytest.FixtureRequest, temporary_folder: Path) -> Iterator[None]:
    """Fail a test that leaves a process, thread, descriptor, file or logged error behind."""
    if request.node.get_closest_marker("leaves_resources"):
        yield
        return
    before = Holdings.now(temporary_folder)
    with errors_of_asyncio() as errors:
        yield
        left = settled(lambda: Holdings.now(temporary_folder).beyond(before))
    for process in child_processes() - before.processes:  # or later tests would fail, too
        with contextlib.suppress(psutil.Error):
            process.kill()
            process.wait(GRACE)
    left += [f"asyncio logged: {message}" for message in errors]
    if left:
        pytest.fail("the test left behind: " + "; ".join(left))


@pytest.fixture
async def no_task_left(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Fail an async test that leaves a task on its loop behind."""
    before = tasks_of_tests()
    yield
    left = tasks_of_tests() - before
    if left:
        _, left = await asyncio.wait(left, timeout=GRACE)
    if left and not request.node.get_closest_marker("leaves_resources"):
        pytest.fail("the test left tasks behind: " + "; ".join(map(repr, left)))


@dataclass
class Holdings:
    """What this process holds at some moment."""

    processes: set[psutil.Process]
    threads: set[threading.Thread]
    descriptors: set[tuple[int, str]] = field(default_factory=set)
    files: set[str] = field(default_factory=set)

    @classmethod
    def now(cls, folder: Path) -> Holdings:
        return cls(
            processes=child_processes(),
            threads={t for t in threading.enumerate() if not t.name.startswith("pytest_timeout")},
            descriptors=set(open_descriptors()),
            files={entry.path for entry in os.scandir(folder)},
        )

    def beyond(self, before: Holdings) -> list[str]:
        """Describe what is there now and was not there then."""
        return [
            *(f"process {describe(process)}" for process in self.processes - before.processes),
            *(f"thread {thread.name}" for thread in self.threads - before.threads),
            *(f"descriptor {fd} of {what}" for fd, what in self.descriptors - before.descriptors),
            *(f"file {path}" for path in self.files - before.files),
        ]


def tasks_of_tests() -> set[asyncio.Task[Any]]:
    """Return the tasks of the running loop, but for those in which anyio runs the tests."""
    return {
        task
        for task in asyncio.all_tasks()
        if not getattr(task.get_coro(), "__qualname__", "").startswith("TestRunner.")
    }


def child_processes() -> set[psutil.Process]:
    """Return the processes below this one, ended ones that nobody has waited for included."""
    if hasattr(os, "waitid"):  # looks before psutil reads about each process of the machine
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return set()
    return set(psutil.Process().children(recursive=True))


def open_descriptors() -> Iterator[tuple[int, str]]:
    """Yield number and target of each open descriptor, where the system tells (Linux)."""
    # All tests pay for this, twice; with `Path` it takes ten times as long.
    folder = "/proc/self/fd"
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except FileNotFoundError:
        return
    for name in names:
        try:
            yield int(name), os.readlink(f"{folder}/{name}")  # noqa: PTH115
        except OSError:  # the one that listed the folder is closed by now
            continue


def describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} ({' '.join(process.cmdline()) or process.status()})"
    except psutil.Error:
        return str(process.pid)


def settled(leftovers: Callable[[], list[Any]]) -> list[Any]:
    """Return what is left for good: look until nothing is, or until the time of grace is over."""
    deadline = time.monotonic() + GRACE
    while (left := leftovers()) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    return left


@contextlib.contextmanager
def errors_of_asyncio() -> Iterator[list[str]]:
    """Collect what the loops of a test could tell nobody but the log, as "Task was destroyed"."""
    errors: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.append(record.getMessage())

    handler = Collector(logging.ERROR)
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    try:
        yield errors
    finally:
        logger.removeHandler(handler)
