"""Containers that cannot start, and what those that can find around them."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import sys

import psutil
import pytest

from aiomas.cluster import Cluster, ClusterError, ContainerDied, EventKind, RestartPolicy
from tests.e2e.clusters import BOUND, Events
from tests.e2e.fault_agents import Faulty

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Make modules that can be imported by their names."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DRIVER", str(os.getpid()))
    made = []

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        made.append(name)

    yield write
    for name in made:
        sys.modules.pop(name, None)


async def refused(kind, match, **options) -> BaseException:
    """Start a cluster that cannot be started; return the error, when nothing is left."""
    cluster = Cluster(2, loop="asyncio", **options)
    with pytest.raises(kind, match=match) as caught:
        async with cluster:
            pytest.fail("it was started")
    assert psutil.Process().children(recursive=True) == []
    assert cluster.directory is None or not cluster.directory.exists()
    return caught.value


async def test_a_module_of_serializers_that_fails_there(modules):
    modules(
        "picky_serializers",
        "import os\n"
        "print('they are imported')\n"
        "if os.getpid() != int(os.environ['DRIVER']):\n"
        "    raise LookupError('not in a container')\n"
        "from aiomas.codecs import uuid_serializer\n",
    )
    error = await refused(
        ClusterError,
        r"(?s)Container \d \(pid \d+\): Traceback.*line 4.*LookupError: not in a container",
        extra_serializers=["picky_serializers:uuid_serializer"],
    )
    assert "The last lines of its log:\n  they are imported" in str(error)


async def test_a_module_of_serializers_that_ends_the_process(modules):
    modules(
        "deadly_serializers",
        "import os\n"
        "print('they are imported')\n"
        "if os.getpid() != int(os.environ['DRIVER']):\n"
        "    os._exit(3)\n"
        "from aiomas.codecs import uuid_serializer\n",
    )
    error = await refused(
        ContainerDied,
        r"Container \d \(pid \d+\) ended with exit code 3",
        extra_serializers=["deadly_serializers:uuid_serializer"],
    )
    assert isinstance(error, ContainerDied)
    assert error.log == ["they are imported"]
    assert "The last lines of its log:\n  they are imported" in str(error)


async def test_a_preloaded_module_that_starts_a_thread(modules):
    modules(
        "with_a_thread",
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n",
    )
    error = await refused(ClusterError, "with_a_thread", preload=["json", "with_a_thread"])
    assert "2 threads" in str(error)
    assert "do not preload" in str(error)


async def test_a_preloaded_module_that_cannot_be_imported(modules):
    modules("without_it", "import no_such_module_at_all\n")
    error = await refused(ClusterError, "module without_it cannot be", preload=["without_it"])
    assert "No module named 'no_such_module_at_all'" in str(error)


@pytest.mark.parametrize(
    ("option", "value"),
    [("open_files", 2**40), ("open_files", 5), ("memory", 2**20), ("nice", -20)],
)
async def test_what_the_system_does_not_allow(option, value):
    if option == "nice" and os.geteuid() == 0:
        pytest.skip("the superuser may do that")
    error = await refused(ContainerDied, f"{option}={value} is not possible", **{option: value})
    ended, title, reason = str(error).splitlines()
    assert (ended[-23:], title) == (" ended with exit code 1", "The last lines of its log:")
    assert reason.startswith("  aiomas ")


async def test_a_container_sees_what_it_was_started_with(tmp_path):
    options = {
        "env": [{"ONE": "0", "BOTH": "a"}, {"TWO": "1", "BOTH": "b"}],
        "cwd": tmp_path,
        "pin": True,
        "nice": 3,
        "open_files": 200,
        "seed": 7,
        "preload": ["json"],
    }
    cores = sorted(os.sched_getaffinity(0))
    policy = RestartPolicy(backoff=0.05)
    async with Cluster(2, loop="asyncio", restart=policy, **options) as cluster:
        events = Events(cluster)
        agents = [await cluster.spawn(Faulty, respawn=True, placement=n) for n in range(2)]
        found = [await agent.surroundings("ONE", "TWO", "BOTH") for agent in agents]
        assert [f["env"] for f in found] == [("0", None, "a"), (None, "1", "b")]
        for index, f in enumerate(found):
            assert f["cwd"] == str(tmp_path)
            assert f["cores"] == (cores[index % len(cores)],)
            assert f["nice"] == os.nice(0) + 3
            assert f["open_files"] == 200
            assert f["random"] == random.Random(f"7/{index}/0").random()
            assert f["ctrl_c"] == "ends it"
            title = psutil.Process(cluster.containers[index].pid).cmdline()[0]
            assert re.fullmatch(f"aiomas {cluster.name}/{index} *", title)
        with pytest.raises(ConnectionError):
            await agents[0].exit(3)
        await events.get(EventKind.RESTARTED)
        again = await agents[0].surroundings("ONE", "TWO", "BOTH")
        assert again["random"] == random.Random("7/0/1").random()
        assert {**again, "random": 0} == {**found[0], "random": 0}
        assert asyncio.get_running_loop().is_running()


async def test_a_start_that_takes_too_long_says_which_containers(modules):
    modules(
        "slow_in_one",
        "import os, time\n"
        "while os.environ.get('SLOW'):\n"
        "    time.sleep(0.1)\n"
        "from aiomas.codecs import uuid_serializer\n",
    )
    await refused(
        TimeoutError,
        r"Containers (0, )?1 were not ready within start_timeout=3 s",
        env=[{}, {"SLOW": "1"}],
        extra_serializers=["slow_in_one:uuid_serializer"],
        start_timeout=3,
    )


async def test_a_supervisor_that_ends_at_once(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    async with asyncio.timeout(BOUND):
        await refused(ClusterError, "its supervisor ended with exit code 1")
