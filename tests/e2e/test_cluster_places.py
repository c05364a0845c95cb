"""Drivers in unusual places: threads, closed streams, scripts without a file; and misuse."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from aiomas.cluster import Cluster, ClusterError
from tests.e2e.driver_process import PRELUDE, base, drive  # noqa: F401 - fixtures

pytestmark = pytest.mark.timeout(90)

ONE_CALL = """
async def main():
    async with Cluster(1, loop="asyncio") as cluster:
        agent = await cluster.spawn("driver_agents:Worker")
        assert await agent.pid() == cluster.containers[0].pid
        assert len(await cluster.status()) == 1
    say("done")

"""
RUN = ONE_CALL + "asyncio.run(main())\n"


def check(driver, *lines: str) -> None:
    """Make sure that it prints nothing but these lines, and leaves nothing."""
    code, output, errors = driver.end()
    assert (code, output.splitlines(), errors) == (0, list(lines or ["done"]), "")
    assert driver.left() == []


def test_on_uvloop(drive):  # noqa: F811 - a fixture
    pytest.importorskip("uvloop")
    check(
        drive(f"""
import uvloop
{ONE_CALL}
uvloop.run(main())
if sys.version_info < (3, 12):  # later ones deprecate policies
    uvloop.install()
asyncio.run(main())
"""),
        "done",
        "done",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_with_signals_that_are_ignored_or_blocked(drive):  # noqa: F811
    check(
        drive("""
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

async def main():
    async with Cluster(1, loop="asyncio") as cluster:
        lines = open(f"/proc/{cluster.containers[0].pid}/status").read().splitlines()
        say([line.split()[1] for line in lines if line.startswith("SigBlk")])
    say(cluster.containers[0].exit_code)

asyncio.run(main())
"""),
        "['0000000000000000']",
        "0",
    )


@pytest.mark.parametrize("closed", ["0", "1", "0, 1", "0, 2", "0, 1, 2"])
def test_with_closed_standard_streams(drive, tmp_path, closed):  # noqa: F811
    mark = tmp_path / "mark"
    program = ONE_CALL.replace('say("done")', f"open({str(mark)!r}, 'x').close()")
    driver = drive(f"""
for number in ({closed},):
    os.close(number)
{program}
asyncio.run(main())
""")
    code, _, errors = driver.end()
    assert code == 0, errors
    assert mark.exists()
    assert driver.left() == []


def test_in_a_thread_beside_many_others(drive):  # noqa: F811
    check(
        drive(f"""
{ONE_CALL}
end = threading.Event()
others = [threading.Thread(target=end.wait) for _ in range(50)]
for thread in others:
    thread.start()
driver = threading.Thread(target=asyncio.run, args=(main(),))
driver.start()
driver.join()
end.set()
""")
    )


def test_two_threads_have_a_cluster_each(drive):  # noqa: F811
    check(
        drive(f"""
{ONE_CALL}
drivers = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
for driver in drivers:
    driver.start()
for driver in drivers:
    driver.join()
"""),
        "done",
        "done",
    )


OWN_CLASS = """
import aiomas

class Mine(aiomas.Agent):
    @aiomas.expose
    def seven(self):
        return 7

async def main():
    async with Cluster(1, loop="asyncio") as cluster:
        try:
            agent = await cluster.spawn(Mine)
            say(await agent.seven())
        except ValueError as exc:
            say("ValueError", exc)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_classes_of_a_script(drive, tmp_path):  # noqa: F811
    check(drive(OWN_CLASS), "7")
    (tmp_path / "driver_module.py").write_text(PRELUDE + OWN_CLASS)
    check(drive.interpreter("-m", "driver_module"), "7")


@pytest.mark.parametrize("how", ["-c", "-"])
def test_programs_without_a_file(drive, tmp_path, how):  # noqa: F811
    def run(program):
        if how == "-c":
            return drive.interpreter("-c", program)
        driver = drive.interpreter("-", stdin=subprocess.PIPE)
        with driver.process.stdin as stdin:
            stdin.write(program.encode())
        return driver

    # Containers with another working directory find the modules beside the driver, too.
    (tmp_path / "elsewhere").mkdir()
    elsewhere = RUN.replace("Cluster(1", "Cluster(1, cwd='elsewhere'")
    program = "import os, sys\nsys.path.remove(os.environ['FOLDER'])\n" + PRELUDE
    check(run(program + elsewhere))
    code, output, _ = run(PRELUDE + OWN_CLASS).end()
    assert code == 0
    assert output.startswith("ValueError <class '__main__.Mine'> was typed into an interactive")
    assert "%%writefile" in output


def test_cells_of_a_notebook(drive):  # noqa: F811
    # Each cell is awaited by itself, in a loop that runs all the time.
    check(
        drive("""
import aiomas

cells = [
    "import driver_agents",
    "cluster = await Cluster(2, loop='asyncio').__aenter__()",
    "agents = await cluster.spawn_many(driver_agents.Worker, 2)",
    "say(len({await agent.pid() for agent in agents}))",
    "say(len(set(await cluster.map('pid', agents))))",
    "class Typed(aiomas.Agent): pass",
    '''try:
    await cluster.spawn(Typed)
except ValueError as exc:
    say("typed into" in str(exc))''',
    "say([status['state'] for status in await cluster.status()])",
    "await cluster.__aexit__(None, None, None)",
    "say(os.listdir(os.environ['TMPDIR']))",
]
del sys.modules["__main__"].__file__
loop = asyncio.new_event_loop()
for cell in cells:
    code = compile(cell, "<cell>", "exec", flags=__import__("ast").PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, globals())
    if result is not None:
        loop.run_until_complete(loop.create_task(result))
loop.close()
"""),
        "2",
        "2",
        "True",
        "['running', 'running']",
        "[]",
    )


def test_below_a_temporary_folder_with_a_long_path(drive, tmp_path):  # noqa: F811
    long = tmp_path / ("long" * 30)
    long.mkdir()
    program = RUN.replace("assert len(", "say(cluster.directory)\n        assert len(")
    driver = drive(program, base=long)
    where = driver.line()
    assert len(where) < 100
    check(driver)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.mkdir(0o755), "others may use it"),
        (lambda path: path.symlink_to("/tmp"), "it is a symbolic link"),
        (lambda path: path.touch(), "it is no directory"),
    ],
)
async def test_base_directories_that_cannot_be_trusted_are_refused(
    tmp_path, monkeypatch, make, problem
):
    path = tmp_path / "runs"
    make(path)
    before = path.lstat()
    monkeypatch.setenv("AIOMAS_RUN_DIR", str(path))
    with pytest.raises(ClusterError, match=f"{path} cannot hold .*{problem}"):
        await Cluster(1).__aenter__()
    assert path.lstat().st_mode == before.st_mode


async def test_what_does_not_run_says_so():
    async def each(text):
        calls = [
            lambda: cluster.spawn("driver_agents:Worker"),
            lambda: cluster.spawn_many("driver_agents:Worker", 2),
            lambda: cluster.map("pid", []),
            lambda: cluster.starmap("pid", []),
            cluster.status,
            cluster.checkpoint,
            lambda: cluster.set_time(1),
        ]
        for call in calls:
            async with asyncio.timeout(5):
                with pytest.raises(ClusterError, match=text):
                    await call()
        if "loop" not in text:
            with pytest.raises(ClusterError, match=text):
                cluster.find("somebody")

    cluster = Cluster(1, clock="2020-01-01", loop="asyncio")
    await each("does not run; use it in an 'async with' block")
    assert cluster.directory is None
    async with cluster:
        with pytest.raises(ClusterError, match="started once"):
            await cluster.__aenter__()
        assert (await cluster.status())[0]["state"] == "running"

        # From a loop in another thread: that says so, and nothing hangs.
        await asyncio.to_thread(asyncio.run, each("another event loop"))

        async def leave():
            with pytest.raises(ClusterError, match="another event loop"):
                await cluster.__aexit__(None, None, None)

        await asyncio.to_thread(asyncio.run, leave())
        assert (await cluster.status())[0]["state"] == "running"
    await each("does not run any more: its 'async with' block has ended")
    await asyncio.to_thread(asyncio.run, each("does not run any more"))
    await cluster.__aexit__(None, None, None)  # it is over already
    with pytest.raises(ClusterError, match="started once"):
        await cluster.__aenter__()
    assert [thread.name for thread in threading.enumerate() if "aiomas" in thread.name] == []


async def test_leaving_what_was_never_entered_is_nothing():
    await Cluster(1).__aexit__(None, None, None)
