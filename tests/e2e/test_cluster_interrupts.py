"""Ctrl-C: once, all stop in good order; twice, at once; and while a cluster is being started."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.driver_process import base, drive, ended, until  # noqa: F401 - fixtures

pytestmark = pytest.mark.timeout(90)

CTRL_C = b"\x03"
PROGRAM = """
async def main():
    async with Cluster(2, loop="asyncio") as cluster:
        for index in range(2):
            await cluster.spawn("driver_agents:Tidy", f"{FOLDER}/tidy-{index}", float(sys.argv[1]))
        say("ready")
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_ctrl_c_in_a_terminal_stops_all_in_good_order(drive, tmp_path):  # noqa: F811 - a fixture
    driver = drive(PROGRAM, "0.3", terminal=True)
    driver.expect("ready")
    tree = driver.tree(2)
    driver.type(CTRL_C)
    code, output, errors = driver.end()
    # The terminal is nobody's that matters: when the driver ends, all else has.
    assert driver.left() == []
    assert all(map(ended, tree.below_driver))
    assert (code, output) == (-signal.SIGINT, "")
    assert errors.rstrip().endswith("KeyboardInterrupt")
    # Each was stopped once.
    for index in range(2):
        assert (tmp_path / f"tidy-{index}").read_text() == "stopping stopped\n"


def test_a_second_ctrl_c_ends_a_slow_stop_at_once(drive, tmp_path):  # noqa: F811
    driver = drive(PROGRAM, "9", terminal=True)
    driver.expect("ready")
    driver.type(CTRL_C)
    until((tmp_path / "tidy-0").exists)
    driver.type(CTRL_C)
    code, output, errors = driver.end(6)
    assert (code, output) == (-signal.SIGINT, "")
    assert errors.rstrip().endswith("KeyboardInterrupt")
    driver.wait_until_gone()
    for index in range(2):
        assert (tmp_path / f"tidy-{index}").read_text() == "stopping "


@pytest.mark.parametrize("when", ["import", "spawn"])
def test_ctrl_c_during_the_start_or_a_spawn(drive, tmp_path, when):  # noqa: F811
    mark = tmp_path / "mark"
    (tmp_path / "slow_import.py").write_text(
        f"import time\nopen({str(mark)!r}, 'x').close()\ntime.sleep(60)\n"
    )
    driver = drive(
        """
async def main(preload):
    async with Cluster(1, preload=preload, stop_timeout=0.5, loop="asyncio") as cluster:
        await cluster.spawn("driver_agents:Stuck", f"{FOLDER}/mark")

asyncio.run(main(sys.argv[1:]))
""",
        *(["slow_import"] if when == "import" else []),
        terminal=True,
    )
    until(mark.exists)
    driver.type(CTRL_C)
    code, output, errors = driver.end(20)
    assert driver.left() == []
    assert (code, output) == (-signal.SIGINT, "")
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_a_cluster_that_is_cancelled_at_any_moment_leaves_nothing(drive):  # noqa: F811
    # From before there is anything until after there is nothing any more.
    driver = drive(
        """
async def main(rounds):
    for number in range(rounds):
        async def run():
            async with Cluster(1, loop="asyncio"):
                say("inside")

        running = asyncio.ensure_future(run())
        await asyncio.sleep(number * 0.05)
        running.cancel()
        try:
            await running
        except asyncio.CancelledError:
            pass
        assert os.listdir(os.environ["TMPDIR"]) == [], os.listdir(os.environ["TMPDIR"])
        deadline = time.monotonic() + 5  # those that have done their work end in a moment
        while left := [t.name for t in threading.enumerate() if t.name.startswith("aiomas")]:
            assert time.monotonic() < deadline, left
            time.sleep(0.001)
    say("done", len(os.listdir("/proc/self/fd")))

asyncio.run(main(1))
asyncio.run(main(12))
"""
    )
    code, output, errors = driver.end()
    done = [line for line in output.splitlines() if line.startswith("done")]
    assert (code, errors) == (0, ""), errors
    assert len(done) == 2
    assert done[0] == done[1]  # as many descriptors
    assert driver.left() == []
