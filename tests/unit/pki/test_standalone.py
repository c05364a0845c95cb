"""A copy of the folder runs with cryptography and click, and nothing else."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NEEDED = ("click", "cryptography", "cffi", "_cffi_backend", "pycparser", "typing_extensions")
"""The two, and what they need themselves."""

RUN = """
import importlib.util, runpy, sys
sys.path.extend(sys.argv[1:3])
del sys.argv[1:3]
assert not importlib.util.find_spec("aiomas")
assert not importlib.util.find_spec("psutil")
runpy.run_module("pki", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "usb").mkdir()
    (tmp_path / "packages").mkdir()
    shutil.copytree(
        ROOT / "pki", tmp_path / "usb" / "pki", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in NEEDED:
        if (spec := importlib.util.find_spec(name)) and spec.origin:
            origin = Path(spec.origin)
            origin = origin.parent if spec.submodule_search_locations else origin
            (tmp_path / "packages" / origin.name).symlink_to(origin)

    def run(*arguments):
        # -I and -S: neither this folder nor what is installed.
        command = [sys.executable, "-I", "-S", "-B", "-c", RUN, tmp_path / "usb"]
        return subprocess.run(
            [*command, tmp_path / "packages", *arguments],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    return run


def test_copy_of_the_folder_makes_certificates(run, tmp_path):
    for line in (
        "init ca --no-passphrase",
        "request node1 --out device",
        "sign device/device.csr --yes",
        "bootstrap test --hosts a,b",
        "check test ca",
    ):
        done = run(*line.split())
        assert done.returncode == 0, done.stderr

    assert (tmp_path / "device" / "device.pem").exists()


def test_no_question_hangs_without_a_terminal(run):
    done = run("init", "ca")

    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1
    assert "--passphrase-file" in done.stderr
