"""The function that a target names is found and run in a cluster; its result is the exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import pytest

from aiomas.cluster import program
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.naming import importable_name
from aiomas.cluster.program import BadTarget, ProgramFailed, find_main, run
from aiomas.exceptions import SpawnError

SOURCE = """
import sibling

class Worker: pass

async def main(cluster, *args):
    return [cluster, *args]

async def two(cluster, first, second="x"):
    return first

def plain(cluster): pass

class Space:
    @staticmethod
    async def main(cluster): return sibling.number

number = 5
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A current directory with a program; what is imported is forgotten at the end."""
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "plant.py").write_text(SOURCE)
    (tmp_path / "programs" / "sibling.py").write_text("number = 17")
    (tmp_path / "module_here.py").write_text("async def main(cluster): return 3")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


class TestTargets:
    def test_a_file_is_found_with_its_siblings(self, folder):
        main = find_main("programs/plant.py:main", ["a"])
        assert asyncio.run(main("cluster", "a")) == ["cluster", "a"]
        assert sys.path[0] == str(folder / "programs")

    def test_a_module_is_found_in_the_current_directory(self, folder):
        assert asyncio.run(find_main("module_here:main", [])(None)) == 3
        assert sys.path[0] == str(folder)

    def test_a_function_may_be_in_a_class(self):
        assert asyncio.run(find_main("programs/plant.py:Space.main", [])(None)) == 17

    def test_classes_beside_it_can_be_imported_by_other_processes(self, folder):
        find_main("programs/plant.py:main", [])
        [module] = [name for name in sys.modules if name.startswith("__aiomas_plant_")]
        name = importable_name(sys.modules[module].Worker)
        assert name == f"{folder}/programs/plant.py:Worker"

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("plant", "TARGET is module:main or file.py:main, got 'plant'"),
            ("plant.py", "TARGET is"),
            (":main", "TARGET is"),
            ("plant:", "TARGET is"),
            ("nothing.py:main", "there is no file nothing.py"),
            ("programs:main", "there is no main in programs"),
            ("no_such_module:main", "there is no module no_such_module"),
            ("module_here.sub:main", "there is no module module_here.sub"),
            ("no_such.sub:main", "there is no module no_such.sub"),
            ("programs/plant.py:nobody", "there is no nobody in programs/plant.py"),
            ("programs/plant.py:number", "number in programs/plant.py is no coroutine function"),
            ("programs/plant.py:plain", "is no coroutine function"),
            ("programs/plant.py:Worker", "is no coroutine function"),
            ("programs/plant.py:two", r"which takes \(cluster, first, second='x'\): missing"),
        ],
    )
    def test_what_is_no_program_is_refused(self, target, message):
        with pytest.raises(BadTarget, match=message):
            find_main(target, [])

    def test_arguments_that_it_does_not_take_are_refused(self):
        find_main("programs/plant.py:two", ["1", "2"])
        with pytest.raises(BadTarget, match="too many positional arguments"):
            find_main("programs/plant.py:two", ["1", "2", "3"])

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("import no_such_module", "broken.py: ModuleNotFoundError: No module named"),
            ("1 / 0", "broken.py: ZeroDivisionError: division by zero"),
            ("def", "broken.py: SyntaxError: invalid syntax"),
            ("import sys; sys.nothing", "broken.py: AttributeError: module 'sys'"),
        ],
    )
    def test_a_program_that_cannot_be_imported_says_why(self, folder, source, message):
        (folder / "broken.py").write_text(source)
        for target in ("broken.py:main", "broken:main"):
            with pytest.raises(ProgramFailed, match=message.replace(".py", r"(\.py)?")) as caught:
                find_main(target, [])
            assert caught.value.__cause__ is not None


class FakeCluster:
    def __init__(self, **options):
        if "bad" in options:
            raise ValueError("bad must be good")
        if options.get("name") == "bad":
            raise ValueError("name must be good")
        self.options = options
        self.state = "made"

    def on_event(self, callback):
        pass

    async def __aenter__(self):
        if "broken" in self.options:
            raise OSError(98, "Address in use", "/run/x")
        self.state = "entered"
        return self

    async def __aexit__(self, *exc_info):
        await asyncio.sleep(0)
        self.state = "left"


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(program, "Cluster", FakeCluster)


async def no_program(cluster):
    pytest.fail("it was run")


class TestRunning:
    def test_the_program_gets_the_cluster_and_its_arguments(self):
        seen = []

        async def main(cluster, *args):
            seen.append((cluster, cluster.state, args))

        assert run(main, ["a", "b"], {"containers": 3}) == 0
        [(cluster, state, arguments)] = seen
        assert (state, arguments) == ("entered", ("a", "b"))
        assert (cluster.options, cluster.state) == ({"containers": 3}, "left")

    @pytest.mark.parametrize(
        ("result", "code"),
        [
            (None, 0),
            (0, 0),
            (3, 3),
            (255, 255),
            (256, 255),
            (-1, 255),
            (True, 0),
            (2.0, 0),
            ("1", 0),
        ],
    )
    def test_an_integer_is_the_exit_code(self, result, code):
        async def main(cluster):
            return result

        assert run(main, [], {}) == code

    def test_an_error_of_the_program_is_one_line_with_its_kind(self):
        clusters = []

        async def main(cluster):
            clusters.append(cluster)
            raise LookupError("no\nsuch thing")

        with pytest.raises(ProgramFailed, match=r"^LookupError: no such thing$") as caught:
            run(main, [], {})
        assert isinstance(caught.value.__cause__, LookupError)
        assert clusters[0].state == "left"

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (KeyError("x"), "KeyError: 'x'"),
            (AssertionError(), "AssertionError"),
            (asyncio.CancelledError(), "CancelledError"),
            (ExceptionGroup("many", [ExceptionGroup("a", [ValueError("1")])]), "ValueError: 1"),
            (
                SpawnError("Agent 1:\nTraceback (x):\n  y\nTypeError: z"),
                "SpawnError: Agent 1: TypeError: z",
            ),
        ],
        ids=repr,
    )
    def test_errors_are_described(self, error, text):
        async def main(cluster):
            raise error

        with pytest.raises(ProgramFailed) as caught:
            run(main, [], {})
        assert str(caught.value) == text

    def test_a_cluster_that_does_not_start_says_why(self):
        with pytest.raises(ProgramFailed, match=r"^OSError: /run/x: Address in use$"):
            run(find_main("module_here:main", []), [], {"broken": True})

    def test_a_file_has_hosts_and_further_options(self, folder):
        seen = []

        async def main(cluster):
            seen.append(cluster.options)

        file = folder / "cluster.toml"
        file.write_text("hosts = ['a']\n[cluster]\nlease = 5\nseed = 1\nname = 'x'")
        assert run(main, [], {"lease": 7.0, "containers": 3}, file) == 0
        assert seen[0].pop("hosts") == (HostSpec("a"),)
        assert seen == [{"lease": 7.0, "containers": 3, "seed": 1, "name": "x"}]

    def test_what_is_wrong_in_a_file_is_refused_with_its_line(self, folder):
        file = folder / "cluster.toml"
        file.write_text("hosts = ['a']\n\n[clusters]")
        with pytest.raises(BadTarget, match=r"cluster.toml, line 3: clusters is not known"):
            run(no_program, [], {}, file)
        file.write_text("hosts = ['a']\n[cluster]\nname = 'bad'")
        with pytest.raises(BadTarget, match=r"cluster.toml, line 3: cluster.name must be good$"):
            run(no_program, [], {}, file)
        with pytest.raises(BadTarget, match=r"^name must be good$"):
            run(no_program, [], {"name": "bad"}, file)

    def test_a_bad_option_is_refused(self):
        with pytest.raises(BadTarget, match=r"^bad must be good$"):
            run(find_main("module_here:main", []), [], {"bad": True})

    def test_the_program_can_exit(self):
        async def main(cluster):
            sys.exit(4)

        with pytest.raises(SystemExit, match="4"):
            run(main, [], {})

    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str
    )
    def test_an_interrupt_stops_the_cluster(self, number, code, capsys):
        clusters = []

        async def main(cluster):
            clusters.append(cluster)
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()

        before = signal.getsignal(number)
        assert run(main, [], {}) == code
        assert clusters[0].state == "left"
        assert capsys.readouterr().err == "stopping; press Ctrl-C again to end at once\n"
        assert signal.getsignal(number) is before

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
    def test_a_second_one_ends_a_slow_stop(self, number, monkeypatch):
        stopping: list[Any] = []

        async def stop_slowly(*_):
            stopping.append(asyncio.current_task())
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()

        async def main(cluster):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

        monkeypatch.setattr(FakeCluster, "__aexit__", stop_slowly)
        assert run(main, [], {}) == 130
        assert stopping[0].done()

    def test_a_program_that_goes_on_after_an_interrupt_has_its_exit_code(self):
        async def main(cluster):
            os.kill(os.getpid(), signal.SIGTERM)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return 7

        assert run(main, [], {}) == 7

    def test_an_interrupt_that_is_ignored_stays_so(self, monkeypatch):
        async def main(cluster):
            os.kill(os.getpid(), signal.SIGINT)
            return 3

        former = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            assert run(main, [], {}) == 3
        finally:
            signal.signal(signal.SIGINT, former)
