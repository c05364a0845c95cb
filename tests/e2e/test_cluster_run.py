"""`aiomas cluster run` with real processes: a script's own agents, its exit code, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
BOUND = 30  # seconds
PROGRAM = """
import asyncio
import sys

import aiomas
from sibling import FACTOR


class Worker(aiomas.Agent):
    def __init__(self, container, base):
        super().__init__(container)
        self.base = base
        if base < 0:
            raise ValueError("base cannot be negative")

    @aiomas.expose
    def compute(self, number):
        return self.base + FACTOR * number


async def main(cluster, *numbers):
    workers = await cluster.spawn_many(Worker, [(int(number),) for number in numbers])
    results = await asyncio.gather(*(worker.compute(1) for worker in workers))
    print(results, len(cluster.containers))
    return sum(results) % 100


async def wait(cluster):
    worker = await cluster.spawn(Worker, 1)
    assert await worker.compute(1) == 11
    print(*(container.pid for container in cluster.containers), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit("this file is no script here")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "plant.py").write_text(PROGRAM)
    (tmp_path / "programs" / "sibling.py").write_text("FACTOR = 10\n")
    return tmp_path


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "aiomas.cli", "cluster", "run", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(folder, *arguments):
    """Run a program to its end; return its exit code and what it printed."""
    with start(folder, *arguments) as process:
        try:
            output, errors = process.communicate(timeout=BOUND)
        except BaseException:
            process.kill()
            raise
    return process.returncode, output, errors


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_agents_of_a_script_and_its_siblings_work(folder, transport):
    target = "programs/plant.py:main"
    code, output, errors = run(folder, target, "-n2", "--transport", transport, "--", "1", "2", "3")
    assert (code, output, errors) == (36, "[11, 12, 13] 2\n", "")


def test_agents_of_a_module_work(folder):
    code, output, errors = run(folder / "programs", "plant:main", "-n1", "5")
    assert (code, output, errors) == (15, "[15] 1\n", "")


def test_an_agent_that_cannot_be_made_is_one_line(folder):
    code, output, errors = run(folder, "programs/plant.py:main", "-n1", "--", "-1")
    assert (code, output) == (1, "")
    [line] = errors.splitlines()
    assert line.startswith("Error: SpawnError: Agent number 0")
    assert "ValueError: base cannot be negative (see where" in line


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str)
def test_a_signal_stops_all_processes(folder, number, code):
    with start(folder, "programs/plant.py:wait", "-n2") as process:
        try:
            workers = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
            assert len(workers) == 2
            # As the terminal does it: all processes in the foreground get it.
            os.killpg(process.pid, number)
            output, errors = process.communicate(timeout=BOUND)
        except BaseException:
            process.kill()
            raise
    assert (process.returncode, output, errors) == (
        code,
        "",
        "stopping; press Ctrl-C again to end at once\n",
    )
    assert psutil.wait_procs(workers, timeout=5)[1] == []
