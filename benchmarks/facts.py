"""What a figure says nothing without: the machine, the versions, the date and the command."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import psutil

import aiomas

PACKAGES = ("msgpack", "uvloop", "cryptography")


def collect(module: str, arguments: list[str]) -> dict[str, Any]:
    """Return facts about this machine and this run.

    Args:
        module: what was run, with ``python -m``.
        arguments: of the command.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", "-m", module, *arguments]),
        "cpu": _cpu(),
        "cores": psutil.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "aiomas": aiomas.__version__,
        **{name: _version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
