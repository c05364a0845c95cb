"""A manager in another process: what it starts, what it refuses before it runs, time, the end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

import aiomas
from aiomas import subproc, util
from aiomas.exceptions import RemoteException
from aiomas.subproc import Manager, agent_factory, start

HERE = "tests.unit.test_subproc"
called: list = []


@pytest.fixture(autouse=True)
def nothing_called():
    called.clear()


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let this module be found under its name, and be this one."""
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])


class Spawned(aiomas.Agent):
    def __init__(self, container, *args, **kwargs):
        super().__init__(container)
        self.arguments = [list(args), kwargs]

    @aiomas.expose
    def get_arguments(self):
        return self.arguments

    @aiomas.expose
    def time(self):
        return self.container.clock.time()

    @classmethod
    def create(cls, container, *args):
        called.append("create")
        return cls(container, "created", *args)

    @staticmethod
    async def create_later(container):
        await asyncio.sleep(0)
        return Spawned(container, "created later")

    @classmethod
    def _private(cls, container):
        called.append("private")
        return cls(container)

    @classmethod
    def nothing(cls, container):
        called.append("nothing")

    def method(self):
        called.append("method")


class NoAgent:
    def __init__(self, *args):
        called.append("NoAgent")

    @classmethod
    def create(cls, *args):
        called.append("NoAgent.create")


@agent_factory
def marked(container, *args):
    return Spawned(container, "marked", *args)


@agent_factory
async def marked_coroutine(container):
    return Spawned(container, "marked coroutine")


def unmarked(container, *args):
    called.append("unmarked")
    return Spawned(container)


@pytest.fixture
async def manager(unix_path):
    """A proxy for a manager in this process, and the container that it is reached from."""
    async with (
        aiomas.Container.open(unix_path) as there,
        aiomas.Container.open(unix_path + "2") as here,
    ):
        yield await here.connect(Manager(there).addr)


class TestSpawn:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("Spawned", []),
            ("Spawned.create", ["created"]),
            ("Spawned.create_later", ["created later"]),
            ("marked", ["marked"]),
            ("marked_coroutine", ["marked coroutine"]),
        ],
    )
    async def test_what_makes_agents_is_started(self, manager, unix_path, name, expected):
        proxy, addr = await manager.spawn(f"{HERE}:{name}")
        assert addr == f"ipc://[{unix_path}]/1"
        assert await proxy.get_arguments() == [expected, {}]

    async def test_arguments_are_passed_on(self, manager):
        proxy, addr = await manager.spawn(f"{HERE}:Spawned", 1, "a", key=[2])
        assert await proxy.get_arguments() == [[1, "a"], {"key": [2]}]
        proxy, second = await manager.spawn(f"{HERE}:marked", 3)
        assert await proxy.get_arguments() == [["marked", 3], {}]
        assert addr != second

    @pytest.mark.parametrize(
        ("name", "error"),
        [
            ("builtins:print", "PermissionError.*builtins:print.*refused"),
            ("builtins:exec", "PermissionError"),
            ("os:system", "PermissionError"),
            (f"{HERE}:unmarked", "PermissionError.*agent_factory"),
            (f"{HERE}:NoAgent", "PermissionError"),
            (f"{HERE}:NoAgent.create", "PermissionError"),
            (f"{HERE}:Spawned._private", "PermissionError"),
            (f"{HERE}:Spawned.method", "PermissionError"),
            (f"{HERE}:Spawned.__subclasses__", "PermissionError"),
            (f"{HERE}:Spawned.container", "AttributeError|PermissionError"),
            (f"{HERE}:called", "PermissionError"),
            (f"{HERE}:nothing_here", "AttributeError"),
            ("no_such_module:x", "ModuleNotFoundError"),
            ("nonsense", "ValueError"),
            ("", "ValueError"),
        ],
    )
    async def test_anything_else_is_refused_before_it_is_called(self, manager, name, error, capsys):
        with pytest.raises(RemoteException, match=error):
            await manager.spawn(name, "an argument")
        assert called == []
        assert capsys.readouterr().out == ""

    async def test_what_makes_no_agent_is_an_error(self, manager):
        with pytest.raises(RemoteException, match=r"TypeError.*returned None, which is no agent"):
            await manager.spawn(f"{HERE}:Spawned.nothing")

    async def test_only_allowed_modules_are_even_imported(self, unix_path, tmp_path, monkeypatch):
        (tmp_path / "not_allowed.py").write_text("raise SystemExit('was imported')")
        monkeypatch.syspath_prepend(str(tmp_path))
        async with (
            aiomas.Container.open(unix_path) as there,
            aiomas.Container.open(unix_path + "2") as here,
        ):
            manager = await here.connect(Manager(there, allow=[HERE]).addr)
            proxy, _ = await manager.spawn(f"{HERE}:Spawned")
            assert await proxy.get_arguments() == [[], {}]
            for name in ("not_allowed:Spawned", "aiomas:Agent", f"{HERE}.sub:x", "builtins:print"):
                with pytest.raises(RemoteException, match=f"(?s)PermissionError.*only .*{HERE}"):
                    await manager.spawn(name)
            none = await here.connect(Manager(there, allow=[]).addr)
            with pytest.raises(RemoteException, match="PermissionError"):
                await none.spawn(f"{HERE}:Spawned")


class TestTime:
    async def test_an_external_clock_is_set(self, unix_path):
        clock = aiomas.ExternalClock("2020-01-01")
        async with aiomas.Container.open(unix_path, clock=clock) as container:
            manager = await container.connect(Manager(container).addr)
            assert await manager.set_time(5) is None
            assert clock.time() == 5
            with pytest.raises(RemoteException, match="ValueError"):
                await manager.set_time(4)

    async def test_real_time_cannot_be_set(self, manager):
        with pytest.raises(RemoteException, match=r"TypeError.*ExternalClock"):
            await manager.set_time(5)


class TestStart:
    async def test_it_runs_until_it_is_stopped(self, unix_path):
        running = asyncio.create_task(start(unix_path, allow=[HERE], codec=aiomas.MsgPack))
        async with aiomas.Container.open(unix_path + "2", codec=aiomas.MsgPack) as container:
            manager = await container.connect(f"ipc://[{unix_path}]/0", timeout=5)
            assert "Manager" in repr(manager)
            assert len(await manager.spawn(f"{HERE}:Spawned")) == 2
            with pytest.raises(RemoteException, match=r"only \[.* are allowed"):
                await manager.spawn("aiomas:Agent")
            await manager.stop()
            async with asyncio.timeout(5):
                await running
        assert not Path(unix_path).exists()

    async def test_in_a_process_of_its_own(self, unix_path):
        code = """
import sys
import aiomas

aiomas.run(aiomas.subproc.start(sys.argv[1], clock=aiomas.ExternalClock("2020-01-01")))
print("ended")
"""
        with subprocess.Popen(
            [sys.executable, "-c", code, unix_path], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                async with aiomas.Container.open(unix_path + "2") as container:
                    manager = await container.connect(f"ipc://[{unix_path}]/0", timeout=20)
                    proxy, addr = await manager.spawn(f"{HERE}:Spawned", "far")
                    assert await proxy.get_arguments() == [["far"], {}]
                    await manager.set_time(60)
                    assert await (await container.connect(addr)).time() == 60
                    await manager.stop()
                    output, _ = await asyncio.to_thread(process.communicate, timeout=10)
                assert output == "ended\n"
                assert process.returncode == 0
            finally:
                process.kill()
        assert not Path(unix_path).exists()


def test_names_are_exported():
    for name in subproc.__all__:
        assert hasattr(subproc, name)
    assert aiomas.agent_factory is agent_factory
    assert util.obj_from_str("aiomas.subproc:Manager") is Manager


async def test_what_an_allowed_module_has_imported_is_not_allowed(unix_path):
    async with (
        aiomas.Container.open(unix_path) as there,
        aiomas.Container.open(unix_path + "2") as here,
    ):
        manager = await here.connect(Manager(there, allow=[HERE]).addr)
        for name in ("aiomas.subproc.Manager", "Manager", "aiomas.Agent"):
            with pytest.raises(RemoteException, match="PermissionError"):
                await manager.spawn(f"{HERE}:{name}")
        assert len(there.agents) == 1


class OwnManager(Manager):
    """A manager in an allowed module; it would not know which modules are allowed."""


async def test_a_manager_does_not_start_another_one(unix_path):
    async with aiomas.Container.open(unix_path) as container:
        manager = await container.connect(Manager(container, allow=[HERE]).addr)
        with pytest.raises(RemoteException, match="another manager"):
            await manager.spawn(f"{HERE}:OwnManager")
