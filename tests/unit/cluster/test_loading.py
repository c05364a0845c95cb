"""What the driver named is found: in modules, and in files that are imported once."""

from __future__ import annotations

import asyncio
import gc
import sys

import pytest

from aiomas import util
from aiomas.cluster.loading import file_of, load
from aiomas.exceptions import ClusterError


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file with a class; what it imports is forgotten at the end."""
    path = tmp_path / "agents.py"
    path.write_text("count = 0\nclass Worker:\n    class Inner: pass\nname = __name__\n")
    before = set(sys.modules)
    yield path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_and_attribute():
    assert load("aiomas.util:run") is util.run
    assert load("aiomas.cluster.loading:load.__name__") == "load"


def test_a_file_and_attribute(file):
    assert load(f"{file}:Worker").__name__ == "Worker"
    assert load(f"{file}:Worker.Inner").__qualname__ == "Worker.Inner"


def test_a_file_is_imported_once_and_not_as_the_main_program(file):
    cls = load(f"{file}:Worker")
    assert load(f"{file}:Worker") is cls
    assert load(f"{file}:name") != "__main__"
    assert sys.modules[cls.__module__].Worker is cls


def test_a_relative_path_is_the_same_file(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert load("agents.py:Worker") is load(f"{file}:Worker")


def test_files_of_the_same_name_are_different_modules(file):
    other = file.parent / "sub" / "agents.py"
    other.parent.mkdir()
    other.write_text("class Worker: other = True\n")
    first = load(f"{file}:Worker")
    assert load(f"{other}:Worker").other
    assert load(f"{file}:Worker") is first


def test_the_file_of_a_module_is_known(file):
    assert file_of(load(f"{file}:Worker").__module__) == file.resolve()
    assert file_of("aiomas.util") is None
    assert file_of("no_such_module") is None
    assert file_of("sys") is None


def test_a_path_may_have_a_colon(tmp_path, file):
    folder = tmp_path / "a:b"
    folder.mkdir()
    (folder / "colon.py").write_text("x = 5\n")
    assert load(f"{folder}/colon.py:x") == 5


def test_a_file_that_is_not_there_is_an_import_error(tmp_path):
    with pytest.raises(ImportError, match=r"no Python file .*nothing\.py"):
        load(f"{tmp_path}/nothing.py:Worker")


def test_a_file_that_fails_is_tried_again(file):
    file.write_text("raise LookupError('at import')")
    for _ in range(2):
        with pytest.raises(LookupError, match="at import"):
            load(f"{file}:Worker")
    file.write_text("class Worker: mended = True\n" + "#" * 100)
    assert load(f"{file}:Worker").mended


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("asyncio.run(main())", RuntimeError),
        ("asyncio.new_event_loop().run_until_complete(main())", RuntimeError),
        ("raise aiomas.exceptions.ClusterError('no')", ClusterError),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine 'main' was never awaited")
@pytest.mark.filterwarnings("ignore:unclosed event loop")
async def test_a_script_that_starts_something_is_told_how_it_is_done(file, program, kind):
    await asyncio.sleep(0)  # as in a container, a loop runs
    file.write_text(
        f"import asyncio, aiomas\nasync def main(): pass\nclass Worker: pass\n{program}\n"
    )
    with pytest.raises(kind) as caught:
        load(f"{file}:Worker")
    [note] = caught.value.__notes__
    assert note.endswith("has to do that below: if __name__ == '__main__':")
    assert str(file) in note
    gc.collect()


@pytest.mark.parametrize(
    "line",
    ["import no_such_module_at_all", "open('/no/such/file')", "raise RuntimeError('no')", "("],
)
def test_other_errors_of_a_file_have_nothing_to_do_with_that(file, line):
    file.write_text(line)
    with pytest.raises((ImportError, OSError, RuntimeError, SyntaxError)) as caught:
        load(f"{file}:Worker")
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize("name", ["", "x", ":x", "m:", "file.py", "agents.py:"])
def test_another_form_is_a_value_error(name, file, monkeypatch):
    monkeypatch.chdir(file.parent)
    with pytest.raises(ValueError, match="is no"):
        load(name)


def test_what_is_not_in_there_is_an_attribute_error(file):
    with pytest.raises(AttributeError):
        load(f"{file}:Nobody")
    with pytest.raises(ModuleNotFoundError):
        load("no_such_module:x")
