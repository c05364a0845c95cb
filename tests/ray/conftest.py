"""Tests on real Ray clusters; they are run where Ray is installed, see ``make test-ray``.

A cluster of three nodes lives as long as the session, on one address.  What a test must not leave
behind there are placement groups and programs of ours; Ray's own idle workers may stay.
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import describe, settled

NODES = 3
CPUS = 2  # of each node
_TIME_LIMIT = 150  # seconds; the first test waits for three nodes of Ray to start
_MEMORY = 80 * 2**20  # bytes of a node's object store, of which nothing is used

collect_ignore_glob = [] if importlib.util.find_spec("ray") else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let warnings in Ray's own code be, and give Ray the time that it takes."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(_TIME_LIMIT))
            item.add_marker(pytest.mark.filterwarnings(r"default:::ray\."))
            # Ray says this about itself, in the name of its caller.
            item.add_marker(pytest.mark.filterwarnings("default:Tip. In future versions of Ray"))


@pytest.fixture(scope="session", autouse=True)
def settings_of_ray(temporary_folder: Path, no_orphans: None) -> Iterator[None]:
    """Let Ray be found by nobody else, quiet, and soon aware of nodes that are lost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_TMPDIR", str(temporary_folder))
        patch.setenv("RAY_AUTH_MODE", "disabled")  # all of it is on the loopback interface
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        for name in ("initial_delay", "period", "timeout"):
            patch.setenv(f"RAY_health_check_{name}_ms", "1000")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        yield


@pytest.fixture(scope="session")
def cluster(settings_of_ray: None) -> Iterator[Any]:
    """A Ray cluster of three nodes with two CPUs each; nothing is connected to it."""
    from ray.cluster_utils import Cluster

    made = Cluster()
    try:
        for _ in range(NODES):
            add_node(made)
        yield made
    finally:
        made.shutdown()


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=CPUS, object_store_memory=_MEMORY, include_dashboard=False)


@pytest.fixture(autouse=True)
def no_leftovers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a program or a thread of ours behind; Ray leaves many."""
    yield
    left = [describe(process) for process in settled(programs)]
    left += [thread.name for thread in settled(threads)]
    if left:
        pytest.fail("the test left behind: " + "; ".join(left))


def programs() -> list[psutil.Process]:
    """Return all programs that actors have started, and what these have started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if "exec(eval(io.open(0" in command or command.startswith("aiomas "):
                found.append(process)
    return found


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("aiomas")]
