"""The checks of `tests/conftest.py` would be missed by nobody if they stopped to find anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LEAVES_SOMETHING = {
    "thread": """
        def test_thread():
            threading.Thread(target=threading.Event().wait, daemon=True, name="forgotten").start()
        """,
    "process": """
        def test_process():
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).returncode = 0
        """,
    "descriptor": """
        def test_descriptor():
            held.append(socket.socket())
        """,
    "file": """
        def test_file():
            os.close(tempfile.mkstemp()[0])
        """,
    "task": """
        async def test_task():
            held.append(asyncio.create_task(asyncio.sleep(60)))
        """,
    "asyncio logged": """
        def test_logged():
            logging.getLogger("asyncio").error("Task was destroyed but it is pending!")
        """,
}
LEAVES_NOTHING = """
    import asyncio, logging, os, socket, subprocess, sys, tempfile, threading
    import pytest

    held = []

    @pytest.fixture
    async def server(unix_path):
        server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), unix_path)
        yield unix_path
        server.close()

    async def test_clean(server, tmp_path):
        reader, writer = await asyncio.open_unix_connection(server)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        assert len(server) < 80
        assert len(tempfile.gettempdir()) < 40

    async def test_task_about_to_end():
        asyncio.create_task(asyncio.sleep(0))

    @pytest.mark.leaves_resources(reason="to see the marker at work")
    def test_marked():
        held.append(socket.socket())
    """
KILL_PROCESS = """
    @pytest.fixture(scope="session", autouse=True)
    def end_held(temporary_folder):
        yield
        for item in held:
            if isinstance(item, socket.socket):
                item.close()
    """


def run_tests(folder: Path, *sources: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run pytest on these tests, with this project's settings; return its exit code and output."""
    conftest = (ROOT / "tests/conftest.py").read_text()
    (folder / "conftest.py").write_text(conftest.replace("GRACE = 2.0", "GRACE = 0.1"))
    dedented = ("\n".join(line[4:] for line in source.splitlines()) for source in sources)
    (folder / "test_it.py").write_text("\n".join(dedented))
    settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir=.", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *settings, "--basetemp=temp", *options, "."],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize("loop", ["asyncio", "debug", "uvloop"])
def test_a_clean_test_passes_on_each_loop(tmp_path, loop):
    code, output = run_tests(tmp_path, LEAVES_NOTHING, KILL_PROCESS, options=("--loop", loop))

    assert code == 0, output
    assert "3 passed" in output


def test_each_kind_of_leftover_fails_the_test_that_left_it(tmp_path):
    leaky = ["\n".join(s[4:] for s in src.splitlines()) for src in LEAVES_SOMETHING.values()]

    code, output = run_tests(tmp_path, LEAVES_NOTHING, KILL_PROCESS, *leaky)

    assert code == 1, output
    assert f"{len(LEAVES_SOMETHING)} errors" in output
    assert "3 passed" in output.replace(f"{3 + len(LEAVES_SOMETHING)} passed", "3 passed")
    for kind in LEAVES_SOMETHING:
        assert kind in output


def test_a_process_that_hides_from_its_ancestors_is_found_at_the_end(tmp_path):
    hidden = """
    def test_orphan():
        code = "import subprocess, sys; subprocess.Popen(['sleep', '60'], start_new_session=True)"
        subprocess.run([sys.executable, "-c", code], check=True)
    """

    code, output = run_tests(tmp_path, LEAVES_NOTHING, KILL_PROCESS, hidden)

    assert code == 1, output
    assert "outlived the tests" in output
    assert "sleep 60" in output
