"""The fixtures for pytest, here and in sessions of pytest that a user could have started."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import aiomas
import aiomas.testing
from aiomas.local_queue import get_queue
from aiomas.testing import fixtures

# Other tests may have imported the module before; as a plugin it would have to come first.
container = fixtures.container
container_options = fixtures.container_options
container_pair = fixtures.container_pair

SEEN: list[str] = []


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": aiomas.testing.VirtualTimeLoop}


class Echo(aiomas.Agent):
    @aiomas.expose
    def echo(self, value):
        return value

    @aiomas.expose
    async def slow(self):
        await asyncio.sleep(0.9)


class TestContainer:
    @pytest.mark.parametrize("number", [1, 2])
    async def test_each_test_has_its_own(self, container, number):
        SEEN.append(container.base_url)
        echo = await container.connect(Echo(container).addr)
        assert await echo.echo(number) == number
        assert len(set(SEEN)) == len(SEEN)

    async def test_others_reach_it_over_a_local_queue(self, container):
        assert container.base_url.startswith("local://")
        async with aiomas.Container.open(get_queue("other")) as other:
            assert await (await other.connect(Echo(container).addr)).echo("x") == "x"

    async def test_a_call_may_end_after_the_test(self, container):
        echo = await container.connect(Echo(container).addr)
        call = echo.slow()
        await asyncio.sleep(0)
        call.cancel()

    async def test_a_test_may_shut_it_down(self, container):
        await container.shutdown()


class TestContainerPair:
    async def test_each_of_them_is_connected_to_the_other(self, container_pair):
        first, second = container_pair
        assert first.base_url != second.base_url
        for one, other in ((first, second), (second, first)):
            [client] = one._pool.clients
            assert client.channel.is_open
            echo = await one.connect(Echo(other).addr)
            assert await echo.echo(1) == 1
            assert one._pool.clients == [client]

    async def test_a_single_one_is_another(self, container, container_pair):
        assert len({container.base_url, *(one.base_url for one in container_pair)}) == 3


class TestOptions:
    @pytest.fixture
    def container_options(self):
        return {"codec": aiomas.MsgPack, "clock": aiomas.ExternalClock("2030-01-01")}

    async def test_they_can_be_overridden(self, container, container_pair):
        for one in (container, *container_pair):
            assert isinstance(one.clock, aiomas.ExternalClock)
        first, second = container_pair
        assert await (await first.connect(Echo(second).addr)).echo(b"bytes") == b"bytes"


async def test_there_are_no_options_by_default(container_options):
    assert container_options == {}


# --- sessions of their own ------------------------------------------------------------------------

CONFTEST = 'pytest_plugins = ["aiomas.testing.fixtures"]\n'
GOOD = """
import asyncio
import aiomas

class Echo(aiomas.Agent):
    @aiomas.expose
    def echo(self, value):
        return value

async def test_one(container):
    echo = await container.connect(Echo(container).addr)
    assert await echo.echo("x") == "x"

async def test_two(container_pair):
    first, second = container_pair
    echo = await first.connect(Echo(second).addr)
    assert await echo.echo("x") == "x"
"""
BAD = """
import asyncio
import aiomas

calls = []

class Slow(aiomas.Agent):
    @aiomas.expose
    async def work(self):
        await asyncio.Event().wait()

async def call(container, addr):
    slow = await container.connect(addr)
    calls.append(slow.work())
    await asyncio.sleep(0.001)

async def test_one(container):
    await call(container, Slow(container).addr)

async def test_two(container_pair):
    first, second = container_pair
    await call(first, Slow(second).addr)

async def test_after_it(container):
    pass
"""
VIRTUAL = """
import asyncio
import aiomas.testing
import pytest

@pytest.fixture
def container_options():
    return {"clock": aiomas.testing.VirtualClock("2030-01-01")}

async def test_time(container):
    assert container.clock.time() == 0
    await container.clock.sleep(86_400)
    assert str(container.clock.utcnow().date()) == "2030-01-02"
    assert isinstance(asyncio.get_running_loop(), aiomas.testing.VirtualTimeLoop)
"""
VIRTUAL_ANYIO = """
import aiomas.testing
import pytest

pytest_plugins = ["aiomas.testing.fixtures"]

@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": aiomas.testing.VirtualTimeLoop}
"""
VIRTUAL_PYTEST_ASYNCIO = """
import aiomas.testing

pytest_plugins = ["aiomas.testing.fixtures"]

def pytest_asyncio_loop_factories(config, item):
    return {"virtual": aiomas.testing.VirtualTimeLoop}
"""
VIRTUAL_CONFTESTS = {"anyio": VIRTUAL_ANYIO, "pytest_asyncio": VIRTUAL_PYTEST_ASYNCIO}

PLUGINS = {
    "anyio": ["-p", "anyio", "-o", "anyio_mode=auto", "-p", "no:asyncio"],
    "pytest_asyncio": [
        *("-p", "asyncio", "-o", "asyncio_mode=auto", "-p", "no:anyio"),
        *("-o", "asyncio_default_fixture_loop_scope=function"),
    ],
}


@pytest.fixture(params=PLUGINS)
def plugin(request):
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


def run_pytest(plugin: str, folder: Path, conftest: str, tests: str) -> tuple[int, str]:
    (folder / "conftest.py").write_text(conftest, encoding="utf-8")
    (folder / "test_it.py").write_text(tests, encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-W", "error", "--tb=short", "-c", os.devnull),
            *("--rootdir", str(folder), "-p", "no:cacheprovider", *PLUGINS[plugin], str(folder)),
        ],
        env=os.environ
        | {
            "PYTHONPATH": str(Path(aiomas.__file__).parents[1]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_they_work_in_a_session_of_a_user(plugin, tmp_path):
    code, printed = run_pytest(plugin, tmp_path, CONFTEST, GOOD)
    assert code == 0, printed
    assert "2 passed" in printed


def test_a_call_that_does_not_end_fails_its_test(plugin, tmp_path):
    code, printed = run_pytest(plugin, tmp_path, VIRTUAL_CONFTESTS[plugin], BAD)
    assert code == 1, printed
    assert "3 passed, 2 errors" in printed
    assert printed.count("was still serving calls of agents/0/work") >= 2


def test_time_can_be_virtual(plugin, tmp_path):
    code, printed = run_pytest(plugin, tmp_path, VIRTUAL_CONFTESTS[plugin], VIRTUAL)
    assert code == 0, printed


def test_nothing_but_the_fixtures_needs_pytest():
    code = "import sys, aiomas.testing; sys.exit('pytest' in sys.modules)"
    root = Path(aiomas.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
