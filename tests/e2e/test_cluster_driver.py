"""What is left of a cluster when its driver, supervisor or fork server is killed: nothing."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from tests.e2e.driver_process import base, drive, ended, kill, until  # noqa: F401 - fixtures

pytestmark = pytest.mark.timeout(90)

# One idle container, one that is busy, and one that the test stops.
RUNNING = """
async def main():
    async with Cluster(3, stop_timeout=0.5, loop="asyncio", hang_timeout=None) as cluster:
        lost = asyncio.Event()
        cluster.on_event(lambda event: event.kind is EventKind.LOST and lost.set())
        events = []
        cluster.on_event(events.append)
        agents = await cluster.spawn_many("driver_agents:Worker", 3)
        hanging = asyncio.ensure_future(agents[0].hang())
        busy = asyncio.ensure_future(agents[1].busy(f"{FOLDER}/busy"))
        while not os.path.exists(f"{FOLDER}/busy"):
            await asyncio.sleep(0.01)
        say(*(info.pid for info in cluster.containers))
        spawning = asyncio.ensure_future(
            cluster.spawn("driver_agents:Stuck", f"{FOLDER}/stuck", placement=0)
        )
        while not os.path.exists(f"{FOLDER}/stuck"):
            await asyncio.sleep(0.01)
        say("ready")
        await lost.wait()
        say("LOST", [str(e.error) for e in events if e.kind is EventKind.LOST])
        for call in (hanging, busy):
            try:
                await call
            except ConnectionError:
                say("ConnectionError")
        calls = [
            lambda: spawning,
            lambda: cluster.spawn("driver_agents:Worker"),
            lambda: cluster.spawn("driver_agents:Worker", placement=1),
            lambda: cluster.status(),
            lambda: cluster.checkpoint(),
        ]
        for call in calls:
            try:
                await call()
            except (ClusterError, ContainerDied) as exc:
                say(type(exc).__name__, str(exc).splitlines()[0])
        say({info.state for info in cluster.containers})
    say("left")

asyncio.run(main())
"""


@pytest.fixture
def running(drive):  # noqa: F811 - a fixture
    """A driver, and the tree of its run."""
    driver = drive(RUNNING)
    pids = [int(pid) for pid in driver.line().split()]
    driver.expect("ready")
    tree = driver.tree(3)
    assert sorted(worker.pid for worker in tree.workers) == sorted(pids)
    psutil.Process(pids[2]).suspend()
    return driver, tree


def wait_until_ended(tree):
    """Make sure that no process of a run is left; those that are ending have no environment."""
    until(lambda: all(map(ended, tree.below_driver)), 1)


def test_a_killed_driver_takes_all_with_it(running):
    driver, tree = running
    kill(tree.driver)
    driver.process.wait()
    driver.wait_until_gone()
    wait_until_ended(tree)


@pytest.mark.parametrize("victims", ["supervisor", "server", "both"])
def test_whatever_is_killed_takes_all_but_the_driver_with_it(running, victims):
    driver, tree = running
    chosen = {
        "supervisor": [tree.supervisor],
        "server": [tree.server],
        "both": [tree.supervisor, tree.server],
    }
    kill(*chosen[victims])
    began = time.monotonic()
    lost = driver.line()
    if victims == "server":
        who = f"The fork server (process {tree.server.pid})"
        why = f"The cluster is gone: {who} was killed by SIGKILL"
    else:
        why = "The cluster is gone: its supervisor was killed by SIGKILL"
    assert lost == f"LOST ['{why}']"
    assert [driver.line(), driver.line()] == ["ConnectionError"] * 2
    # The call that was under way may have heard of its container before.
    assert driver.line().partition(" ")[0] in {"SpawnError", "ContainerDied"}
    over = why.replace("The cluster is gone", "The cluster does not run any more")
    assert [driver.line() for _ in range(4)] == [f"ClusterError {over}"] * 4
    driver.expect("{'died'}")
    driver.expect("left")
    assert driver.end()[0] == 0
    driver.wait_until_gone(began + 5 - time.monotonic())
    wait_until_ended(tree)


def test_what_is_left_when_all_is_killed_at_once_is_swept_by_the_next(running, drive):  # noqa: F811
    driver, tree = running
    kill(tree.driver, tree.supervisor, tree.server)
    driver.process.wait()
    until(lambda: all(map(ended, tree.below_driver)), 5)
    following = drive("""
async def main():
    async with Cluster(1, loop="asyncio") as cluster:
        say(cluster.name, *os.listdir(cluster.directory.parent))

asyncio.run(main())
""")
    name, *others = following.line().split()
    assert others == [name]
    assert following.end()[0] == 0


SLOW_START = """
async def main():
    async with Cluster(1, preload=["slow_import"], loop="asyncio"):
        say("never")

try:
    asyncio.run(main())
except BaseException as exc:
    say(type(exc).__name__, exc)
"""


@pytest.mark.parametrize("victim", ["driver", "supervisor", "server"])
def test_a_kill_in_the_middle_of_the_start(drive, tmp_path, victim):  # noqa: F811
    (tmp_path / "slow_import.py").write_text(
        f"import os, time\nopen({str(tmp_path / 'mark')!r}, 'x').close()\ntime.sleep(60)\n"
    )
    driver = drive(SLOW_START)
    until((tmp_path / "mark").exists)
    tree = driver.tree(0)
    began = time.monotonic()
    kill(getattr(tree, victim))
    if victim == "driver":
        driver.process.wait()
    else:
        kind, _, text = driver.line().partition(" ")
        assert kind == "ClusterError"
        assert "SIGKILL" in text or "signal 9" in text
        assert driver.end()[0] == 0
    driver.wait_until_gone(began + 5 - time.monotonic())
    wait_until_ended(tree)


STOPPED = """
from aiomas.cluster import run

run._MARGIN = 1.0

async def main():
    async with Cluster(1, stop_timeout=0.2, loop="asyncio") as cluster:
        say("ready")
        sys.stdin.readline()
        began = time.monotonic()
        try:
            await cluster.status(timeout=0.5)
        except ClusterError as exc:
            say(exc)
        say(time.monotonic() - began < 10)
        began = time.monotonic()
    say(time.monotonic() - began < 12)

asyncio.run(main())
"""


def test_a_stopped_supervisor_holds_nobody_up_for_ever(drive):  # noqa: F811
    driver = drive(STOPPED, terminal=True)
    driver.expect("ready")
    tree = driver.tree(1)
    tree.supervisor.suspend()
    driver.type(b"\n")
    assert driver.line().startswith("The supervisor has not answered status() within")
    driver.expect("True")
    driver.expect("True")
    assert driver.end()[0] == 0
    driver.wait_until_gone()
    wait_until_ended(tree)


def test_a_stopped_fork_server_does_not_outlive_its_driver(drive):  # noqa: F811
    driver = drive("""
async def main():
    async with Cluster(1, loop="asyncio"):
        say("ready")
        await asyncio.Event().wait()

asyncio.run(main())
""")
    driver.expect("ready")
    tree = driver.tree(1)
    tree.server.suspend()
    kill(tree.driver)
    driver.process.wait()
    driver.wait_until_gone()
    wait_until_ended(tree)


LEAVING = """
async def main(how):
    async with Cluster(2, loop="asyncio") as cluster:
        agent = await cluster.spawn("driver_agents:Tidy", f"{FOLDER}/tidy")
        if how == "_exit":
            os._exit(5)
        if how == "exit":
            sys.exit(6)
        if how == "exception":
            raise LookupError("not found")
        if how == "thread":
            thread = threading.Thread(target=sys.exit)
            thread.start()
            await asyncio.to_thread(thread.join)
            say(await agent.pid() > 0)
        if how == "cancel":
            asyncio.current_task().cancel()
            await asyncio.sleep(60)
        if how == "fork":
            # It has all descriptors of its parent, and lives on.
            if os.fork() == 0:
                time.sleep(30)
                os._exit(0)
            os._exit(7)
        if how == "abandon":
            cluster.__class__.__aexit__ = lambda *_: asyncio.sleep(0)

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("how", "code", "tidy"),
    [
        ("_exit", 5, False),
        ("exit", 6, True),
        ("exception", 1, True),
        ("thread", 0, True),
        ("cancel", 1, True),
        ("abandon", 0, False),
    ],
)
def test_a_driver_that_leaves(drive, tmp_path, how, code, tidy):  # noqa: F811
    driver = drive(LEAVING, how)
    assert driver.end()[0] == code, driver.errors()
    if tidy:
        # Before it ended, all others had.
        assert driver.left() == []
        assert (tmp_path / "tidy").read_text() == "stopping stopped\n"
    driver.wait_until_gone()


def test_a_child_that_outlives_its_driver_does_not_keep_the_run_alive(drive):  # noqa: F811
    driver = drive(LEAVING, "fork")
    assert driver.end()[0] == 7
    [heir] = [p for p in driver.processes() if "driver0.py" in " ".join(p.cmdline())]
    until(lambda: [p.pid for p in driver.processes()] == [heir.pid], 5, driver.left)
    assert list(driver.base.iterdir()) == []
    heir.kill()


BUSY = """
import ctypes
from aiomas.cluster import control

async def main(how):
    control._HEARTBEAT = 0.2
    async with Cluster(1, loop="asyncio", preload=["short_heartbeats"]) as cluster:
        events = []
        cluster.on_event(events.append)
        agent = await cluster.spawn("driver_agents:Worker")
        call = asyncio.ensure_future(agent.sleep(0.1))
        await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        end = time.monotonic() + 2.5
        if how == "python":
            while time.monotonic() < end:
                pass
        elif how == "no other thread runs":
            ctypes.PyDLL(None).usleep(2_500_000)
        else:
            say("stop me")
            await asyncio.sleep(0.5)
        say(await call)
        say(await agent.pid() == cluster.containers[0].pid)
        say(len(await cluster.status()), events)
    say("left")

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("how", ["python", "no other thread runs", "stopped"])
def test_a_driver_that_is_busy_for_many_heartbeats_is_not_taken_for_dead(drive, tmp_path, how):  # noqa: F811
    (tmp_path / "short_heartbeats.py").write_text(
        "from aiomas import Limits\nLimits.__init__.__kwdefaults__['heartbeat'] = 0.2\n"
    )
    driver = drive(BUSY, how)
    if how == "stopped":
        driver.expect("stop me")
        os.kill(driver.pid, signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(driver.pid, signal.SIGCONT)
    driver.expect("0.1")
    driver.expect("True")
    driver.expect("1 []")
    driver.expect("left")
    assert driver.end() == (0, "", "")
