"""Hosts that are none: interpreters on this machine, with another aiomas or without any."""

from __future__ import annotations

import os
import stat
import sys
import textwrap
from pathlib import Path

from aiomas._hello import VERSION
from aiomas.cluster.boot import CONTROL_VERSION

TELLING = """
def main_over_pipes(incoming, outgoing):
    import json, os, sys
    told = {
        "path": sys.path, "argv": sys.argv, "env": dict(os.environ), "cwd": os.getcwd(),
        "fds": [os.readlink("/proc/self/fd/%d" % fd) for fd in range(3)],
        "inheritable": [os.get_inheritable(fd) for fd in (incoming, outgoing)],
    }
    print("printed", flush=True)
    os.read(incoming, 100)  # a supervisor does not speak first either
    os.write(outgoing, json.dumps(told).encode() + b"\\n")
    os.write(outgoing, os.read(incoming, 100))
"""
"""A supervisor that tells how it was started when it is asked, and then repeats what it reads."""


def executable(path: Path, text: str) -> str:
    """Write a program for the shell, and return its path."""
    path.write_text(f"#!/bin/sh\n{textwrap.dedent(text)}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def bare_python(folder: Path) -> str:
    """Return the path of an interpreter that has the standard library only."""
    return executable(folder / "bare-python", f'exec "{sys.executable}" -I -S "$@"\n')


def other_aiomas(
    folder: Path,
    version: str,
    control: int | None = CONTROL_VERSION,
    program: str = TELLING,
    wire: int = VERSION,
) -> str:
    """Make another aiomas in *folder*, which a host has to have as its working directory."""
    package = folder / "aiomas"
    (package / "cluster").mkdir(parents=True)
    (package / "__init__.py").write_text(f"__version__ = {version!r}\n")
    (package / "_hello.py").write_text(f"VERSION = {wire}\n")
    (package / "cluster" / "__init__.py").touch()
    (package / "cluster" / "basedir.py").write_text("bases = lambda: []\n")
    number = "" if control is None else f"CONTROL_VERSION = {control}\n"
    (package / "cluster" / "boot.py").write_text(number + program)
    return os.fspath(folder)


def old_aiomas(folder: Path, version: str) -> str:
    """Make one in *folder* that has no clusters, and cannot even be imported."""
    (folder / "aiomas").mkdir()
    (folder / "aiomas" / "__init__.py").write_text("raise SystemError('too new a Python')\n")
    metadata = folder / f"aiomas-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: aiomas\nVersion: {version}\n")
    return os.fspath(folder)
