"""Section 1.7: testing and debugging."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap

import pytest

import aiomas

CONFTEST = """
    import asyncio
    import pytest

    @pytest.fixture
    def loop():
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        yield loop
        loop.close()
"""
PLUGIN = """
    def pytest_pycollect_makeitem(collector, name, obj):
        if collector.funcnamefilter(name) and asyncio.iscoroutinefunction(obj):
            return list(collector._genfunctions(name, obj))

    def pytest_pyfunc_call(pyfuncitem):
        testfunction = pyfuncitem.obj
        if not asyncio.iscoroutinefunction(testfunction):
            return
        funcargs = pyfuncitem.funcargs
        testargs = {}
        for arg in pyfuncitem._fixtureinfo.argnames:
            testargs[arg] = funcargs[arg]
        coro = testfunction(**testargs)
        testargs["loop"].run_until_complete(coro)
        return True
"""
USE_AIOMAS = """
            async with aiomas.Container.open(("127.0.0.1", 0)) as container:
                agent = aiomas.Agent(container)
                assert str(await container.connect(agent.addr)).startswith("AgentProxy")
                assert 0, "onoes!"
"""
EXAMPLES = {
    "naive": """
    import asyncio
    import aiomas

    def test_coro():
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        async def do_test():
    {body}
        loop.run_until_complete(do_test())
    """,
    "fixture": """
    import aiomas

    def test_coro(loop):
        async def do_test():
    {body}
        loop.run_until_complete(do_test())
    """,
    "plugin": """
    import aiomas

    if True:
        async def test_coro(loop):
    {body}
    """,
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_section_1_7_1_testing_coroutines_with_pytest(tmp_path, example):
    conftest = textwrap.dedent(CONFTEST) + textwrap.dedent(PLUGIN if example == "plugin" else "")
    body = textwrap.indent(textwrap.dedent(USE_AIOMAS), 8 * " ")
    test = textwrap.dedent(EXAMPLES[example]).replace("{body}", body)
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_coros.py").write_text(test)

    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:anyio", "-p", "no:cacheprovider", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "onoes!" in ran.stdout
    assert "1 failed" in ran.stdout


def test_section_1_7_asyncios_debug_mode_is_honoured():
    class Callee(aiomas.Agent):
        @aiomas.expose
        def spam(self):
            return "spam"

    async def main():
        assert asyncio.get_running_loop().get_debug()
        async with aiomas.Container.open(("127.0.0.1", 0)) as one:
            callee = Callee(one)
            async with aiomas.Container.open(("127.0.0.1", 0)) as two:
                proxy = await two.connect(callee.addr)
                return await proxy.spam()

    assert asyncio.run(main(), debug=True) == "spam"
