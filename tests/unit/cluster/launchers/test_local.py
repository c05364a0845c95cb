"""A supervisor is started on this machine, and how it ended is known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from aiomas.cluster.control import Host
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.launchers.local import LocalLauncher
from tests.unit.cluster.fakes import BOUND

ROOT = Path(__file__).parents[4]
HERE = HostSpec("localhost")


async def test_it_answers_and_ends_with_its_stream():
    host = Host(print, print)
    await host.launch(LocalLauncher(), HERE, BOUND, lambda: None)
    link = host._link
    assert link is not None
    try:
        assert list(await host.call("status", timeout=BOUND)) == []
        [child] = psutil.Process().children()
        assert os.getsid(child.pid) == child.pid  # Ctrl-C does not reach it
    finally:
        await host.close(BOUND)
    assert await link.ended == 0


async def test_it_can_be_killed():
    link = await LocalLauncher().launch(HERE, BOUND)
    link.kill()
    assert await link.ended == -signal.SIGKILL
    link.kill()
    link.sock.close()


async def test_one_that_cannot_be_started_leaves_nothing(monkeypatch):
    def fail(*_args, **_options):
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(OSError, match="no more processes"):
        await LocalLauncher().launch(HERE, BOUND)


# Importing comes first: where the working directory was removed, CPython 3.13.0 cannot.
PROBE = """
import asyncio, json, os, sys
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.launchers import local
async def probe():
    local._BOOT = local._BOOT.partition("from aiomas")[0] + PRINT
    link = await local.LocalLauncher().launch(HostSpec('localhost'), 10.0)
    await link.ended
    link.sock.close()

PRINT = '''
import os, sys, warnings
found = {
    "path": sys.path, "argv": sys.argv, "dev": sys.flags.dev_mode, "optimize": sys.flags.optimize,
    "warnings": sys.warnoptions, "x": sys._xoptions,
    "passphrase": "AIOMAS_PKI_PASSPHRASE" in os.environ,
}
print(json.dumps(found), flush=True)
'''
"""


def probe(folder, *options, before="", env=()):
    """Return what a supervisor finds whose driver runs in *folder*, and its standard error."""
    script = f"{PROBE}\n{before}\nasyncio.run(probe())\n"
    done = subprocess.run(
        [sys.executable, *options, "-c", script, "an argument"],
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **dict(env)},
        capture_output=True,
        timeout=BOUND,
    )
    return json.loads(done.stdout), done.stderr.decode()


def test_nothing_in_the_working_directory_is_run(tmp_path):
    for name in ("json", "gc", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("print('run')\nraise SystemExit\n")
    found, errors = probe(tmp_path, "-P")
    assert str(tmp_path) not in found["path"]
    assert errors == ""


def test_the_path_has_names_that_are_good_everywhere(tmp_path):
    before = "import pathlib; sys.path += ['relative', pathlib.Path('/a/path'), b'/bytes', None, 5]"
    found, _ = probe(tmp_path, before=before)
    here = str(tmp_path.resolve())
    assert found["path"][0] == here
    assert found["path"][-2:] == [f"{here}/relative", "/a/path"]


def test_what_is_no_text_may_be_in_the_path(tmp_path):
    found, _ = probe(tmp_path, before="sys.path.append(os.fsdecode(b'/a/\\xff'))")
    assert found["path"][-1] == "/a/\udcff"


def test_a_working_directory_that_was_removed_is_in_no_path(tmp_path):
    folder = tmp_path / "removed"
    folder.mkdir()
    found, _ = probe(folder, before=f"os.rmdir({str(folder)!r})")
    assert "" not in found["path"]
    assert str(folder) not in found["path"]


def test_the_program_has_the_name_of_the_driver_and_none_of_its_arguments(tmp_path):
    found, _ = probe(tmp_path, before="sys.argv[0] = 'plant.py'")
    assert found["argv"] == ["plant.py"]


def test_it_has_the_options_of_the_drivers_interpreter(tmp_path):
    options = ["-OO", "-Xdev", "-Werror::FutureWarning", "-Xint_max_str_digits=9000"]
    found, _ = probe(tmp_path, *options)
    assert found["dev"]
    assert found["optimize"] == 2
    assert "error::FutureWarning" in found["warnings"]
    assert found["x"] == {"dev": True, "int_max_str_digits": "9000"}
    plain, _ = probe(tmp_path)
    assert (plain["dev"], plain["optimize"], plain["x"]) == (False, 0, {})


def test_it_has_no_passphrase(tmp_path):
    found, _ = probe(tmp_path, env={"AIOMAS_PKI_PASSPHRASE": "swordfish"})
    assert not found["passphrase"]
